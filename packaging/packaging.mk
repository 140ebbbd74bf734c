# dependencies, installation, the Debian package, and the documents made from conf.def

# the libraries are named once, for this machine and, with CROSS, for the other one
DEPS_LIBS := libsqlite3-dev libsystemd-dev libinih-dev libuv1-dev libcurl4-openssl-dev libxml2-dev liblz4-dev \
	libssl-dev libjansson-dev libyaml-dev libmicrohttpd-dev
DEPS := gcc make pkg-config libc6-dev libs3-dev $(DEPS_LIBS)
DEPS_TEST := libcmocka-dev sqlite3 python3 python3-pytest python3-pytest-xdist openssl curl strace spin \
	xfsprogs mandoc systemd clang-tidy cppcheck
# where the release wants units is said by systemd.pc, which up to Debian 12 is in systemd itself
DEPS_DEB := build-essential dpkg-dev debhelper fakeroot lintian rpm systemd-dev|systemd
# Debian's word for the machine that CROSS names
ARCH_aarch64-linux-gnu   := arm64
ARCH_arm-linux-gnueabihf := armhf
ARCH_powerpc64le-linux-gnu := ppc64el
ARCH_x86_64-linux-gnu    := amd64
CROSS_ARCH := $(if $(CROSS),$(or $(ARCH_$(CROSS)),$(firstword $(subst -, ,$(CROSS)))))
DEPS_CROSS := gcc-$(CROSS) $(addsuffix :$(CROSS_ARCH),libc6-dev $(DEPS_LIBS) libcmocka-dev)

BINDIR    ?= $(PREFIX)/bin
MANDIR    ?= $(PREFIX)/share/man
DOCDIR    ?= $(PREFIX)/share/doc/walsup
SYSCONFDIR ?= /etc
UNITDIR   ?= $(or $(shell pkg-config --variable=systemdsystemunitdir systemd 2>/dev/null),/usr/lib/systemd/system)
SYSUSERSDIR ?= /usr/lib/sysusers.d
TMPFILESDIR ?= /usr/lib/tmpfiles.d
CATALOGDIR ?= /usr/lib/systemd/catalog
PRESETDIR ?= /usr/lib/systemd/system-preset
BASHCOMPDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHCOMPDIR ?= $(PREFIX)/share/zsh/vendor-completions
FISHCOMPDIR ?= $(PREFIX)/share/fish/vendor_completions.d
# the security exposure that a unit may not exceed (tenths): the one with capabilities, the one without
EXPOSURE_walsupd.service  := 20
EXPOSURE_walsupd@.service := 12

.PHONY: deps deps-test deps-deb install uninstall deb rpm dist release docs check-docs check-units systemd sandboxed package

deps:
	$(Q)packaging/deps.sh $@ $(foreach p,$(DEPS),'$p')
# without the functions' manual: of libpsl-dev in Debian 13 it differs between architectures, which dpkg refuses
ifneq ($(CROSS),)
	$(Q)dpkg --print-foreign-architectures | grep -qx $(CROSS_ARCH) || dpkg --add-architecture $(CROSS_ARCH)
	$(Q)APT_OPTIONS='-o Dpkg::Options::=--path-exclude=/usr/share/man/man3/*' packaging/deps.sh $@ $(DEPS_CROSS)
	$(Q)packaging/libs3.sh $(CROSS_ARCH) $(BUILD)/libs3/$(CROSS)
endif
deps-test: deps deps-deb
	$(Q)packaging/deps.sh $@ $(foreach p,$(DEPS_TEST),'$p')
	$(Q)tests/tools/get_litestream_v3.sh
	$(Q)tests/tools/get_promtool.sh
	$(Q)tests/tools/get_s3rver.sh
	$(Q)tests/tools/get_ceph.sh
deps-deb: deps
	$(Q)packaging/deps.sh $@ $(foreach p,$(DEPS_DEB),'$p')

# one that runs here, which with CROSS is another one than the one that is installed; dpkg's flags are for the other machine
DOCS_CTL := $(BUILD)/$(FLAVOUR)/walsupctl
ifneq ($(CROSS),)
$(DOCS_CTL): FORCE
	$(Q)env -u LIBS3_A -u CFLAGS -u CPPFLAGS -u LDFLAGS $(MAKE) --no-print-directory CROSS= $@
.PHONY: FORCE
endif

