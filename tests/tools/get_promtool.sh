#!/bin/sh
# get_promtool.sh - Debian's promtool into build/tools/, out of the package prometheus, which is not installed: that
# would start a server. Nothing to do where it is there already.
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
apt-get download -q prometheus >/dev/null 2>&1 || { apt-get update -q && apt-get download -q prometheus; }
dpkg-deb -x prometheus_*.deb x
install -m 755 x/usr/bin/promtool "$tool"
echo "get_promtool: $("$tool" --version 2>&1 | head -n 1)"
