# The engines that try to refute what walsup promises, systematically instead of by luck. Each prints its
# seed and what it looked at, fails when that is nothing, and has a control: the same on something broken,
# where it has to find a violation. `make check` takes a part by the seed, `make torture` everything.
.PHONY: engines explorer failnth kills model races history histories habits sqlite-suite drivers torture torture-asan
COMMA := ,
ENGINE_SEED ?= $(shell date +%s)
# seconds of each mode of what has no end of its own
TORTURE_SECONDS ?= 60

# What the explorer's steps are made of: walsup's file operations, its looks at the wal-index, its clocks;
# and where memory comes from, which may fail as well.
STEP_WRAPS   := open write fsync renameat2 unlink mkdir session_index clk_mono_ms clk_mono_us clk_real_ms \
	nanosleep usleep
MEMORY_WRAPS := malloc calloc realloc util_alloc util_zalloc util_realloc
EXPLORER_O := $(patsubst %,$(OUT)/tests/explorer/%.o,steps wraps world judge apart actions ops)
ENGINES := $(patsubst %,$(OUT)/engines/%,explorer failnth scripted reset_race locks)

engines: $(ENGINES) $(OUT)/engines/history $(OUT)/engines/histories
# without the steps: the clock it moves is the real one's shift. What is asked of the store is counted.
$(OUT)/engines/history: $(OUT)/tests/engines/asked.o
$(OUT)/engines/history: WRAP_FLAGS += $(patsubst %,-Wl$(COMMA)--wrap=store_%,put get list delete head)
$(OUT)/engines/history $(OUT)/engines/histories: $(OUT)/engines/%: $(OUT)/tests/engines/%.o $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@)
$(ENGINES): WRAP_FLAGS += $(STEP_WRAPS:%=-Wl,--wrap=%)
$(OUT)/engines/failnth: WRAP_FLAGS += $(MEMORY_WRAPS:%=-Wl,--wrap=%)
$(OUT)/engines/explorer: $(patsubst %,$(OUT)/tests/explorer/%.o,explorer held files) $(EXPLORER_O) $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@)
$(OUT)/engines/%: $(OUT)/tests/engines/%.o $(EXPLORER_O) $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@)

# every application's action at every step of everything walsup does; an application that is stopped in the
# middle of a statement; files that are removed, replaced and copied in
explorer: $(OUT)/engines/explorer
	$(Q)$< --seed $(ENGINE_SEED) --runs 2000
	$(Q)$< --seed $(ENGINE_SEED) --level 2 --runs 500
	$(Q)$< --seed $(ENGINE_SEED) --level 3 --runs 500
	$(Q)$< --seed $(ENGINE_SEED) --runs 100 --control
	$(Q)$< --seed $(ENGINE_SEED) --level 4 --runs 1000
	$(Q)$< --seed $(ENGINE_SEED) --level 4 --runs 100 --control
	$(Q)$< --seed $(ENGINE_SEED) --level 5 --runs 800
	$(Q)$< --seed $(ENGINE_SEED) --level 5 --runs 100 --control

# the Nth allocation or file operation fails
failnth: $(OUT)/engines/failnth
	$(Q)$< --every 30 --offset $(ENGINE_SEED)
	$(Q)$< --every 30 --offset $(ENGINE_SEED) --control

# kill -9 at a system call
kills: $(OUT)/engines/scripted $(OUT)/engines/history
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/kills.py --seed $(ENGINE_SEED) --points 120
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/kills.py --seed $(ENGINE_SEED) --points 12 --control
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/kills.py --program history --seed $(ENGINE_SEED) --points 50
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/kills.py --program history --seed $(ENGINE_SEED) --points 5 --control

# what people do to databases and their files, with real processes beside a real walsupd
habits: programs
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/habits.py --seed $(ENGINE_SEED) --databases 12 --rounds 3
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/habits.py --seed $(ENGINE_SEED) --databases 6 --rounds 2 --control

# ten days of merging, snapshots and retention, and a ledger that restores are compared with
HISTORY_DAYS ?= 10
history: $(OUT)/engines/history
	$(Q)WALSUP_OUT=$(OUT) HISTORY_DAYS=$(HISTORY_DAYS) tests/engines/history.sh $(ENGINE_SEED)

