#!/bin/sh
# check_layers.sh - who may include whom, and who may touch what. Prints how much it read; nothing
# read is a failure.
#
#   common/base    itself and the system
#   common/format  and common/base
#   common/store   and common/format
#   daemon, ctl    and all of common, never each other
set -u
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad() { echo "check-layers: $*" >>"$tmp/bad"; }
code() { sed -e 's,//.*,,' -e 's,/\*.*\*/,,' -e 's,^ \* .*,,' -e 's,^ */\*.*,,' "$1"; }

# file:included, for every include of ours
grep -Hn '^#include "' common/*/*.[ch] daemon/*.[ch] ctl/*.[ch] |
	sed 's,^\([^:]*\):[0-9]*:#include "\([^"]*\)".*,\1 \2,' >"$tmp/own"
grep -Hn '^#include <' common/*/*.[ch] daemon/*.[ch] ctl/*.[ch] |
	sed 's,^\([^:]*\):[0-9]*:#include <\([^>]*\)>.*,\1 \2,' >"$tmp/system"

while read -r file included; do
	case $file in
	common/base/*) may='common/base' ;;
	common/format/*) may='common/base common/format' ;;
	common/store/*) may='common/base common/format common/store' ;;
	daemon/*) may='common/base common/format common/store daemon' ;;
	ctl/*) may='common/base common/format common/store ctl' ;;
	esac
	ok=
	for ring in $may; do
		case $included in "$ring"/*) ok=1 ;; esac
	done
	[ -n "$ok" ] || bad "$file includes $included"
	[ -e "$included" ] || bad "$file includes $included, which is not there"
done <"$tmp/own"

# system headers that belong to one place
while read -r file header; do
	case $header in
	# the last ones print versions
	sqlite3.h) where='daemon/session.c daemon/session_int.h daemon/session_os.c daemon/inventory_sql.h common/store/restore_check.c common/store/restore_side.c common/store/restore_wal.c common/store/restore_copy.c daemon/main.c daemon/status_walk.c daemon/metrics.c ctl/cmd_config.c' ;;
	microhttpd.h) where='daemon/metrics_http.c' ;;
	curl/*) where='common/store/s3_* ctl/cmd_config.c' ;;
	systemd/*) where='daemon/notify.c daemon/ctlserver_socket.c common/base/log.c' ;;
	inih*|ini.h) where='common/format/conf*' ;;
	uv.h) where='common/store/* daemon/* ctl/*' ;;
	*) continue ;;
	esac
	ok=
	for w in $where; do
		case $file in $w) ok=1 ;; esac
	done
	[ -n "$ok" ] || bad "$file includes <$header>"
done <"$tmp/system"

# libcurl and libuv meet in one file (and its private header)
both=
for f in common/*/*.[ch] daemon/*.[ch] ctl/*.[ch]; do
	code "$f" >"$tmp/code"
	if grep -qE '\bcurl_(multi|easy|slist)_|CURLM?\b \*' "$tmp/code" && grep -qE '\buv_[a-z]+' "$tmp/code"; then
		both="$both $f"
		case $f in
		common/store/s3_transport.c) ;;
		*) bad "$f speaks to libcurl and to libuv: that is for common/store/s3_transport.c" ;;
		esac
	fi
done

# pure code has no descriptors, no clock, no loop
for f in common/format/*.[ch]; do
	code "$f" | grep -nE '(^|[^a-z_>.])(open|openat|fopen|read|write|time|clock_gettime|uv_[a-z]+) ?\(' >"$tmp/hit" &&
		case $f in common/format/conf.c) ;; *) bad "$f is not pure: $(head -n 1 "$tmp/hit")" ;; esac
done

# One file of the daemon opens databases, and nobody in the daemon opens one raw: closing such a
# descriptor drops the process's locks (daemon/DESIGN.md, I1). Every open() is named here with what it
# opens.
opens=0
for f in daemon/*.c; do
	code "$f" >"$tmp/code"
	if grep -qE '\bsqlite3_open' "$tmp/code" && [ "$f" != daemon/session.c ] && [ "$f" != daemon/inventory_db.c ]; then
		bad "$f opens a database: that is for daemon/session.c"
	fi
	grep -nE '\b(open|open64|openat|fopen|creat|fsx_open[a-z_]*|uv_fs_open) ?\(' "$tmp/code" >"$tmp/hit" || continue
	while IFS= read -r line; do
		opens=$((opens + 1))
		case $f:$line in
		# SQLite's own call; and questions about files that no session of this process has open, under a mutex
		daemon/session_os.c:*openat\(AT_FDCWD,\ path,* | daemon/session_os.c:*O_RDONLY* | \
		daemon/session_os.c:*O_TMPFILE*) ;;
		daemon/source_audit.c:*open\(path,\ O_RDONLY*) ;; # a -wal, which carries no locks
		daemon/session.c:*) bad "$f opens a file raw: $line" ;;
		*db_path* | *-shm* | *db-\>path* | *conf.path* | *s-\>path* | *wal*)
			bad "$f may open a database or a side file raw: $line" ;;
		daemon/main.c:*open\(path,\ O_RDWR\ \|\ O_CREAT*) ;; # the lock of the state directory
		daemon/dblock.c:*open\(path,*) ;; # the file that stands for databases
		daemon/hook.c:*/dev/null*) ;;
		daemon/confine.c:*O_PATH*) ;; # before anything else is open
		# a thread with descriptors of its own, whose closing drops nobody's locks
		daemon/scan.c:*openat\(dir,\ name,* | daemon/scan.c:*O_DIRECTORY*) ;;
		daemon/capture.c:* | daemon/pagemap.c:* | daemon/source_copymap.c:* | daemon/spool*.c:* | daemon/compact.c:* | daemon/uploader.c:*) ;; # files of the spool
		*) bad "$f opens something new; is it neither database nor -shm? then name it in $0: $line" ;;
		esac
	done <"$tmp/hit"
done

own=$(wc -l <"$tmp/own")
system=$(wc -l <"$tmp/system")
if [ -s "$tmp/bad" ]; then
	cat "$tmp/bad"
	exit 1
fi
echo "check-layers: $own own and $system system includes, $opens raw opens in daemon/, curl with uv in:${both:- nothing}"
[ "$own" -gt 0 ] && [ "$system" -gt 0 ] && [ -n "$both" ]
