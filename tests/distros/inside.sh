#!/bin/sh
# inside.sh RELEASE GATE... - as root in a minimal tree with this source in /src: the README's first command, the gates, the
# package. Each fact is a line NAME=VALUE of /root/facts, which distros.sh makes a row of.
set -u
facts=/root/facts
: >$facts
fact() { echo "$1=$2" | tee -a $facts; }
version_of() { v=$(dpkg-query -W -f '${Version}' "$1" 2>/dev/null) || v='?'; v=${v#*:}; echo "${v%%[-+~]*}"; }
packages() { dpkg-query -W -f '${db:Status-Abbrev}\n' | grep -c '^ii'; }
began=$(date +%s)
# minutes, with a tenth
minutes() { s=$(($(date +%s) - $1)); echo "$((s / 60)).$((s % 60 / 6))"; }

release=$1
shift
fact release "$release"
fact minimal "$(packages)"
# what the README asks for
apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends git make >/dev/null
mkdir -p /root/walsup
tar -C /src --exclude=./build --exclude=./.git -c . | tar -x -C /root/walsup
cd /root/walsup || exit 1

start=$(date +%s)
if make demo; then fact demo ok; else fact demo FAILED; fi
fact demo_minutes "$(minutes "$start")"
fact demo_packages "$(packages)"

start=$(date +%s)
make deps-test || fact deps FAILED
fact test_packages "$(packages)"
fact gcc "$(gcc -dumpfullversion)"
fact sqlite "$(version_of libsqlite3-0)"
fact libuv "$(version_of libuv1-dev)"
fact libcurl "$(version_of libcurl4-openssl-dev)"
fact systemd "$(version_of systemd)"
fact libmicrohttpd "$(version_of libmicrohttpd-dev)"
fact lintian "$(version_of lintian)"
if [ "$*" = check-all ]; then make check-all; else WERROR=1 JOBS=$(nproc) tests/gates.sh "$@"; fi >/root/gates.txt 2>&1
status=$?
cat /root/gates.txt
fact gates "$(sed -n 's/^gates: \(.*\) passed, \(.*\) failed, \(.*\) skipped$/\1 passed, \2 failed, \3 skipped/p' /root/gates.txt)"
fact programs "$(sed -n 's/^unit: \([0-9]*\) programs$/\1/p' /root/gates.txt | head -n 1)"
[ $status = 0 ] && fact unit ok || fact unit FAILED
fact gates_minutes "$(minutes "$start")"

if make deb >/root/deb.txt 2>&1; then fact deb ok; else fact deb FAILED; fi
tail -n 15 /root/deb.txt
fact minutes "$(minutes "$began")"
! grep -q 'FAILED' $facts
