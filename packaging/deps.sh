#!/bin/sh
# deps.sh NAME PACKAGE... - install what is missing of these Debian packages, for the target NAME. Costs nothing, and
# needs no root, when nothing is. "a|b" is the first of them that this release has. APT_OPTIONS are for apt-get.
set -eu
name=$1
shift
here=$(dpkg --print-architecture)
# a name without an architecture means this machine's
there() {
	dpkg-query -W -f '${db:Status-Status} ${Architecture}\n' "$1" 2>/dev/null |
		case $1 in *:*) grep -q '^installed ' ;; *) grep -qx -e "installed $here" -e 'installed all' ;; esac
}
# which of a|b it is; the last one if apt knows none, as before its first update
pick() {
	for one in $(echo "$1" | tr '|' ' '); do
		if there "$one" || apt-cache show --no-all-versions "$one" >/dev/null 2>&1; then break; fi
	done
	echo "$one"
}
find_missing() { # PACKAGE...
	missing=
	for p; do
		case $p in *'|'*) p=$(pick "$p") ;; esac
		there "$p" || missing="$missing $p"
	done
}

find_missing "$@"
[ -n "$missing" ] || { echo "$name: nothing to install"; exit 0; }
if [ "$(id -u)" != 0 ]; then
	echo "$name: these packages are missing:$missing" >&2
	echo "hint: as root: make $name" >&2
	exit 1
fi
apt-get update -q
find_missing "$@"
echo "$name: installing$missing"
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends ${APT_OPTIONS:-} $missing
