# The engines that try to refute walsup's promises, systematically instead of by luck. Each prints what it
# looked at, fails when that is nothing, and has a control: the same on something broken, where it has to
# find a violation.

# What the explorer's steps are made of: walsup's file operations, its looks at the wal-index, its clocks.
STEP_WRAPS := open write fsync renameat2 unlink mkdir session_index clk_mono_ms clk_mono_us clk_real_ms nanosleep usleep
STEPS_O := $(patsubst %,$(OUT)/tests/explorer/%.o,steps wraps world actions ops)

ENGINE_LINK = $(Q)mkdir -p $(@D) && $(call link,$^,$@)

EXPLORER := $(OUT)/engines/explorer
$(EXPLORER): WRAP_FLAGS += $(STEP_WRAPS:%=-Wl,--wrap=%)
$(EXPLORER): $(OUT)/tests/explorer/explorer.o $(STEPS_O) $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(ENGINE_LINK)

# ... and where memory comes from, which may fail as well
MEMORY_WRAPS := malloc calloc realloc util_alloc util_zalloc util_realloc
FAILNTH := $(OUT)/engines/failnth
$(FAILNTH): WRAP_FLAGS += $(STEP_WRAPS:%=-Wl,--wrap=%) $(MEMORY_WRAPS:%=-Wl,--wrap=%)
$(FAILNTH): $(OUT)/tests/engines/failnth.o $(STEPS_O) $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(ENGINE_LINK)

SCRIPTED := $(OUT)/engines/scripted
$(SCRIPTED): WRAP_FLAGS += $(STEP_WRAPS:%=-Wl,--wrap=%)
$(SCRIPTED): $(OUT)/tests/engines/scripted.o $(STEPS_O) $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(ENGINE_LINK)

RESET_RACE := $(OUT)/engines/reset_race
$(RESET_RACE): WRAP_FLAGS += $(STEP_WRAPS:%=-Wl,--wrap=%)
$(RESET_RACE): $(OUT)/tests/engines/reset_race.o $(STEPS_O) $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(ENGINE_LINK)