install: programs $(DOCS_CTL)
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 \
		$(DESTDIR)$(MANDIR)/man7 $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(DOCDIR) $(DESTDIR)$(SYSCONFDIR)/walsup.d \
		$(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR) $(DESTDIR)$(TMPFILESDIR) $(DESTDIR)$(PRESETDIR) $(DESTDIR)$(CATALOGDIR) \
		$(DESTDIR)$(BASHCOMPDIR) $(DESTDIR)$(ZSHCOMPDIR) $(DESTDIR)$(FISHCOMPDIR)
	install -m 755 $(OUT)/walsupd $(OUT)/walsupctl $(DESTDIR)$(BINDIR)/
	install -m 644 man/walsupctl.1 $(DESTDIR)$(MANDIR)/man1/
	install -m 644 man/walsup.ini.5 $(DESTDIR)$(MANDIR)/man5/
	install -m 644 man/walsup-migration.7 man/walsup-recovery.7 $(DESTDIR)$(MANDIR)/man7/
	install -m 644 man/walsupd.8 $(DESTDIR)$(MANDIR)/man8/
	install -m 644 etc/walsup.ini $(DESTDIR)$(DOCDIR)/walsup.ini.sample
	install -d $(DESTDIR)$(DOCDIR)/examples
	install -m 644 etc/prometheus/walsup.rules.yml $(DESTDIR)$(DOCDIR)/examples/walsup.rules.yml
	install -m 644 etc/grafana/walsup.json $(DESTDIR)$(DOCDIR)/examples/walsup-grafana.json
	test -e $(DESTDIR)$(SYSCONFDIR)/walsup.ini || \
		install -m 644 etc/walsup.ini $(DESTDIR)$(SYSCONFDIR)/walsup.ini
	for u in walsupd.service walsupd@.service walsupd.socket; do \
		sed 's,/usr/bin/,$(BINDIR)/,' units/$$u > $(DESTDIR)$(UNITDIR)/$$u && \
		chmod 644 $(DESTDIR)$(UNITDIR)/$$u || exit 1; done
	install -m 644 units/walsup.sysusers $(DESTDIR)$(SYSUSERSDIR)/walsup.conf
	install -m 644 units/walsup.tmpfiles $(DESTDIR)$(TMPFILESDIR)/walsup.conf
	install -m 644 units/walsup.preset $(DESTDIR)$(PRESETDIR)/90-walsup.preset
	install -m 644 units/walsup.catalog $(DESTDIR)$(CATALOGDIR)/walsup.catalog
	$(DOCS_CTL) help --completion bash > $(DESTDIR)$(BASHCOMPDIR)/walsupctl
	$(DOCS_CTL) help --completion zsh > $(DESTDIR)$(ZSHCOMPDIR)/_walsupctl
	$(DOCS_CTL) help --completion fish > $(DESTDIR)$(FISHCOMPDIR)/walsupctl.fish
	chmod 644 $(DESTDIR)$(BASHCOMPDIR)/walsupctl $(DESTDIR)$(ZSHCOMPDIR)/_walsupctl \
		$(DESTDIR)$(FISHCOMPDIR)/walsupctl.fish
	$(if $(DESTDIR),,@SYSCONFDIR=$(SYSCONFDIR) SYSUSERSDIR=$(SYSUSERSDIR) packaging/after_install.sh)

# configuration and state stay
uninstall:
	rm -f $(DESTDIR)$(BINDIR)/walsupd $(DESTDIR)$(BINDIR)/walsupctl \
		$(DESTDIR)$(MANDIR)/man1/walsupctl.1 $(DESTDIR)$(MANDIR)/man5/walsup.ini.5 \
		$(DESTDIR)$(MANDIR)/man7/walsup-migration.7 $(DESTDIR)$(MANDIR)/man7/walsup-recovery.7 \
		$(DESTDIR)$(BASHCOMPDIR)/walsupctl $(DESTDIR)$(ZSHCOMPDIR)/_walsupctl \
		$(DESTDIR)$(FISHCOMPDIR)/walsupctl.fish \
		$(DESTDIR)$(MANDIR)/man8/walsupd.8 $(DESTDIR)$(DOCDIR)/walsup.ini.sample \
		$(DESTDIR)$(DOCDIR)/examples/walsup.rules.yml $(DESTDIR)$(DOCDIR)/examples/walsup-grafana.json \
		$(DESTDIR)$(UNITDIR)/walsupd.service $(DESTDIR)$(UNITDIR)/walsupd@.service \
		$(DESTDIR)$(UNITDIR)/walsupd.socket $(DESTDIR)$(PRESETDIR)/90-walsup.preset $(DESTDIR)$(CATALOGDIR)/walsup.catalog \
		$(DESTDIR)$(SYSUSERSDIR)/walsup.conf \
		$(DESTDIR)$(TMPFILESDIR)/walsup.conf

