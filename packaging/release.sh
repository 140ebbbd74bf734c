#!/bin/sh
# release.sh [--untagged] - everything that a release consists of, in build/release-<version>/: the tarball of the tagged
# commit, a package for each release of Debian in RELEASES and each of ARCHITECTURES, a bill of materials for each, and
# checksums. As root, for the trees that the packages are built in (tests/distros/tree.sh). --untagged tries it out.
set -eu
cd "$(dirname "$0")/.."
releases=${RELEASES:-bookworm trixie}
architectures=${ARCHITECTURES:-amd64 arm64}
version=$(cat packaging/VERSION)
tag=v$version
build=${BUILD:-build}
cache=${WALSUP_DISTROS:-/var/cache/walsup-distros}
die() {
	echo "release: $1" >&2
	echo "hint: $2" >&2
	exit 1
}

# ---- may it be released? ----
[ -z "$(git status --porcelain)" ] || die "there are changes that are not committed" "git status"
grep -q "^## $version\$" CHANGELOG.md || die "CHANGELOG.md has no section $version" "write what is new, as '## $version'"
head -n 1 packaging/debian/changelog | grep -q "^walsup ($version) " ||
	die "packaging/debian/changelog does not begin with $version, which packaging/VERSION says" "make them agree"
if [ "${1:-}" != --untagged ]; then
	at=$(git rev-parse -q --verify "refs/tags/$tag^{commit}") ||
		die "there is no tag $tag" "git tag -a $tag -m 'walsup $version', once make check-all has passed"
	[ "$at" = "$(git rev-parse HEAD)" ] || die "the tag $tag is another commit than this one" "git checkout $tag"
fi

# ---- the tarball: what git has, nothing else, with the commit's time ----
out=$build/release-$version
rm -rf "$out"
mkdir -p "$out"
out=$(cd "$out" && pwd)
git archive --format=tar --prefix="walsup-$version/" HEAD | gzip -9n >"$out/walsup-$version.tar.gz"
echo "release: walsup-$version.tar.gz"

# ---- packages, each from the tarball in a tree of its release ----
for release in $releases; do
	tests/distros/tree.sh make "$release"
	for architecture in $architectures; do
		name=release-$release
		tests/distros/tree.sh drop "$name"
		mkdir -p "$cache/work/$name/upper/srv"
		cp "$out/walsup-$version.tar.gz" "$cache/work/$name/upper/srv/"
		tests/distros/tree.sh run "$release" "$name" \
			sh /src/packaging/release_in_tree.sh "$version" "$architecture" >"$out/$release-$architecture.log" 2>&1 ||
			{ tail -n 30 "$out/$release-$architecture.log" >&2; die "$release, $architecture: no package" "see $out/$release-$architecture.log"; }
		cp "$cache/work/$name/upper/srv/out/"* "$out/"
		tests/distros/tree.sh drop "$name"
		rm "$out/$release-$architecture.log"
		echo "release: $release, $architecture"
	done
done
(cd "$out" && sha256sum -- * >SHA256SUMS)
cat "$out/SHA256SUMS"
echo "release: $(grep -c '\.deb$' "$out/SHA256SUMS") packages in $out"
