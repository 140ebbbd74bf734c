# walsup: the gates are targets. `make help` lists them.
#
#   FLAVOUR=release|debug|asan|tsan|coverage|fuzz   what to build, in build/<flavour>/
#   CROSS=aarch64-linux-gnu                for another machine, in build/<flavour>-<CROSS>/
#   WERROR=1                               warnings are errors, as in the gates
#   V=1                                    show the commands

FLAVOUR ?= release
BUILD   ?= build
CROSS   ?=
OUT     := $(BUILD)/$(FLAVOUR)$(CROSS:%=-%)
PREFIX  ?= /usr
DESTDIR ?=
ifeq ($(origin CC),default)
CC      := $(CROSS:%=%-)gcc
endif
ifeq ($(origin AR),default)
AR      := $(CROSS:%=%-)ar
endif
# a name like x86_64-linux-gnu, aarch64-linux-gnu, arm-linux-gnueabihf: the compiler knows what it compiles for
MACHINE := $(shell $(CC) -dumpmachine 2>/dev/null)
CLANG   := $(findstring clang,$(shell $(CC) --version 2>/dev/null))
VERSION := $(shell cat packaging/VERSION 2>/dev/null || echo 0)
Q       := $(if $(V),,@)
say      = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2))

PKGS := sqlite3 libsystemd libuv libcurl libxml-2.0 liblz4 libssl libcrypto jansson inih yaml-0.1 libmicrohttpd
PKG_CONFIG ?= $(CROSS:%=PKG_CONFIG_LIBDIR=/usr/lib/%/pkgconfig:/usr/share/pkgconfig) pkg-config
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null)
# libs3 is linked statically, with the seam of common/store/s3_libs3.c under it: each of these
# calls of the archive arrives at __wrap_<name> (see that file for why).
LIBS3_WRAPS := curl_multi_init curl_multi_cleanup curl_multi_perform curl_multi_fdset \
	curl_multi_timeout curl_multi_info_read curl_multi_add_handle curl_multi_remove_handle \
	curl_easy_init curl_easy_cleanup curl_easy_reset curl_easy_setopt curl_easy_perform \
	curl_easy_getinfo curl_slist_append curl_slist_free_all curl_global_init
# Wherever the compiler's own search finds it: /usr/lib, /usr/lib64, /usr/lib/<machine>.
ifeq ($(LIBS3_A),)
LIBS3_A   := $(or $(wildcard $(CROSS:%=$(BUILD)/libs3/%/usr/lib/libs3.a)),$(shell $(CC) -print-file-name=libs3.a 2>/dev/null))
endif
WRAP_FLAGS = $(LIBS3_WRAPS:%=-Wl,--wrap=%)

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wcast-qual -Wformat=2 \
	-Wmissing-prototypes -Wstrict-prototypes -Wold-style-definition -Wpointer-arith \
	-Wredundant-decls -Wundef -Wvla -Wwrite-strings -Wimplicit-fallthrough $(if $(CLANG),,-Wtrampolines)
# gcc 12 sees format truncation where the texts are cut on purpose (struct err)
WARN += -Wno-format-truncation
# Only in the gates: a compiler that knows a warning more must not keep anybody from building.
WARN += $(if $(WERROR),-Werror)
# what the processor has against jumps to where none belongs; tests/tools/check_hardening.sh asks for the same
HARDEN_x86_64  := -fcf-protection=full -fzero-call-used-regs=used-gpr
HARDEN_aarch64 := -mbranch-protection=standard -fzero-call-used-regs=used-gpr
HARDEN_i686    := -fcf-protection=full -fzero-call-used-regs=used-gpr
HARDEN := -fstack-protector-strong -fstack-clash-protection -fPIE -ftrivial-auto-var-init=zero \
	-fno-delete-null-pointer-checks -fno-strict-overflow -fno-strict-aliasing \
	$(HARDEN_$(firstword $(subst -, ,$(MACHINE))))
HARDEN_LD := -pie -Wl,-z,relro,-z,now,-z,noexecstack,--as-needed

CFLAGS_release := -O2 -g -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 $(HARDEN)
LDFLAGS_release := $(HARDEN_LD)
CFLAGS_debug := -O0 -g3 -DWALSUP_DEBUG
CFLAGS_asan := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
LDFLAGS_asan := -fsanitize=address,undefined
# gcc warns that it does not model fences. The ones of daemon/capture/session.c order reads of SQLite's
# wal-index, which other processes write: nothing a sanitizer of threads could see.
CFLAGS_tsan := -O1 -g -fno-omit-frame-pointer -fsanitize=thread $(if $(CLANG),,-Wno-tsan)
LDFLAGS_tsan := -fsanitize=thread
# counters that threads share; no optimization, so that a line is a line
CFLAGS_coverage := -O0 -g --coverage -fprofile-update=atomic
LDFLAGS_coverage := --coverage
CFLAGS_fuzz := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined
LDFLAGS_fuzz := -fsanitize=address,undefined

