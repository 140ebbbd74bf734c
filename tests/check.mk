# The gates taken together. tests/gates.sh runs them, some side by side, says how long each took, and ends with a line that
# counts them.
#
#   make check       what every commit must pass, in a few minutes
#   make check-all   installs what the tests need, then everything; .ci/run calls this

.PHONY: demo check check-all build stress e2e e2e-smoke analyze analyze-gcc analyze-tidy \
	analyze-cppcheck asan tsan valgrind check-layers check-house house-floor check-promises check-hardening rest

help:
	@sed -n 's/^#: //p' tests/check.mk

#: first
#:   demo            install what is needed, build, replicate a live database and restore it
#:   check-all       install what the tests need, then every gate (.ci/run)
#: building
#:   all             walsupd and walsupctl, in build/$FLAVOUR/
#:   deps, deps-test, deps-deb    Debian packages for building, testing, packaging; only what is missing
#:   install, uninstall           PREFIX, DESTDIR
#:   deb, dist       Debian package, tarball
#:   release         what is published: tarball of the tag, packages, bills of materials, checksums
#:   docs            rewrite what is made from conf.def
#:   clean
#: gates
#:   check           all of the next group
#:   build           everything that is compiled, warnings are errors
#:   check-hardening the programs have what the compiler and linker were asked for
#:   check-layers    who includes whom, who opens what
#:   check-house     long files, lines and functions, circles of files: no more than tests/house.floor says
#:   house-floor     write into it what has become less
#:   check-docs, check-units      documents against conf.def, promises against the tests' names; systemd units
#:   systemd         the units under a real systemd, in namespaces; skipped without root
#:   unit, unit-test_<name>       unit tests, JOBS at a time
#:   corpus          the fuzzers' corpus, replayed
#:   stress          the WAL protocol under hostile applications, and its control
#:   explorer        an application's action, or its stop, at every step of what walsup does; files that are moved
#:   habits          what people do to databases and their files, beside a real walsupd
#:   failnth         the Nth allocation or file operation fails
#:   kills           kill -9 at a system call, and the recovery after it
#:   model           a model of the WAL and of the rules, every order of events (spin)
#:   races           SQLite's WAL-reset bug, locks that vanish
#:   history         ten virtual days of merging, snapshots, retention, against a ledger
#:   rest            sleeping databases cost the loop nothing, counted; REST_MANY=1000
#:   e2e             end-to-end tests; E2E='-k name' for some
#: more
#:   coverage        lines that the unit programs run, by folder, against tests/coverage.floor; COVERAGE_FILES=1
#:   analyze         gcc -fanalyzer, clang-tidy, cppcheck
#:   sandboxed      the end-to-end tests inside the sandbox of walsupd.service
#:   container      the container image: the recipe built by buildah on a debootstrap base, run in namespaces; skipped
#:                  without root. Some minutes; build/container/ keeps base and layers
#:   package        the Debian package, built twice; installed, upgraded, purged under that systemd
#:   asan, tsan, valgrind         unit tests and a few end-to-end tests under each
#:   torture         all that explorer, failnth, kills, model can do, power cuts, long stress, 1000 copied machines,
#:                   big; an hour
#:   sqlite-suite    SQLite's own tests of WAL, locks and files, without and with walsupd; SUITE='--only wal*'. By hand:
#:                   needs tcl-dev, fetches and builds SQLite's source package in build/, a quarter of an hour
#:   drivers         sqlite3, apsw, better-sqlite3, libsql, modernc, ncruces, mattn, xerial, rusqlite, turso in a table. By
#:                   hand: installs them into build/drivers from PyPI, npm, Go, Maven, crates.io; skips what it cannot
#:   stores          s3rver and Ceph's gateway, and any other server: WALSUP_S3_ENDPOINT, _KEY_ID, _SECRET
#:   big             a database of 6 GiB up and back, a PUT beyond 5 GiB; WALSUP_BIG_GIB=6
#:   distros         demo, gates, package in minimal trees of other releases; RELEASES='trixie sid' DISTRO_GATES=check-all
#:   arch            arm64, armhf, s390x: cross-built and run under qemu-user; MACHINES=aarch64-linux-gnu
#:   fuzz            look for more; FUZZ_SECONDS=20
#:   bench           cost for a writer, lag, memory, restore; bench-format: the formats alone
#:   bench-resync    1 % of 1 GiB rewritten while walsupd was away: what is uploaded
#:   bench-cost      requests and bytes a day, beside Litestream
#:   bench-outage    the store is away for OUTAGE=60 seconds under load: lost, catching up, spool
#:   bench-many      very many databases; N=10000, EXPLICIT=1 for a section each
#:   bench-socket    status with N=10000 databases, in calm and under 50 000 hostile connections
#: variables: FLAVOUR=release|debug|asan|tsan|coverage|fuzz  V=1  JOBS=2  STRESS_SECONDS=5  WERROR=1
#:            CROSS=aarch64-linux-gnu
#:            ENGINE_SEED=N  TORTURE_SECONDS=60