# random lives of a database, in which verify must find nothing wrong, and what is taken away
HISTORIES ?= 25
histories: $(OUT)/engines/histories
	$(Q)base=$$(mktemp -d /dev/shm/walsup-historiesXXXXXX 2>/dev/null || mktemp -d); \
	$< $$base $(HISTORIES) $(ENGINE_SEED); status=$$?; rm -rf $$base; exit $$status

# every order of events, in a model of SQLite's WAL and of the rules
model:
	$(Q)CC="$(CC)" tests/model/run.sh

# SQLite's WAL-reset bug, and locks that vanish
races: $(OUT)/engines/reset_race $(OUT)/engines/locks
	$(Q)$(OUT)/engines/reset_race
	$(Q)$(OUT)/engines/reset_race --control
	$(Q)$(OUT)/engines/locks 2
	$(Q)$(OUT)/engines/locks 0.5 --control

# SQLite's own tests of its WAL, locks and files, without and with walsupd; by hand: a quarter of an hour, and it
# fetches and builds the distribution's source package. SUITE='--only walcrash*' for some, --fresh for all anew.
sqlite-suite: programs
	$(Q)JOBS=$(JOBS) tests/sqlite-suite/get.sh $(BUILD)/sqlite-suite
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/sqlite-suite/suite.py $(BUILD)/sqlite-suite $(SUITE)

# What programs use SQLite with: is it replicated, or said that it cannot be? By hand: it installs a dozen packages
# from five registries into $(BUILD)/drivers. DRIVERS='--only apsw,turso' for some.
drivers: programs
	$(Q)mkdir -p $(BUILD)/drivers
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/drivers/drivers.py $(BUILD)/drivers --table $(BUILD)/drivers/table.md $(DRIVERS)

# All of it. The power cuts need root and loop devices, and say so when they are skipped.
torture: programs $(ENGINES) $(OUT)/engines/history $(OUT)/helpers/guard_stress
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --all
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --level 2 --runs 30000
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --level 3 --all
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --level 3 --runs 20000
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --runs 5000 --control
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --level 4 --runs 30000
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --level 4 --runs 1000 --control
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --level 5 --runs 20000
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --level 5 --runs 1000 --control
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/habits.py --seed $(ENGINE_SEED) --databases 40 --rounds 8
	$(Q)$(OUT)/engines/failnth
	$(Q)$(OUT)/engines/failnth --control
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/kills.py --all
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/kills.py --seed $(ENGINE_SEED) --points 50 --control
	$(Q)WALSUP_OUT=$(OUT) $(PYTHON) tests/engines/kills.py --program history --all
	$(Q)$(MAKE) --no-print-directory HISTORY_DAYS=60 history
	$(Q)$(MAKE) --no-print-directory HISTORIES=1000 histories
	$(Q)WALSUP_OUT=$(OUT) tests/engines/power.sh 100
	$(Q)CC="$(CC)" tests/model/run.sh all
	$(Q)$(MAKE) --no-print-directory races
	$(Q)$(OUT)/engines/locks $(TORTURE_SECONDS)
	$(Q)$(MAKE) --no-print-directory STRESS_SECONDS=$(TORTURE_SECONDS) stress
	$(Q)WALSUP_FENCE_TRIALS=1000 WALSUP_FENCE_SEED=$(ENGINE_SEED) WALSUP_FAULTS_LONG=1 \
		$(MAKE) --no-print-directory E2E='-s -k "exactly_one or dead_target"' e2e
	$(Q)$(MAKE) --no-print-directory big
	$(Q)$(MAKE) --no-print-directory FLAVOUR=asan torture-asan
	$(Q)echo "torture: seed $(ENGINE_SEED), done"
torture-asan: $(OUT)/engines/failnth $(OUT)/engines/explorer
	$(Q)$(OUT)/engines/failnth --every 4 --offset $(ENGINE_SEED)
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --runs 5000
	$(Q)$(OUT)/engines/explorer --seed $(ENGINE_SEED) --level 3 --runs 5000