# ---- documents ------------------------------------------------------------------------------

states_of = sed -n '/BEGIN STATES/,/END STATES/p' $(1) | sed '1d;$$d'
metrics_of = sed -n '/BEGIN METRICS/,/END METRICS/p' $(1) | sed '1d;$$d'
keys_of = sed -n '/BEGIN KEYS/,/END KEYS/p' $(1) | sed '1d;$$d'

# rewrite what is made from conf.def
docs: etc/walsup.ini $(DOCS_CTL)
	$(Q)$(DOCS_CTL) config --man > $(OUT)/keys.5
	$(Q)sed -e '/BEGIN KEYS/r $(OUT)/keys.5' -e '/BEGIN KEYS/,/END KEYS/{/KEYS/!d}' \
		man/walsup.ini.5 > $(OUT)/walsup.ini.5 && cp $(OUT)/walsup.ini.5 man/walsup.ini.5
	$(Q)$(DOCS_CTL) metrics --man > $(OUT)/metrics.8
	$(Q)sed -e '/BEGIN METRICS/r $(OUT)/metrics.8' -e '/BEGIN METRICS/,/END METRICS/{/METRICS/!d}' \
		man/walsupd.8 > $(OUT)/walsupd.8 && cp $(OUT)/walsupd.8 man/walsupd.8
	$(Q)$(DOCS_CTL) status --man > $(OUT)/states.1
	$(Q)sed -e '/BEGIN STATES/r $(OUT)/states.1' -e '/BEGIN STATES/,/END STATES/{/STATES/!d}' \
		man/walsupctl.1 > $(OUT)/walsupctl.1 && cp $(OUT)/walsupctl.1 man/walsupctl.1
etc/walsup.ini: common/format/conf.def common/format/conf_text.c | $(DOCS_CTL)
	$(Q)mkdir -p etc
	$(Q)$(DOCS_CTL) config --sample > $(OUT)/walsup.ini && cp $(OUT)/walsup.ini $@