# Two lanes side by side: gates that mostly wait (for events, for other processes, for systemd), and gates that compute,
# which give way to them. Each gate is always in the same lane. The compilers of package and asan come late: until then
# the other lane waits least.
FIRST_GATES   := build check-hardening check-layers check-house check-docs check-units
WAITING_GATES := e2e systemd habits stress rest
COMPUTE_GATES := explorer kills model history histories failnth races unit corpus
CHECK_GATES   := $(FIRST_GATES) -- $(WAITING_GATES) -- $(COMPUTE_GATES)
ALL_GATES     := $(FIRST_GATES) -- $(WAITING_GATES) sandboxed package -- $(COMPUTE_GATES) analyze asan
JOBS        ?= $(shell nproc)
PYTHON      ?= /usr/bin/python3
# pytest's own words, for one test: make e2e E2E='-k truncate'
E2E ?=
# End-to-end tests mostly wait: some run at the same time. E2E_JOBS=0 is one after the other.
E2E_JOBS ?= 3
# seconds of each mode of the protocol stress
STRESS_SECONDS ?= 5

demo: deps
	$(Q)$(MAKE) --no-print-directory -j$(JOBS) programs $(OUT)/helpers/ledger
	$(Q)WALSUP_OUT=$(OUT) tests/demo.sh

check:
	$(Q)MAKE="$(MAKE)" WERROR=1 JOBS=$(JOBS) tests/gates.sh $(CHECK_GATES)
check-all: deps-test
	$(Q)MAKE="$(MAKE)" WERROR=1 JOBS=$(JOBS) tests/gates.sh $(ALL_GATES)

# everything that is compiled, with warnings as errors
build: programs helpers engines $(UNIT) $(FUZZ_NAMES:%=$(OUT)/corpus/%)
	$(Q)n=$$(find $(OUT) -name '*.o' | wc -l); echo "build: $$n files"; test $$n -gt 0

check-hardening: programs
	$(Q)tests/tools/check_hardening.sh $(PROGRAMS)

check-layers:
	$(Q)tests/check_layers.sh

# Each promise of docs/PROMISES.md names a test that exists.
check-docs: check-promises
check-promises:
	$(Q)$(PYTHON) tests/tools/check_promises.py

# Numbers that may fall and not rise. house-floor writes down where they have fallen to.
check-house:
	$(Q)$(PYTHON) tests/tools/house.py tests/house.floor
house-floor:
	$(Q)$(PYTHON) tests/tools/house.py --lower tests/house.floor

# The WAL protocol, by the daemon's own code, under hostile applications. The control has the guard
# dropped between jobs and must lose frames: if it does not, this stress would see nothing either.
stress: $(OUT)/helpers/guard_stress
	$(Q)for mode in default calm hot; do echo "== stress $$mode, $(STRESS_SECONDS) s"; \
		$(OUT)/helpers/guard_stress $(STRESS_SECONDS) $$mode || exit 1; done; \
	echo "== stress unsafe, the control, which must lose frames"; \
	if $(OUT)/helpers/guard_stress $(STRESS_SECONDS) unsafe; then \
		echo "stress: the control did not fail"; exit 1; fi; \
	echo "stress: 3 modes and the control"

# Sleeping databases cost the loop nothing, by counting; REST_MANY=5000 for more of them.
rest: programs
	$(Q)WALSUP_OUT=$(CURDIR)/$(OUT) $(PYTHON) tests/rest.py

e2e: programs helpers
	$(Q)WALSUP_OUT=$(CURDIR)/$(OUT) $(PYTHON) -m pytest -q -rs -p no:cacheprovider \
		-n $(E2E_JOBS) tests/e2e $(E2E) \
		> $(OUT)/e2e.txt 2>&1; status=$$?; cat $(OUT)/e2e.txt; \
	n=$$(sed -n 's/.* \([0-9]*\) passed.*/\1/p;s/^\([0-9]*\) passed.*/\1/p' $(OUT)/e2e.txt | tail -n 1); \
	sed -n 's/^SKIPPED \(\[[0-9]*\]\) [^ ]*\/\(test_[^ ]*\):[0-9]*: /part \2 \1 /p' $(OUT)/e2e.txt \
		>>"$${WALSUP_SKIPPED:-/dev/null}"; \
	echo "e2e: $${n:-0} tests passed"; test $$status -eq 0 && test "$${n:-0}" -gt 0

