#!/bin/sh
# get_promtool.sh - Debian's promtool into build/tools/, out of its package, which up to Debian 12 is prometheus and
# is not installed: that would start a server. Nothing to do where it is there already.
set -eu
cd "$(dirname "$0")/../.."
tool=$PWD/build/tools/promtool
[ -x "$tool" ] && exit 0
mkdir -p build/tools
if found=$(command -v promtool); then
	ln -sf "$found" "$tool"
	exit 0
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
cd "$tmp"
# a package that has it comes first where there are both
fetch() { apt-get download -q promtool >/dev/null 2>&1 || apt-get download -q prometheus >/dev/null 2>&1; }
fetch || { apt-get update -q && fetch; }
dpkg-deb -x prom*.deb x
install -m 755 x/usr/bin/promtool "$tool"
echo "get_promtool: $("$tool" --version 2>&1 | head -n 1)"
