#!/bin/bash
# image.sh DIRECTORY - build packaging/container/Containerfile with buildah, which needs no daemon, on a base made by
# debootstrap, which needs no registry of images; then run what came of it as a container would: process 1 of namespaces of
# its own, another user, its root file system read-only. DIRECTORY keeps the base, and the layers. Needs root, and says so where it is
# skipped. The last line counts what held.
set -u
cd "$(dirname "$0")/../.." || exit 1
skip() { echo "container: skipped, $1: the image was neither built nor run"; exit 0; }
[ "$(id -u)" = 0 ] || skip "it needs root"
for p in buildah debootstrap unshare nsenter chroot sqlite3 setpriv python3; do
	command -v "$p" >/dev/null || skip "there is no $p"
done
unshare -m -p -i -u --fork true 2>/dev/null || skip "no namespaces can be made"
mkdir -p "$1"
kept=$(readlink -f "$1")
work=$(mktemp -d)
chmod 711 "$work"
n=0 pid='' store=''
over() {
	[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null
	[ -z "$store" ] || exec 9>&-
	[ -z "${container:-}" ] || b rm "$container" >/dev/null 2>&1
	rm -rf "$work"
}
trap over EXIT
fine() { n=$((n + 1)); echo "  ok: $1"; }
holds() { # WHAT COMMAND...
	local what=$1
	shift
	"$@" && { fine "$what"; return; }
	echo "  WRONG: $what: $*"
	tail -n 20 "$work"/*.log
	exit 1
}
b() { buildah --root "$kept/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
until_true() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}

# ---- the recipe ---------------------------------------------------------------------------------
hadolint=$(command -v hadolint || echo build/tools/hadolint)
if [ -x "$hadolint" ]; then
	holds "hadolint has nothing to say" "$hadolint" packaging/container/Containerfile
else
	echo "  skipped: there is no hadolint: the recipe was not judged"
fi
compose=$(command -v check-jsonschema || echo build/tools/compose/bin/check-jsonschema)
if [ -x "$compose" ]; then
	holds "compose.yml is what the Compose Specification's schema allows" \
		"$compose" -q --builtin-schema vendor.compose-spec packaging/container/compose.yml
else
	echo "  skipped: there is no check-jsonschema (tests/tools/get_compose_check.sh): compose.yml was not judged"
fi
suite=$(sed -n 's/^ARG DEBIAN=\(.*\)-slim$/\1/p' packaging/container/Containerfile)
if [ ! -e "$kept/base.$suite/etc/debian_version" ]; then
	rm -rf "$kept/base.$suite"
	debootstrap --variant=minbase "$suite" "$kept/base.$suite" >"$work/debootstrap.log" 2>&1 || {
		tail "$work/debootstrap.log"
		skip "debootstrap cannot fetch $suite"
	}
	cp -r /etc/apt/apt.conf.d/. "$kept/base.$suite/etc/apt/apt.conf.d/"
fi
b inspect --type image "docker.io/library/debian:$suite-slim" >/dev/null 2>&1 || {
	base=$(b from scratch)
	b add -q "$base" "$kept/base.$suite" / && b commit -q "$base" "docker.io/library/debian:$suite-slim"
} >"$work/base.log" 2>&1 || { cat "$work/base.log"; exit 1; }
mkdir "$work/context"
if git ls-files -z >"$work/files" 2>/dev/null; then
	tar -c --null -T "$work/files"
else
	tar -c --exclude=./build .
fi | tar -x -C "$work/context"
build() {
	b build --isolation chroot --pull-never --layers --format docker -t walsup -f packaging/container/Containerfile \
		"$work/context" >"$work/build.log" 2>&1
}
holds "the image can be built" build
b inspect --type image walsup >"$work/inspect.json"
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["Docker"]["config"].get(sys.argv[2]))' "$work/inspect.json" "$1"; }
holds "it is not root" [ "$(field User)" = 10001:10001 ]
holds "walsupd is process 1" [ "$(field Entrypoint)" = "['/usr/bin/walsupd']" ]
holds "walsupctl status is its health" grep -q "'/usr/bin/walsupctl', 'status'" <<<"$(field Healthcheck)"
holds "its state is a volume" grep -q /var/lib/walsup <<<"$(field Volumes)"
container=$(b from --pull-never walsup)
root=$(b mount "$container")
size=$(du -sm "$root" | cut -f 1)
echo "  $(find "$root" -type f | wc -l) files, $size MiB"
holds "it is small" [ "$size" -lt 90 ]
holds "there is no shell in it" [ ! -e "$root/bin/sh" ]
holds "nothing in it is set-uid" [ -z "$(find "$root" -perm /6000)" ]

# ---- running it ---------------------------------------------------------------------------------
user=10001
mkdir -p "$work/s3" "$work/data" "$work/state" "$work/secrets"
chown $user:$user "$work/data" "$work/state"
exec 9> >(exec python3 tests/s3server.py --dir "$work/s3" --bucket litestream --key-pair "KEYID:sec/ret+" --until-eof \
	>"$work/port" 2>"$work/s3.log")
store=9
holds "there is a store" until_true 20 [ -s "$work/port" ]
endpoint=http://127.0.0.1:$(cat "$work/port")
printf 'sec/ret+' >"$work/secrets/s3-secret-access-key"
chmod 444 "$work/secrets/s3-secret-access-key"
# COMMAND... as process 1; its log is NAME.log
contain() { # NAME COMMAND...
	local log=$work/$1.log
	shift
	unshare -m -p -i -u --fork --kill-child bash -c '
		set -e
		root=$1 work=$2; shift 2
		mount --make-rprivate /
		mount --bind "$root" "$root"
		mkdir -p "$root/proc" "$root/data" "$root/run/secrets" "$root/program"
		touch "$root/etc/walsup.ini"
		[ ! -e "$work/walsup.ini" ] || mount --bind "$work/walsup.ini" "$root/etc/walsup.ini"
		for d in data state:var/lib/walsup secrets:run/secrets; do mount --bind "$work/${d%:*}" "$root/${d#*:}"; done
		[ ! -e "$work/program" ] || mount --bind "$work/program" "$root/program"
		for d in run/walsup run/lock tmp; do mount -t tmpfs -o mode=1777 tmpfs "$root/$d"; done
		mount -t proc proc "$root/proc"
		mount -o remount,ro,bind "$root"
		exec env -i S3_ENDPOINT="$S3_ENDPOINT" S3_BUCKET=litestream S3_KEY_ID=KEYID \
			AWS_ACCESS_KEY_ID=KEYID AWS_SECRET_ACCESS_KEY=sec/ret+ HOME=/var/lib/walsup PATH=/usr/bin \
			"$(command -v setpriv)" --no-new-privs \
			"$(command -v chroot)" --userspec=10001:10001 "$root" "$@"
	' - "$root" "$work" "$@" >"$log" 2>&1 &
	outer=$!
	until_true 20 grep -q . "/proc/$outer/task/$outer/children" 2>/dev/null
	pid=$(tr -d ' ' <"/proc/$outer/task/$outer/children")
}
inside() { # COMMAND...: as `podman exec` would
	env -i "S3_ENDPOINT=$endpoint" S3_BUCKET=litestream S3_KEY_ID=KEYID "$(command -v nsenter)" -t "$pid" -m -p -i -r \
		-S $user -G $user "$@"
}
# as the application's container would, which shares the volume and the user
sql() { setpriv --reuid $user --regid $user --clear-groups sqlite3 -cmd '.timeout 5000' "$work/data/app.db" "$@" >/dev/null; }
healthy() { inside /usr/bin/walsupctl status >"$work/status.log" 2>&1; }
restored() { # ROWS: the replica has them
	rm -f "$work/back.db"
	AWS_ACCESS_KEY_ID=KEYID AWS_SECRET_ACCESS_KEY=sec/ret+ "${WALSUP_OUT:-build/release}/walsupctl" restore -o "$work/back.db" \
		--url "s3://litestream/backups/app?endpoint=$endpoint" >"$work/restore.log" 2>&1 &&
		[ "$(sqlite3 "$work/back.db" 'select count(*) from t')" = "$1" ]
}
ends_with() { # STATUS
	local got
	wait "$outer"
	got=$?
	pid=''
	[ $got = "$1" ] || { echo "it ended with $got"; return 1; }
}
export S3_ENDPOINT=$endpoint

cp packaging/container/walsup.ini "$work/walsup.ini"
sql 'pragma journal_mode=wal; create table t(x); insert into t values(1)'
contain sidecar /usr/bin/walsupd
holds "beside an application it is healthy" until_true 30 healthy
holds "as process 1, and as its user" [ "$(sed -n 's/^NSpid:.*\t//p;s/^Uid:\t\([0-9]*\).*/\1/p' "/proc/$pid/status" | tr '\n' ' ')" = "10001 1 " ]
sql 'insert into t values(2)'
holds "what is committed is replicated" inside /usr/bin/walsupctl sync app --wait
holds "and can be restored" restored 2
sql 'insert into t values(3)'
kill -TERM "$pid"
holds "it stops when it is asked to" ends_with 0
holds "with everything uploaded" restored 3

# ---- with a program of its own ------------------------------------------------------------------
rm -rf "$work/data"/* "$work/state"/* "$work/walsup.ini"
cat >"$work/program.c" <<'C'
#include <signal.h>
#include <stdio.h>
#include <sqlite3.h>
#include <unistd.h>
static volatile sig_atomic_t asked;
static void on_term(int n) { asked = n; }
int main(void)
{
    sqlite3 *db;
    signal(SIGTERM, on_term);
    if (sqlite3_open("/data/app.db", &db) || sqlite3_exec(db, "pragma journal_mode=wal; create table if not exists t(x); insert into t values(1)", 0, 0, 0))
        return 99;
    for (int i = 0; i < 5; i++) /* orphans */
        if (fork() == 0) { if (fork() == 0) { usleep(1000); } _exit(0); }
    puts("started");
    fflush(stdout);
    while (!asked)
        usleep(10000);
    return sqlite3_exec(db, "insert into t values('goodbye')", 0, 0, 0) ? 98 : 4;
}
C
mkdir "$work/program"
gcc -o "$work/program/app" "$work/program.c" -lsqlite3
url="s3://litestream/backups/app?endpoint=$endpoint"
contain exec /usr/bin/walsupd --exec /program/app /data/app.db "$url"
holds "a program is run" until_true 30 grep -q started "$work/exec.log"
holds "with the newest replica" [ "$(sql 'select 1' && sqlite3 "$work/data/app.db" 'select count(*) from t')" = 4 ]
holds "it is healthy" until_true 30 healthy
only_two() { [ "$(wc -w <"/proc/$pid/task/$pid/children")" = 2 ]; }
holds "orphans are reaped" until_true 10 only_two
kill -TERM "$pid"
holds "SIGTERM goes to the program, whose status it is" ends_with 4
holds "its last commit is in the replica" restored 5
echo "container: $n situations"
