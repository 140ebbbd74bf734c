#!/bin/sh
# libs3.sh ARCHITECTURE DIRECTORY - Debian's libs3.a for another architecture, out of its package: unlike the other
# libraries, libs3-dev cannot be installed for two architectures at a time.
set -eu
[ ! -e "$2/usr/lib/libs3.a" ] || exit 0
mkdir -p "$2"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
(cd "$tmp" && apt-get download -q "libs3-dev:$1" >/dev/null)
dpkg-deb -x "$tmp"/libs3-dev_*.deb "$2"