# ---- analysers ------------------------------------------------------------------------------

ANALYZED := $(COMMON_C) $(DAEMON_C) $(CTL_C) daemon/core/main.c ctl/main.c
ANALYZE_CFLAGS = $(filter-out -Werror -W%,$(ALL_CFLAGS)) -O2
# False findings of gcc 12, each with the reason why it is one:
# an error of err.h is negative (everywhere this would cost findings: gcc loses cleanups over it)
ANALYZE_NOT_common/base/fsx.c := -include tests/analyze.h
# the array goes into the struct, which frees it
ANALYZE_NOT_common/store/restore_fetch.c := -Wno-analyzer-malloc-leak
ANALYZE_NOT_common/store/s3_body.c := -Wno-analyzer-malloc-leak
# a client has two references of its handles until these are closed, which is never in the same call
ANALYZE_NOT_daemon/control/ctlserver_client.c := -Wno-analyzer-use-after-free
# a constructor that returned 0 has set its result; it is in another file
ANALYZE_NOT_daemon/core/main.c := -Wno-analyzer-null-dereference
ANALYZE_NOT_daemon/core/manager_reload.c := -Wno-analyzer-null-dereference
# a list of n files has that many that are filled
ANALYZE_NOT_daemon/core/history_merge.c := -Wno-analyzer-use-of-uninitialized-value
# a directory takes itself out of its parent's list before it is freed
ANALYZE_NOT_daemon/watch/discover_tree.c := -Wno-analyzer-use-after-free

analyze: analyze-gcc analyze-tidy analyze-cppcheck

# The lists of false findings are those of Debian 12's versions: others find and miss other things. What another version
# finds is shown and counted, and the run says that it was not judged; it is no failure.
JUDGED_gcc := 12
JUDGED_tidy := 14
JUDGED_cppcheck := 2.10
VERSION_gcc := $(shell gcc -dumpversion 2>/dev/null)
# asked once, by whoever needs it first
VERSION_tidy = $(eval VERSION_tidy := $(shell clang-tidy --version 2>/dev/null | sed -n 's/.*version \([0-9]*\).*/\1/p'))$(VERSION_tidy)
VERSION_cppcheck = $(shell cppcheck --version 2>/dev/null | sed -n 's/Cppcheck \([0-9]*\.[0-9]*\).*/\1/p')
# after a finding in $@.txt: a failure, unless another version made it
unless_judged = cat $@.txt; [ "$(VERSION_$(1))" != "$(JUDGED_$(1))" ] || exit 1; touch $@.unjudged
not_judged = n=$$(find $(BUILD) -name '$(1)' | wc -l); [ $$n = 0 ] || \
	echo "part $(2) $(VERSION_$(2)) found something in $$n files, false findings are only known of $(JUDGED_$(2))" | \
	tee -a "$${WALSUP_SKIPPED:-/dev/null}"

analyze-gcc: $(ANALYZED:%.c=$(BUILD)/analyze/%.ok)
	$(Q)$(call not_judged,*.ok.unjudged,gcc)
	$(Q)echo "analyze-gcc: $(words $(ANALYZED)) files"; test $(words $(ANALYZED)) -gt 0
