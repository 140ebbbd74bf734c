#!/bin/sh
# packages.sh DIRECTORY - old.deb and new.deb in it, for package.sh. The first is built twice: from this tree,
# and from the tarball in another place, with another time zone, language and umask. Both must be the same,
# bit by bit.
set -eu
d=$1
rm -rf "$d"
mkdir -p "$d/out"
d=$(cd "$d" && pwd)
build() { # FROM TO
	env -u MAKEFLAGS -u MAKELEVEL make --no-print-directory -C "$1" deb BUILD="$2" >"$2.log" 2>&1 ||
		{ tail -n 30 "$2.log"; echo "package: building in $1 failed"; exit 1; }
}
env -u MAKEFLAGS -u MAKELEVEL make --no-print-directory dist BUILD="$d/tar" >/dev/null
mkdir "$d/a somewhat longer place"
tar -x -C "$d/a somewhat longer place" -f "$d"/tar/walsup-*.tar.gz
mv "$d/a somewhat longer place"/walsup-* "$d/from-the-tarball"
build . "$d/here" &
(TZ=Pacific/Auckland LC_ALL=C.UTF-8 HOME=/nonexistent && export TZ LC_ALL HOME && umask 027 &&
	build "$d/from-the-tarball" "$d/there")
wait
for f in "$d"/here/deb/walsup*.deb; do
	cmp "$f" "$d/there/deb/$(basename "$f")" || { echo "package: $(basename "$f") is not reproducible"; exit 1; }
	sha256sum <"$f" | sed "s,-,$(basename "$f")  built twice,"
done
cp "$d"/here/walsup_*.deb "$d/out/old.deb"

version=$(cat packaging/VERSION).1
echo "$version" >"$d/from-the-tarball/packaging/VERSION"
{
	printf 'walsup (%s) bookworm; urgency=medium\n\n  * A newer one.\n\n' "$version"
	printf ' -- The walsup developers <walsup@localhost.localdomain>  %s\n\n' \
		"$(LC_ALL=C date -u -R -d "$(dpkg-parsechangelog -l packaging/debian/changelog -S Date) + 1 minute")"
	cat packaging/debian/changelog
} >"$d/from-the-tarball/packaging/debian/changelog"
build "$d/from-the-tarball" "$d/newer"
cp "$d"/newer/walsup_*.deb "$d/out/new.deb"

# the rpm has what the deb has
make_rpm() { env -u MAKEFLAGS -u MAKELEVEL make --no-print-directory rpm NODEPS=1 BUILD="$d/rpm"; }
make_rpm >"$d/rpm.log" 2>&1 || { tail -n 30 "$d/rpm.log"; echo "package: the rpm cannot be built"; exit 1; }
files() { sed -e 's,\.gz$,,' -e 's,^\./,/,' -e 's,^/usr/lib/systemd/,/lib/systemd/,' | grep -v '/$' | sort; }
dpkg-deb -c "$d/out/old.deb" | awk '{ print $6 }' | files |
	grep -v -e '/lintian/' -e /changelog -e /copyright >"$d/deb.files"
rpm -qpl "$d"/rpm/walsup-*.rpm | files >"$d/rpm.files"
missing=$(comm -23 "$d/deb.files" "$d/rpm.files")
[ -z "$missing" ] || { echo "package: the rpm lacks $missing"; exit 1; }
rpm -qp --scripts "$d"/rpm/walsup-*.rpm | grep -qE 'systemctl (enable|start)' && { echo "package: the rpm enables"; exit 1; }
echo "package: the rpm has the $(wc -l <"$d/deb.files") files of the deb"
