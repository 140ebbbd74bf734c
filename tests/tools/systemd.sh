#!/bin/bash
# systemd.sh PROGRAMS - walsupd under a real systemd, which is booted as process 1 of new namespaces: what
# it changes of the file system is gone with them. Needs root; says so and does nothing else where that
# or the kernel does not allow it. PROGRAMS is where `make install DESTDIR=` has put them.
set -u
self=$(readlink -f "$0")

if [ "${1:-}" != --inside ]; then
	skip() { echo "systemd: skipped, $1"; exit 0; }
	[ "$(id -u)" = 0 ] || skip "it needs root"
	for p in unshare nsenter strace sqlite3 systemd-sysusers setpriv; do
		command -v "$p" >/dev/null || skip "there is no $p"
	done
	[ -x /lib/systemd/systemd ] || skip "there is no systemd"
	unshare -m -p -u -n -i -C --fork true 2>/dev/null || skip "no namespaces can be made"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cp -r "$1" "$work/root"
	timeout -k 5 100 unshare -m -p -u -n -i -C --fork --kill-child "$self" --inside "$work" \
		>"$work/console" 2>&1 </dev/null
	[ -s "$work/out" ] || { tail -n 30 "$work/console"; echo "systemd: it did not come up"; exit 1; }
	cat "$work/out"
	grep -q '^systemd: [0-9]* situations$' "$work/out" && exit 0
	tail -n 20 "$work/walsupd.log" "$work/console"
	exit 1
fi

if [ "$2" != --scenario ]; then
	set -e
	mount --make-rprivate /
	mount --make-rshared / # services would have no credentials without it
	mount -t proc proc /proc
	mount -t tmpfs -o mode=755 tmpfs /run
	umount -l /sys/fs/cgroup 2>/dev/null || true
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mkdir -p /run/lock /run/work /run/systemd/system /run/etc/upper /run/etc/work
	chmod 1777 /run/lock
	mount --bind "$2" /run/work
	mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
	mount -t overlay overlay -o lowerdir=/run/work/root/usr:/usr /usr
	for d in /tmp /var/tmp /srv /var/lib /var/cache; do mount -t tmpfs -o mode=1777 tmpfs $d; done
	cp "$self" /run/scenario
	ip link set lo up 2>/dev/null || true
	# there is no basic system to wait for here, and no journal
	for u in /run/work/root/lib/systemd/system/walsupd*.service; do
		sed -e 's/^\[Unit\]/&\nDefaultDependencies=no/' -e '/^After=/d' -e '/^Wants=/d' \
			-e 's,^\[Service\],&\nStandardOutput=append:/run/work/walsupd.log\nStandardError=inherit,' \
			"$u" >/run/systemd/system/"$(basename "$u")"
	done
	printf '[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/run/scenario --inside --scenario\n' \
		>/run/systemd/system/scenario.service
	printf '[Unit]\nDefaultDependencies=no\nRequires=scenario.service\n' >/run/systemd/system/t.target
	container=walsup-test exec /lib/systemd/systemd --system --unit=t.target --log-target=console \
		--log-level=info --show-status=no
fi

# ---- the scenario: a service of that systemd ----------------------------------------------------------

exec >/run/work/out.tmp 2>&1
n=0
finish() {
	mv /run/work/out.tmp /run/work/out
	systemctl poweroff -ff >/dev/null 2>&1
	exit
}
fine() { n=$((n + 1)); echo "  ok: $1"; }
wrong() {
	echo "  WRONG: $1"
	systemctl status --no-pager walsupd 2>&1 | head -n 20
	finish
}
holds() { # WHAT COMMAND...
	local what=$1
	shift
	if "$@"; then fine "$what"; else wrong "$what: $*"; fi
}
quietly() { "$@" >/dev/null; }
as_app() { setpriv --reuid app --regid app --clear-groups "$@"; }
sql() { as_app sqlite3 -cmd '.timeout 5000' /srv/app/app.db "$@" >/dev/null; }
prop() { systemctl show walsupd -p "$1" --value; }
until_true() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}
restored_has() { # TEXT: the replica has it
	rm -f /srv/r.db
	walsupctl restore app -o /srv/r.db >/dev/null 2>&1 &&
		[ "$(sqlite3 /srv/r.db "select count(*) from t where x = '$1'")" = 1 ]
}
tripped() { [ "$(prop Result)" = watchdog ]; }
restarted() { [ "$(prop NRestarts)" -gt 0 ]; }