$(BUILD)/analyze/%.ok: %.c $(wildcard common/*/*.h daemon/*/*.h ctl/*.h) tests/analyze.h
	$(call say,ANALYZE,$<)
	$(Q)mkdir -p $(@D)
	$(Q)rm -f $@.unjudged; gcc $(ANALYZE_CFLAGS) -fanalyzer -Werror $(ANALYZE_NOT_$<) -c $< -o $@.o >$@.txt 2>&1 || \
		{ $(call unless_judged,gcc); }; touch $@

# clang-tidy reads the .clang-tidy of this directory. For single files, what is off and why:
# the linker dictates the names __wrap_ and __real_
TIDY_WRAP := -bugprone-reserved-identifier,-cert-dcl37-c,-cert-dcl51-cpp
TIDY_NOT_common/store/s3_libs3.c := $(TIDY_WRAP)
TIDY_NOT_common/store/s3_easy.c := $(TIDY_WRAP)
TIDY_NOT_common/store/s3_keys.c := $(TIDY_WRAP)
TIDY_NOT_common/store/s3_peer.c := $(TIDY_WRAP)
# as for gcc: what another file has set when it returned 0
TIDY_NOT_common/store/restore_fetch.c := -clang-analyzer-core.NullDereference
TIDY_NOT_daemon/core/manager.c := -clang-analyzer-core.NullDereference
TIDY_NOT_daemon/core/manager_reload.c := -clang-analyzer-core.NullDereference
TIDY_NOT_daemon/core/main.c := -clang-analyzer-core.NullDereference
# huge pages, and many of them at a time: a fifth less of the time, nearly all of which is the analyser's search of paths
TIDY_MALLOC := GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_TOP_PAD_=67108864
# That search is left out where nobody judges what it finds: half an hour of two processors, or two minutes. TIDY_ALL=1
# has it.
TIDY_SEARCHES = $(filter $(JUDGED_tidy),$(VERSION_tidy))$(TIDY_ALL)
TIDY_SEARCH_NOT = $(if $(TIDY_SEARCHES),,-clang-analyzer-*)
TIDY_CHECKS = $(TIDY_NOT_$(1):%=--checks=%$(TIDY_SEARCH_NOT:%=$(COMMA)%))
analyze-tidy: $(ANALYZED:%.c=$(BUILD)/tidy/%.tidied)
	$(Q)$(call not_judged,*.tidied.unjudged,tidy)
	$(Q)$(if $(TIDY_SEARCHES),,echo "part tidy $(VERSION_tidy) searched no paths, false findings are only known of \
		$(JUDGED_tidy)" | tee -a "$${WALSUP_SKIPPED:-/dev/null}")
	$(Q)echo "analyze-tidy: $(words $(ANALYZED)) files"; test $(words $(ANALYZED)) -gt 0
$(BUILD)/tidy/%.tidied: %.c $(wildcard common/*/*.h daemon/*/*.h ctl/*.h) .clang-tidy tests/analyze.h
	$(call say,TIDY,$<)
	$(Q)mkdir -p $(@D)
	$(Q)rm -f $@.unjudged; $(TIDY_MALLOC) clang-tidy --quiet $(or $(call TIDY_CHECKS,$<),$(TIDY_SEARCH_NOT:%=--checks=%)) $< -- -std=gnu11 -D_GNU_SOURCE -DWALSUP_VERSION='"$(VERSION)"' -I. \
		$(PKG_CFLAGS:-I%=-isystem%) $(if $(filter %/err.c,$<),,-include tests/analyze.h) > $@.txt 2>&1 \
		|| { $(call unless_judged,tidy); }; touch $@

# memleak: cppcheck does not understand the cleanup attribute either
analyze-cppcheck:
	$(Q)mkdir -p $(BUILD)/cppcheck && rm -f $(BUILD)/cppcheck/*; cppcheck --enable=warning,performance,portability \
		--suppress=memleak --inline-suppr --error-exitcode=1 --std=c11 -j$(JOBS) -I. -D_GNU_SOURCE \
		-DWALSUP_VERSION='"$(VERSION)"' --quiet $(ANALYZED) >$(BUILD)/cppcheck/$@.txt 2>&1 || \
		{ cat $(BUILD)/cppcheck/$@.txt; [ "$(VERSION_cppcheck)" != "$(JUDGED_cppcheck)" ] || exit 1; \
		touch $(BUILD)/cppcheck/cppcheck.unjudged; }
	$(Q)$(call not_judged,cppcheck.unjudged,cppcheck)
	$(Q)echo "analyze-cppcheck: $(words $(ANALYZED)) files"; test $(words $(ANALYZED)) -gt 0

# ---- sanitizers -----------------------------------------------------------------------------

# one of each kind: restore equal under writers, restart, lies of a store
SMOKE := -k "hostile_writers or goes_on_with_the_next_txid or damaged_spool or reload_adds"

asan:
	$(Q)$(MAKE) --no-print-directory -j$(JOBS) FLAVOUR=asan WERROR=1 build unit corpus failnth
	$(Q)$(MAKE) --no-print-directory FLAVOUR=asan E2E='$(SMOKE)' e2e
# Threads meet in the daemon and in restore; the formats have none.
tsan:
	$(Q)$(MAKE) --no-print-directory -j$(JOBS) FLAVOUR=tsan WERROR=1 build unit
	$(Q)$(MAKE) --no-print-directory FLAVOUR=tsan E2E='$(SMOKE)' e2e
# the demonstration, every program of ours under valgrind
valgrind: programs $(OUT)/helpers/ledger
	$(Q)WALSUP_OUT=$(OUT) WALSUP_WRAP="valgrind -q --error-exitcode=9 --leak-check=full \
		--errors-for-leak-kinds=definite" tests/demo.sh