check-docs: $(DOCS_CTL)
	$(Q)$(DOCS_CTL) config --sample | diff -u etc/walsup.ini - \
		|| { echo "check-docs: etc/walsup.ini is old: make docs"; exit 1; }
	$(Q)$(DOCS_CTL) config --man > $(OUT)/keys.5; test -s $(OUT)/keys.5; \
		$(call keys_of,man/walsup.ini.5) | diff -u - $(OUT)/keys.5 \
		|| { echo "check-docs: man/walsup.ini.5 is old: make docs"; exit 1; }
	$(Q)$(DOCS_CTL) metrics --man > $(OUT)/metrics.8; test -s $(OUT)/metrics.8; \
		$(call metrics_of,man/walsupd.8) | diff -u - $(OUT)/metrics.8 \
		|| { echo "check-docs: man/walsupd.8 is old: make docs"; exit 1; }
	$(Q)$(DOCS_CTL) status --man > $(OUT)/states.1; test -s $(OUT)/states.1; \
		$(call states_of,man/walsupctl.1) | diff -u - $(OUT)/states.1 \
		|| { echo "check-docs: man/walsupctl.1 is old: make docs"; exit 1; }
	$(Q)$(DOCS_CTL) -c etc/walsup.ini list > $(OUT)/list.txt
	$(Q)$(PYTHON) tests/tools/check_manual.py $(DOCS_CTL) man/walsupctl.1
	$(Q)n=0; for m in man/*.[1578]; do n=$$((n+1)); \
		if command -v mandoc >/dev/null; then mandoc -T lint -W warning $$m || exit 1; fi; done; \
	keys=$$(grep -c '^KEY(' common/format/conf.def); test $$n -gt 0 && test $$keys -gt 0 && \
	echo "check-docs: $$keys keys, $$n manual pages"; command -v mandoc >/dev/null || \
		echo "part there is no mandoc: the manual pages' syntax" | tee -a "$${WALSUP_SKIPPED:-/dev/null}"

# ---- units ----------------------------------------------------------------------------------

check-units: programs
	$(Q)if ! command -v systemd-analyze >/dev/null; then \
		echo "check-units: skipped, there is no systemd-analyze"; \
		echo "all there is no systemd-analyze" >>"$${WALSUP_SKIPPED:-/dev/null}"; exit 0; fi; \
	mkdir -p $(OUT)/units; n=0; for u in units/*.service; do \
		case $$u in *@.service) limit=$(EXPOSURE_walsupd@.service) ;; \
		*) limit=$(EXPOSURE_walsupd.service) ;; esac; \
		sed 's,/usr/bin/,$(CURDIR)/$(OUT)/,' $$u > $(OUT)/units/$$(basename $$u); \
		systemd-analyze verify --man=no $(OUT)/units/$$(basename $$u) || exit 1; \
		systemd-analyze security --offline=true --threshold=$$limit --no-pager \
			$(OUT)/units/$$(basename $$u) > $(OUT)/units/security.txt \
			|| { tail -n 3 $(OUT)/units/security.txt; exit 1; }; \
		echo "check-units: $$(grep -h 'Overall exposure' $(OUT)/units/security.txt)"; n=$$((n+1)); done; \
	for f in units/*.sysusers; do out=$$(systemd-sysusers --dry-run $(CURDIR)/$$f 2>&1) \
		|| { echo "$$out"; exit 1; }; \
		n=$$((n+1)); done; \
	cp units/*.socket $(OUT)/units/; for u in units/*.socket; do \
		systemd-analyze verify --man=no $(OUT)/units/$$(basename $$u) || exit 1; \
		grep -q '^FileDescriptorName=walsup$$' $$u && grep -q '^#define FD_NAME "walsup"' daemon/control/ctlserver_socket.c \
			|| { echo "check-units: $$u and daemon/control/ctlserver_socket.c call the socket differently"; exit 1; }; \
		n=$$((n+1)); done; \
	for u in units/walsupd*; do grep -qx "disable $$(basename $$u)" units/walsup.preset \
		|| { echo "check-units: $$u is not in units/walsup.preset"; exit 1; }; done; \
	test $$(grep -c '^disable ' units/walsup.preset) = $$(ls units/walsupd* | wc -l) \
		|| { echo "check-units: units/walsup.preset has more than there are units"; exit 1; }; \
	echo "check-units: $$n files"; test $$n -gt 0

# walsupd under a real systemd, with the units as they are installed
systemd: programs $(OUT)/helpers/s3fault
	$(Q)rm -rf $(BUILD)/systemd && $(MAKE) --no-print-directory install \
		DESTDIR=$(CURDIR)/$(BUILD)/systemd/root PREFIX=/usr >/dev/null
	$(Q)tests/systemd/boot.sh tests/systemd/units.sh $(BUILD)/systemd
	$(Q)cp $(OUT)/helpers/s3fault $(BUILD)/systemd/ && \
		SYSTEMD_SECONDS=300 tests/systemd/boot.sh tests/systemd/checks.sh $(BUILD)/systemd

# the Debian package: reproducible, installed, upgraded under load and purged under that systemd
package:
	$(Q)tests/systemd/packages.sh $(BUILD)/package
	$(Q)BOOT_IS=part tests/systemd/boot.sh tests/systemd/package.sh $(BUILD)/package/out

# The container image: built from its recipe without an engine, and run as one would
.PHONY: container
container: programs
	$(Q)mkdir -p $(BUILD)/container
	$(Q)WALSUP_OUT=$(OUT) tests/container/image.sh $(BUILD)/container

# The end-to-end tests inside the sandbox of the system unit. Those that are about walsupctl alone, which is not
# in there, and of what stores and networks do, are left out, and of a test with parameters all but the first ones (see
# tests/e2e/conftest.py); SANDBOXED= for all.
SANDBOXED ?= -k 'not (litestream or golden or tls or check or providers or real_stores or points or help or import \
	or verify or resume or follow or faults or prometheus or store_lies or big or gates)'
# by the environment, since they have quotes in them
sandboxed: export SUITE_TREE = $(CURDIR)
sandboxed: export SUITE_OUT = $(OUT)
sandboxed: export SUITE_PYTEST = $(PYTHON) -m pytest -q -p no:cacheprovider -n $(E2E_JOBS) tests/e2e $(or $(E2E),$(SANDBOXED))
sandboxed: programs helpers
	$(Q)rm -rf $(BUILD)/sandboxed && mkdir -p $(BUILD)/sandboxed && $(MAKE) --no-print-directory install \
		DESTDIR=$(CURDIR)/$(BUILD)/sandboxed/root PREFIX=/usr >/dev/null
	$(Q)printf '%s="%s"\n' tree "$$SUITE_TREE" out "$$SUITE_OUT" pytest "$$SUITE_PYTEST" parameters \
		$(if $(or $(E2E),$(if $(SANDBOXED),,all)),every,first) >$(BUILD)/sandboxed/suite
	$(Q)SYSTEMD_SECONDS=900 tests/systemd/boot.sh tests/systemd/sandboxed.sh $(BUILD)/sandboxed

# ---- packages -------------------------------------------------------------------------------

DIST := walsup-$(VERSION)
DIST_DIRS := Makefile LICENSE README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs common ctl daemon etc man \
	packaging tests units
# a tree as `git archive` would give it, but also from an unpacked tarball without git
dist_tree = rm -rf $(1) && mkdir -p $(1) && tar -c --exclude=__pycache__ --exclude=.pytest_cache \
	$(wildcard $(DIST_DIRS)) | tar -x -C $(1)

dist: etc/walsup.ini
	$(Q)$(call dist_tree,$(BUILD)/$(DIST))
	$(Q)tar -C $(BUILD) --sort=name --owner=0 --group=0 --numeric-owner -czf \
		$(BUILD)/$(DIST).tar.gz $(DIST) && rm -rf $(BUILD)/$(DIST) && echo $(BUILD)/$(DIST).tar.gz

# Built in a tree of its own, so that debian/ need not be at the top of this one. With CROSS libs3-dev is not installed
# for the other architecture (packaging/libs3.sh), which is why what debian/control asks for is not checked.
DEB := $(BUILD)/deb$(CROSS:%=-%)
deb: etc/walsup.ini
	$(Q)command -v dpkg-buildpackage >/dev/null || { echo "deb: there is no dpkg-buildpackage" >&2; \
		echo "hint: as root: make deps-deb" >&2; exit 1; }
	$(Q)$(call dist_tree,$(DEB)/$(DIST))
	$(Q)mv $(DEB)/$(DIST)/packaging/debian $(DEB)/$(DIST)/debian
	$(Q)cd $(DEB)/$(DIST) && env -u MAKEFLAGS -u MAKELEVEL -u CROSS $(if $(CROSS),LIBS3_A=$(abspath $(LIBS3_A))) \
		dpkg-buildpackage -us -uc -b $(if $(CROSS),-a$(CROSS_ARCH) -d -Pcross$(COMMA)nocheck) || \
		{ command -v cc >/dev/null && dpkg-checkbuilddeps >/dev/null 2>&1 || echo "hint: as root: make deps-deb" >&2; exit 1; }
	$(Q)cp $(DEB)/walsup_*.deb $(BUILD)/ && ls $(BUILD)/walsup_*_$(if $(CROSS),$(CROSS_ARCH),*).deb
	$(Q)if command -v lintian >/dev/null; then lintian $$([ "$$(id -u)" != 0 ] || echo --allow-root) \
		--fail-on error,warning $(DEB)/walsup_*.deb; else echo "deb: there is no lintian: not checked"; fi

# from the tarball, as a distribution would. NODEPS=1 where the packages that it needs have other names.
rpm: dist
	$(Q)rpmbuild -bb --quiet $(if $(NODEPS),--nodeps) --define '_topdir $(abspath $(BUILD))/rpm' \
		--define '_sourcedir $(abspath $(BUILD))' --define 'version_of_walsup $(VERSION)' \
		$(if $(NODEPS),--define 'libs3_a $(LIBS3_A)') packaging/walsup.spec
	$(Q)cp $(BUILD)/rpm/RPMS/*/walsup-*.rpm $(BUILD)/ && ls $(BUILD)/walsup-*.rpm

# What is published: checks that the tag is this commit, then the tarball, packages for RELEASES and ARCHITECTURES with
# a bill of materials each, checksums. RELEASE=--untagged tries it out before there is a tag.
release:
	$(Q)BUILD=$(BUILD) packaging/release.sh $(RELEASE)
