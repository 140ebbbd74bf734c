#!/bin/bash
# steps.sh - what every scenario begins with (boot.sh puts it before each). A scenario says what holds, step by
# step, and ends with `finish`; the first thing that does not hold ends it.
exec >/run/given/out.tmp 2>&1
n=0
finish() {
	echo "$n situations"
	over
}
over() {
	mv /run/given/out.tmp /run/given/out
	systemctl poweroff -ff >/dev/null 2>&1
	exit
}
fine() { n=$((n + 1)); echo "  ok: $1"; }
wrong() {
	echo "  WRONG: $1"
	systemctl status --no-pager walsupd 2>&1 | head -n 20
	over
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

# a user with a live database, and a directory target
an_application() {
	echo 'app:x:1234:1234::/:/usr/sbin/nologin' >>/etc/passwd
	echo 'app:x:1234:' >>/etc/group
	mkdir -p /srv/app /srv/backup
	chown app:app /srv/app
	chown walsup:walsup /srv/backup
	chmod 750 /srv/app
	sql 'pragma journal_mode = wal; create table t(x); insert into t values(1)'
	chmod 640 /srv/app/app.db
}
config() { # KEY = VALUE of the database
	printf '[target local]\ntype = file\npath = /srv/backup\n[db app]\npath = /srv/app/app.db\ntarget = local\n%s\n' \
		"$1" >/etc/walsup.ini
	chgrp walsup /etc/walsup.ini
	chmod 640 /etc/walsup.ini
}