# files beyond 2 GiB and times beyond 2038 on 32 bits too; only there, because it renames open(), which the engines wrap
LARGE := $(if $(filter arm% i386% i486% i586% i686%,$(MACHINE)),-D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64)
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE $(LARGE) -DWALSUP_VERSION='"$(VERSION)"' -I. $(PKG_CFLAGS) $(WARN) \
	$(CFLAGS_$(FLAVOUR)) $(CFLAGS) -ffile-prefix-map=$(CURDIR)=.
ALL_LDFLAGS = $(LDFLAGS_$(FLAVOUR)) $(LDFLAGS)
ALL_LIBS = $(LIBS3_A) $(PKG_LIBS) -lpthread -lm

COMMON_C := $(sort $(wildcard common/base/*.c common/format/*.c common/store/*.c))
DAEMON_C := $(sort $(filter-out daemon/core/main.c,$(wildcard daemon/*/*.c)))
CTL_C    := $(sort $(filter-out ctl/main.c,$(wildcard ctl/*.c)))
UNIT_C   := $(sort $(wildcard tests/unit/test_*.c))
FUZZ_C   := $(sort $(wildcard tests/fuzz/fuzz_*.c))
HELPER_C := $(sort $(wildcard tests/helpers/*.c))

obj = $(patsubst %.c,$(OUT)/%.o,$(1))
COMMON_A := $(OUT)/libcommon.a
DAEMON_A := $(OUT)/libdaemon.a
CTL_A    := $(OUT)/libctl.a
PROGRAMS := $(OUT)/walsupd $(OUT)/walsupctl
S3FAULT_C := $(sort $(wildcard tests/s3fault/*.c))
UNIT     := $(patsubst tests/unit/%.c,$(OUT)/unit/%,$(UNIT_C))
HELPERS  := $(patsubst tests/helpers/%.c,$(OUT)/helpers/%,$(HELPER_C)) $(OUT)/helpers/s3fault \
	$(if $(filter release debug,$(FLAVOUR)),$(OUT)/helpers/loop_guard.so)

.PHONY: all help programs helpers clean libraries
all: programs
programs: $(PROGRAMS)
helpers: $(HELPERS)

# What the compiler warned of is kept beside the object: with WERROR=1 such an object is made anew.
ifneq ($(WERROR),)
$(shell find $(OUT) -name '*.o.warned' 2>/dev/null | sed 's,\(.*\).warned$$,\1\n\1.warned,' | xargs -r rm -f)
endif
$(OUT)/%.o: %.c Makefile packaging/VERSION | libraries
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@ 2>$@.warned || { cat $@.warned >&2; rm $@.warned; exit 1; }; \
		if [ -s $@.warned ]; then cat $@.warned >&2; else rm $@.warned; fi
libraries:
	$(Q)missing=$$(for p in $(PKGS); do $(PKG_CONFIG) --exists $$p 2>/dev/null || echo $$p; done); \
	[ -f "$(LIBS3_A)" ] || missing="$$missing libs3.a"; if [ -n "$$missing" ]; then \
		echo "$(or $(CC),gcc)$(MACHINE:%= for %): no headers and libraries of:" $$missing >&2; \
		echo "hint: as root: make deps$(CROSS:%= CROSS=%)" >&2; exit 1; fi

$(COMMON_A): $(call obj,$(COMMON_C))
$(DAEMON_A): $(call obj,$(DAEMON_C))
$(CTL_A): $(call obj,$(CTL_C))
%.a:
	$(call say,AR,$@)
	$(Q)mkdir -p $(@D)
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $^

link = $(CC) $(ALL_CFLAGS) $(filter %.o,$(1)) $(filter %.a,$(1)) $(ALL_LDFLAGS) $(WRAP_FLAGS) -o $(2) $(ALL_LIBS)

$(OUT)/walsupd: $(OUT)/daemon/core/main.o $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)$(call link,$^,$@)
$(OUT)/walsupctl: $(OUT)/ctl/main.o $(CTL_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)$(call link,$^,$@)
$(OUT)/unit/%: $(OUT)/tests/unit/%.o $(DAEMON_A) $(CTL_A) $(COMMON_A) | $(OUT)/helpers/s3fault
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@) -lcmocka
$(OUT)/helpers/s3fault: $(call obj,$(S3FAULT_C)) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@)
$(OUT)/helpers/loop_guard.so: tests/loop_guard.c Makefile
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE -Wall -O1 -g -fPIC -shared $< -o $@ -ldl
$(OUT)/helpers/%: $(OUT)/tests/helpers/%.o $(DAEMON_A) $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@)

clean:
	rm -rf $(BUILD)

include tests/tests.mk
include tests/check.mk
include packaging/packaging.mk

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
.SECONDARY:
