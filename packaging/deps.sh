#!/bin/sh
# deps.sh NAME PACKAGE... - install what is missing of these Debian packages, for the target NAME. Costs nothing, and
# needs no root, when nothing is. "a|b" is the first of them that this release has.
set -eu
name=$1
shift
there() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
one_is_there() { for p in $(echo "$1" | tr '|' ' '); do there "$p" && return; done; return 1; }
known() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

missing=
for p; do one_is_there "$p" || missing="$missing $p"; done
[ -n "$missing" ] || { echo "$name: nothing to install"; exit 0; }
if [ "$(id -u)" != 0 ]; then
	echo "$name: these packages are missing:$missing" >&2
	echo "hint: as root: make $name" >&2
	exit 1
fi
apt-get update -q
install=
for p in $missing; do
	pick=${p##*|}
	for q in $(echo "$p" | tr '|' ' '); do
		if known "$q"; then pick=$q && break; fi
	done
	install="$install $pick"
done
echo "$name: installing$install"
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $install