systemd-sysusers /usr/lib/sysusers.d/walsup.conf
systemd-tmpfiles --create /usr/lib/tmpfiles.d/walsup.conf
echo 'app:x:1234:1234::/:/usr/sbin/nologin' >>/etc/passwd
echo 'app:x:1234:' >>/etc/group
mkdir -p /srv/app /srv/backup
chown app:app /srv/app
chown walsup:walsup /srv/backup
chmod 750 /srv/app
sql 'pragma journal_mode = wal; create table t(x); insert into t values(1)'
chmod 640 /srv/app/app.db
config() { # KEY = VALUE of the database
	printf '[target local]\ntype = file\npath = /srv/backup\n[db app]\npath = /srv/app/app.db\ntarget = local\n%s\n' \
		"$1" >/etc/walsup.ini
	chgrp walsup /etc/walsup.ini
	chmod 640 /etc/walsup.ini
}
config ''

holds "start returns when it is ready" systemctl start walsupd
holds "nothing of it is refused by the sandbox" test "$(grep -c "not permitted" /run/work/walsupd.log)" = 0
holds "status of systemd says how it fares: $(prop StatusText)" test -n "$(prop StatusText)"
walsupctl sync --wait >/dev/null
holds "walsupctl status is healthy" quietly walsupctl status
sql "insert into t values('first')"
walsupctl sync --wait >/dev/null
holds "what another user committed is restored" restored_has first
holds "the side files are that user's" test "$(stat -c %U:%a /srv/app/app.db-wal /srv/app/app.db-shm | sort -u)" = app:640
shadow=$(nsenter -t "$(prop MainPID)" -m cat /etc/shadow 2>/dev/null | wc -c)
ini=$(nsenter -t "$(prop MainPID)" -m cat /etc/walsup.ini | wc -c)
holds "/etc/shadow cannot be read inside the unit, its own configuration can" \
	test "$shadow" = 0 -a "$ini" -gt 0 -a -s /etc/shadow

config 'sync-interval = 1h'
holds "reload returns when it is done" systemctl reload walsupd
sql "insert into t values('not yet')"
walsupctl sync >/dev/null # captured, but not due for an hour
sql "insert into t values('flushed')"
holds "stop uploads what is left" systemctl stop walsupd
holds "and it is in the replica" restored_has flushed
holds "an orderly stop is no failure" test "$(prop Result)" = success

config ''
mkdir -p /run/systemd/system/walsupd.service.d
walsupctl sandbox >/run/systemd/system/walsupd.service.d/paths.conf
printf '[Service]\nWatchdogSec=3s\n' >/run/systemd/system/walsupd.service.d/watchdog.conf
systemctl daemon-reload
holds "with the drop-in of walsupctl sandbox it starts" systemctl start walsupd
holds "which opens nothing but what is configured" \
	nsenter -t "$(prop MainPID)" -m sh -c 'touch /srv/app/x /srv/backup/x && ! touch /srv/x 2>/dev/null'
sql "insert into t values('opened')"
holds "and all that is needed" quietly walsupctl sync --wait

sleep 4
holds "an idle daemon is not restarted" test "$(prop NRestarts)" = 0
strace -f -o /dev/null -e trace=renameat2 -e inject=renameat2:delay_enter=60s -p "$(prop MainPID)" 2>/run/strace &
strace=$!
until_true 5 grep -qs attached /run/strace
sql "insert into t values('hung')"
holds "a worker that hangs trips the watchdog" until_true 10 tripped
disown
kill -9 $strace # a process that is traced does not end
holds "it is restarted" until_true 10 restarted
until_true 10 systemctl is-active -q walsupd
walsupctl sync --wait >/dev/null
holds "and nothing is lost" restored_has hung
systemctl stop walsupd

refused=$(grep -ci 'not permitted\|denied\|not locked' /run/work/walsupd.log)
[ "$refused" = 0 ] || grep -i 'not permitted\|denied\|not locked' /run/work/walsupd.log
holds "nothing was refused by a sandbox until the end" test "$refused" = 0

tenant='walsupctl -c /etc/walsup@app.ini'
printf '[walsup]\nstate-dir = /var/lib/walsup@app\nsocket = /run/walsup@app/walsup.sock\n' >/etc/walsup@app.ini
sed 's,/srv/backup,/srv/app/backup,' /etc/walsup.ini >>/etc/walsup@app.ini
chgrp app /etc/walsup@app.ini
chmod 640 /etc/walsup@app.ini
holds "a tenant's own starts" systemctl start walsupd@app
sql "insert into t values('mine')"
holds "and replicates without a capability" quietly $tenant sync --wait
holds "which it does not have" grep -q '^CapEff:.0*$' /proc/"$(systemctl show walsupd@app -p MainPID --value)"/status
holds "its reload works" systemctl reload walsupd@app
holds "its stop as well" systemctl stop walsupd@app
echo "systemd: $n situations"
finish
