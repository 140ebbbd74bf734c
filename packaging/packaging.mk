# dependencies, installation, the Debian package, and the documents made from conf.def

DEPS := gcc make pkg-config libc6-dev libsqlite3-dev libsystemd-dev libs3-dev libinih-dev \
	libuv1-dev libcurl4-openssl-dev libxml2-dev liblz4-dev libssl-dev libjansson-dev libyaml-dev \
	libmicrohttpd-dev
DEPS_TEST := libcmocka-dev sqlite3 python3 python3-pytest python3-pytest-xdist openssl curl strace spin \
	xfsprogs mandoc systemd clang-tidy cppcheck
DEPS_DEB := dpkg-dev debhelper fakeroot lintian rpm

BINDIR    ?= $(PREFIX)/bin
MANDIR    ?= $(PREFIX)/share/man
DOCDIR    ?= $(PREFIX)/share/doc/walsup
SYSCONFDIR ?= /etc
UNITDIR   ?= /lib/systemd/system
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

.PHONY: deps deps-test deps-deb install uninstall deb rpm dist docs check-docs check-units systemd sandboxed package

# installs only what is missing, so that it costs nothing (and no root) the second time
apt_install = missing=; for p in $(1); do \
		dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed \
			|| missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then echo "$@: nothing to install"; exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "$@: as root: apt-get install$$missing" >&2; exit 1; fi; \
	echo "$@: installing$$missing"; apt-get update -q && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing
deps:
	$(Q)$(call apt_install,$(DEPS))
deps-test: deps deps-deb
	$(Q)$(call apt_install,$(DEPS_TEST))
	$(Q)tests/tools/get_litestream_v3.sh
	$(Q)tests/tools/get_promtool.sh
	$(Q)tests/tools/get_s3rver.sh
	$(Q)tests/tools/get_ceph.sh
deps-deb: deps
	$(Q)$(call apt_install,$(DEPS_DEB))

install: programs
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

DOCS_CTL := $(OUT)/walsupctl
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
	echo "check-docs: $$keys keys, $$n manual pages$$(command -v mandoc >/dev/null || \
		echo ', mandoc is missing: syntax not checked')"

# ---- units ----------------------------------------------------------------------------------

check-units: programs
	$(Q)if ! command -v systemd-analyze >/dev/null; then \
		echo "check-units: skipped, there is no systemd-analyze"; exit 0; fi; \
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
		grep -q '^FileDescriptorName=walsup$$' $$u && grep -q '^#define FD_NAME "walsup"' daemon/ctlserver_socket.c \
			|| { echo "check-units: $$u and daemon/ctlserver_socket.c call the socket differently"; exit 1; }; \
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
	$(Q)tests/systemd/boot.sh tests/systemd/package.sh $(BUILD)/package/out

# The container image: built from its recipe without an engine, and run as one would
.PHONY: container
container: programs
	$(Q)mkdir -p $(BUILD)/container
	$(Q)WALSUP_OUT=$(OUT) tests/container/image.sh $(BUILD)/container

# The end-to-end tests inside the sandbox of the system unit. Those that are about walsupctl alone, which is not
# in there, and of what stores and networks do, are left out; SANDBOXED= for all.
SANDBOXED ?= -k 'not (litestream or golden or tls or check or providers or real_stores or points or help or import \
	or verify or resume or follow or faults or prometheus or store_lies or big)'
# by the environment, since they have quotes in them
sandboxed: export SUITE_TREE = $(CURDIR)
sandboxed: export SUITE_OUT = $(OUT)
sandboxed: export SUITE_PYTEST = $(PYTHON) -m pytest -q -p no:cacheprovider -n $(E2E_JOBS) tests/e2e $(or $(E2E),$(SANDBOXED))
sandboxed: programs helpers
	$(Q)rm -rf $(BUILD)/sandboxed && mkdir -p $(BUILD)/sandboxed && $(MAKE) --no-print-directory install \
		DESTDIR=$(CURDIR)/$(BUILD)/sandboxed/root PREFIX=/usr >/dev/null
	$(Q)printf '%s="%s"\n' tree "$$SUITE_TREE" out "$$SUITE_OUT" pytest "$$SUITE_PYTEST" >$(BUILD)/sandboxed/suite
	$(Q)SYSTEMD_SECONDS=900 tests/systemd/boot.sh tests/systemd/sandboxed.sh $(BUILD)/sandboxed

# ---- packages -------------------------------------------------------------------------------

DIST := walsup-$(VERSION)
DIST_DIRS := Makefile LICENSE README.md ARCHITECTURE.md CONTRIBUTING.md common ctl daemon etc man \
	packaging tests units
# a tree as `git archive` would give it, but also from an unpacked tarball without git
dist_tree = rm -rf $(1) && mkdir -p $(1) && tar -c --exclude=__pycache__ --exclude=.pytest_cache \
	$(wildcard $(DIST_DIRS)) | tar -x -C $(1)

dist: etc/walsup.ini
	$(Q)$(call dist_tree,$(BUILD)/$(DIST))
	$(Q)tar -C $(BUILD) --sort=name --owner=0 --group=0 --numeric-owner -czf \
		$(BUILD)/$(DIST).tar.gz $(DIST) && rm -rf $(BUILD)/$(DIST) && echo $(BUILD)/$(DIST).tar.gz

# built in a tree of its own, so that debian/ need not be at the top of this one
deb: etc/walsup.ini
	$(Q)$(call dist_tree,$(BUILD)/deb/$(DIST))
	$(Q)mv $(BUILD)/deb/$(DIST)/packaging/debian $(BUILD)/deb/$(DIST)/debian
	$(Q)cd $(BUILD)/deb/$(DIST) && env -u MAKEFLAGS -u MAKELEVEL dpkg-buildpackage -us -uc -b
	$(Q)cp $(BUILD)/deb/walsup_*.deb $(BUILD)/ && ls $(BUILD)/walsup_*.deb
	$(Q)if command -v lintian >/dev/null; then lintian --fail-on error,warning \
		$(BUILD)/walsup_*.deb; else echo "deb: lintian is missing: not checked"; fi

# from the tarball, as a distribution would. NODEPS=1 where the packages that it needs have other names.
rpm: dist
	$(Q)rpmbuild -bb --quiet $(if $(NODEPS),--nodeps) --define '_topdir $(abspath $(BUILD))/rpm' \
		--define '_sourcedir $(abspath $(BUILD))' --define 'version_of_walsup $(VERSION)' \
		$(if $(NODEPS),--define 'libs3_a $(LIBS3_A)') packaging/walsup.spec
	$(Q)cp $(BUILD)/rpm/RPMS/*/walsup-*.rpm $(BUILD)/ && ls $(BUILD)/walsup-*.rpm
