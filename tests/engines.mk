# The engines that try to refute walsup's promises, systematically instead of by luck. Each prints what it
# looked at, fails when that is nothing, and has a control: the same on something broken, where it has to
# find a violation.

# What the explorer's steps are made of: walsup's file operations, its looks at the wal-index, its clocks.
STEP_WRAPS := open write fsync renameat2 unlink mkdir session_index clk_mono_ms clk_mono_us nanosleep
STEPS_O := $(patsubst %,$(OUT)/tests/explorer/%.o,steps wraps world actions)
WORLD_O := $(OUT)/tests/explorer/world.o $(OUT)/tests/explorer/actions.o

ENGINE_LINK = $(Q)mkdir -p $(@D) && $(call link,$^,$@)

EXPLORER := $(OUT)/engines/explorer
$(EXPLORER): WRAP_FLAGS += $(STEP_WRAPS:%=-Wl,--wrap=%)
$(EXPLORER): $(OUT)/tests/explorer/explorer.o $(STEPS_O) $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(ENGINE_LINK)
