# The Debian package, old.deb and new.deb: installed, used, upgraded under load, removed, purged.

left() { # everything of ours that is in the file system, but for the user and what is deleted (a whiteout)
	find /run/overlay /run/systemd /run/walsup* /run/lock \( -name '*walsup*' -o -path '*walsup*' \) \
		! -type c ! -path '/run/overlay/*/work/*' ! -path '*of-the-test.conf' ! -path '*.service.d' \
		! -path '*/app.db*' 2>/dev/null
	grep -ls walsup /run/overlay/etc/upper/systemd/system/*/* 2>/dev/null
}
write_on() { # until /run/enough: each commit is noted after it was acknowledged
	local i=0
	while [ ! -e /run/enough ]; do
		i=$((i + 1))
		sql "insert into t values('load $i')" && echo $i >/run/acknowledged
	done
}
running() { walsupctl status --json | sed -n 's/.*"version": *"\([^"]*\)".*/\1/p'; }
captured_anew() { walsupctl status app --json | sed -n 's/.*"full_captures": *\([0-9]*\).*/\1/p'; }
same_content() {
	rm -f /srv/r.db
	walsupctl restore app -o /srv/r.db >/dev/null 2>&1 || return 1
	[ "$(sqlite3 /srv/r.db .sha3sum 2>/dev/null || sqlite3 /srv/r.db .dump | sha256sum)" = \
		"$(as_app sqlite3 /srv/app/app.db .sha3sum 2>/dev/null || as_app sqlite3 /srv/app/app.db .dump | sha256sum)" ]
}
install_deb() { DEBIAN_FRONTEND=noninteractive dpkg -i "$1" >/run/given/dpkg.log 2>&1 || { cat /run/given/dpkg.log; return 1; }; }

rm -rf /var/lib/walsup # of the machine that lends its file system
rm -f /usr/sbin/policy-rc.d # a container's: services are neither started nor stopped by packages there
old=$(dpkg-deb -f /run/given/old.deb Version)
new=$(dpkg-deb -f /run/given/new.deb Version)
holds "nothing of it is there before" test -z "$(left)"
holds "$old installs" install_deb /run/given/old.deb
holds "it enables nothing unasked" test "$(systemctl is-enabled walsupd.service walsupd@app.service | sort -u)" = disabled
holds "it starts nothing unasked" test "$(systemctl is-active walsupd)" = inactive
holds "its configuration is for root and the daemon's group alone" \
	test "$(stat -c %U:%G:%a /etc/walsup.ini)" = root:walsup:640
holds "the programs say the package's version" test "$(walsupctl version | cut -d ' ' -f 2)" = "$old"
holds "as installed it starts, and says that there is nothing to do yet" systemctl start walsupd
holds "and stops" systemctl stop walsupd
holds "installed once more, it stays stopped" install_deb /run/given/old.deb
holds "which it does" test "$(systemctl is-active walsupd)" = inactive

an_application
config ''
holds "with a database in its configuration it starts" systemctl start walsupd
holds "and is enabled when asked" systemctl -q enable walsupd
sql "insert into t values('first')"
walsupctl sync --wait >/dev/null
holds "status is healthy" quietly walsupctl status
holds "what was committed is restored" restored_has first
config 'sync-interval = 200ms'
holds "an edited configuration is taken on reload" systemctl reload walsupd

write_on &
writer=$!
until_true 20 test -s /run/acknowledged
at=$(cat /run/acknowledged)
holds "upgraded to $new while the application writes" install_deb /run/given/new.deb
until_true 20 systemctl is-active -q walsupd
holds "the new one runs" test "$(running)" = "$new"
holds "with the configuration as it was edited" grep -q 200ms /etc/walsup.ini
holds "enabled as before" systemctl is-enabled -q walsupd
walsupctl sync --wait >/dev/null
touch /run/enough
wait $writer
all=$(cat /run/acknowledged)
holds "the application was not stopped by it ($at commits before, $all in all)" test "$all" -gt "$at"
walsupctl sync --wait >/dev/null
holds "and every commit that it was told of is restored" restored_has "load $all"
holds "all $all of them" test "$(sqlite3 /srv/r.db "select count(*) from t where x like 'load %'")" = "$all"
holds "the restored database equals the source" same_content
holds "the state was kept: nothing was captured anew" \
	test "$(captured_anew)" = 0 -a "$(grep -c 'captured again' /run/given/walsupd.log)" = 0

holds "removed, it is stopped" quietly dpkg -r walsup
holds "no process is left" test "$(systemctl is-active walsupd)" != active
holds "configuration and state stay" test -s /etc/walsup.ini -a -d /var/lib/walsup
sql "insert into t values('alone')"
holds "the database goes on without it" test "$(as_app sqlite3 /srv/app/app.db 'pragma wal_checkpoint(truncate); pragma quick_check' | tail -n 1)" = ok
holds "installed again, it goes on where it was" install_deb /run/given/new.deb
systemctl start walsupd
walsupctl sync --wait >/dev/null
holds "and has what was committed meanwhile" restored_has alone
holds "purged" quietly dpkg -P walsup
holds "it leaves nothing: $(left | head -n 5 | tr '\n' ' ')" test -z "$(left)"
finish
