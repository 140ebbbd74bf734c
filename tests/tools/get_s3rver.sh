#!/bin/sh
# get_s3rver.sh - s3rver, an S3 server of other people's making, for tests/e2e/test_real_stores.py. It comes from
# the npm registry and is kept outside of the repository. Without npm or registry its tests are skipped: that is
# no failure here.
set -u
dir=${XDG_CACHE_HOME:-$HOME/.cache}/walsup-test
version=3.7.1
home=$dir/s3rver-$version
say() { echo "s3rver $version: $*"; exit 0; }

[ -x "$home/node_modules/.bin/s3rver" ] && say "is there, $home"
command -v npm >/dev/null || say "there is no npm, its tests are skipped"
mkdir -p "$dir" || exit 1
tmp=$(mktemp -d "$dir/s3rver.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
timeout 300 npm install --prefix "$tmp" --ignore-scripts --no-audit --no-fund --omit=dev "s3rver@$version" \
	>"$tmp/npm.txt" 2>&1 ||
	say "the npm registry does not answer, its tests are skipped: $(tail -n 1 "$tmp/npm.txt")"
rm -rf "$home" && mv "$tmp" "$home" || exit 1
say "installed in $home"
