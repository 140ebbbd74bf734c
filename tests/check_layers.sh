#!/bin/sh
# check_layers.sh - who may include whom, and who may touch what. Prints how much it read; nothing
# read is a failure.
#
#   common/base    itself and the system
#   common/format  and common/base
#   common/store   and common/format
#   daemon, ctl    and all of common, never each other
#
# The rooms of daemon/ include downwards only: control, core, {replica, watch}, capture, spool, os.
# What still goes upwards is in the list `up`, one line each, which may only get shorter.
set -u
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad() { echo "check-layers: $*" >>"$tmp/bad"; }
code() { sed -e 's,//.*,,' -e 's,/\*.*\*/,,' -e 's,^ \* .*,,' -e 's,^ */\*.*,,' "$1"; }

cat >"$tmp/up" <<'EOF'
daemon/core/manager.c daemon/control/ctlserver.h
daemon/core/manager.c daemon/control/metrics.h
daemon/core/manager.h daemon/control/drill.h
daemon/core/manager.h daemon/control/hook.h
daemon/core/manager_db.c daemon/control/status.h
daemon/core/manager_look.c daemon/control/status.h
daemon/replica/keeper.c daemon/core/history_int.h
daemon/replica/keeper_list.c daemon/core/history_int.h
daemon/replica/stream.c daemon/core/database_int.h
daemon/replica/uploader.c daemon/core/database.h
daemon/replica/uploader_fence.c daemon/core/database.h
daemon/replica/uploader_look.c daemon/core/database.h
EOF
: >"$tmp/used"

# file:included, for every include of ours
grep -Hn '^#include "' common/*/*.[ch] daemon/*/*.[ch] ctl/*.[ch] |
	sed 's,^\([^:]*\):[0-9]*:#include "\([^"]*\)".*,\1 \2,' >"$tmp/own"
grep -Hn '^#include <' common/*/*.[ch] daemon/*/*.[ch] ctl/*.[ch] |
	sed 's,^\([^:]*\):[0-9]*:#include <\([^>]*\)>.*,\1 \2,' >"$tmp/system"

while read -r file included; do
	case $file in
	common/base/*) may='common/base' ;;
	common/format/*) may='common/base common/format' ;;
	common/store/*) may='common/base common/format common/store' ;;
	daemon/*)
		may='common/base common/format common/store daemon/os'
		case $file in
		daemon/os/*) ;;
		daemon/spool/*) may="$may daemon/spool" ;;
		daemon/capture/*) may="$may daemon/spool daemon/capture" ;;
		daemon/watch/*) may="$may daemon/watch" ;;
		daemon/replica/*) may="$may daemon/spool daemon/capture daemon/replica" ;;
		daemon/core/*)
			may="$may daemon/spool daemon/capture daemon/watch daemon/replica daemon/core" ;;
		daemon/control/*) may="$may daemon" ;;
		*) bad "$file is in no room of daemon/ that $0 knows" ;;
		esac
		;;
	ctl/*) may='common/base common/format common/store ctl' ;;
	esac
	ok=
	for ring in $may; do
		case $included in "$ring"/*) ok=1 ;; esac
	done
	if [ -z "$ok" ] && grep -qxF "$file $included" "$tmp/up"; then
		ok=1
		echo "$file $included" >>"$tmp/used"
	fi
	[ -n "$ok" ] || bad "$file includes $included"
	[ -e "$included" ] || bad "$file includes $included, which is not there"
done <"$tmp/own"
sort "$tmp/up" >"$tmp/up.sorted"
sort "$tmp/used" | comm -23 "$tmp/up.sorted" - | while read -r line; do
	bad "nobody needs this line of the list \`up\` any more: $line"
done

# system headers that belong to one place
while read -r file header; do
	case $header in
	# the last ones print versions
	sqlite3.h)
		where='daemon/capture/session.c daemon/capture/session_int.h
			daemon/capture/session_os.c daemon/replica/inventory_sql.h
			common/store/restore_check.c common/store/restore_side.c
			common/store/restore_wal.c common/store/restore_copy.c
			daemon/core/main.c daemon/control/status_walk.c
			daemon/control/metrics.c ctl/cmd_config.c'
		;;
	microhttpd.h) where='daemon/control/metrics_http.c' ;;
	curl/*) where='common/store/s3_* ctl/cmd_config.c' ;;
	systemd/*) where='daemon/os/notify.c daemon/control/ctlserver_socket.c common/base/log.c' ;;
	inih*|ini.h) where='common/format/conf*' ;;
	uv.h) where='common/store/* daemon/*/* ctl/*' ;;
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
for f in common/*/*.[ch] daemon/*/*.[ch] ctl/*.[ch]; do
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
for f in daemon/*/*.c; do
	code "$f" >"$tmp/code"
	case $f in
	daemon/capture/session.c | daemon/replica/inventory_db.c) ;;
	*) grep -qE '\bsqlite3_open' "$tmp/code" && bad "$f opens a database: that is for session.c" ;;
	esac
	grep -nE '\b(open|open64|openat|fopen|creat|fsx_open[a-z_]*|uv_fs_open) ?\(' "$tmp/code" >"$tmp/hit" || continue
	while IFS= read -r line; do
		opens=$((opens + 1))
		case $f:$line in
		# SQLite's own call; and questions about files that no session here has open, under a mutex
		daemon/capture/session_os.c:*openat\(AT_FDCWD,\ path,*) ;;
		daemon/capture/session_os.c:*O_RDONLY* | daemon/capture/session_os.c:*O_TMPFILE*) ;;
		daemon/capture/source_audit.c:*open\(path,\ O_RDONLY*) ;; # a -wal, which carries no locks
		daemon/capture/session.c:*) bad "$f opens a file raw: $line" ;;
		*db_path* | *-shm* | *db-\>path* | *conf.path* | *s-\>path* | *wal*)
			bad "$f may open a database or a side file raw: $line" ;;
		daemon/core/main.c:*open\(path,\ O_RDWR\ \|\ O_CREAT*) ;; # the lock of the state directory
		daemon/capture/dblock.c:*open\(path,*) ;; # the file that stands for databases
		daemon/control/hook.c:*/dev/null*) ;;
		daemon/os/confine.c:*O_PATH*) ;; # before anything else is open
		# a thread with descriptors of its own, whose closing drops nobody's locks
		daemon/watch/scan.c:*openat\(dir,\ name,* | daemon/watch/scan.c:*O_DIRECTORY*) ;;
		# files of the spool
		daemon/capture/capture.c:* | daemon/capture/pagemap.c:*) ;;
		daemon/capture/source_copymap.c:* | daemon/spool/spool*.c:* | daemon/spool/compact.c:* | daemon/replica/uploader.c:*) ;;
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
echo "check-layers: $own own and $system system includes, $(wc -l <"$tmp/up") upwards in daemon/," \
	"$opens raw opens there, curl with uv in:${both:- nothing}"
[ "$own" -gt 0 ] && [ "$system" -gt 0 ] && [ -n "$both" ]
