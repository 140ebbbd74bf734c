#!/bin/sh
# get.sh DIRECTORY - SQLite's own test program, testfixture, of the distribution's source package (the version whose
# library the applications here use), built in DIRECTORY. Nothing of the system's apt configuration is changed: the
# source package is asked for with a configuration of its own. Does nothing when it is there.
set -eu
dir=$1
[ -x "$dir/testfixture" ] && exit 0
fail() { echo "sqlite-suite: $*" >&2; exit 1; }
command -v apt-get >/dev/null || fail "there is no apt-get: the source package cannot be had"
[ -e /usr/include/tcl8.6/tcl.h ] || [ -e /usr/include/tcl/tcl.h ] || fail "tcl.h is missing: apt-get install tcl-dev"
for c in dpkg-source gcc make; do
	command -v $c >/dev/null || fail "there is no $c: make deps-test"
done
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache" "$dir/build"
cd "$dir"
# the same places that binary packages come from
{
	sed -n 's/^deb \(.*\)/deb-src \1/p' /etc/apt/sources.list 2>/dev/null || true
	for f in /etc/apt/sources.list.d/*.list; do
		[ -e "$f" ] && sed -n 's/^deb \(.*debian.*\)/deb-src \1/p' "$f"
	done
	for f in /etc/apt/sources.list.d/*.sources; do
		[ -e "$f" ] && awk -v RS= '/debian/ { uris = suites = comp = key = ""
			n = split($0, line, "\n")
			for (i = 1; i <= n; i++) {
				at = index(line[i], ":"); k = substr(line[i], 1, at - 1); v = substr(line[i], at + 2)
				if (k == "URIs") uris = v; if (k == "Suites") suites = v
				if (k == "Components") comp = v; if (k == "Signed-By") key = "[signed-by=" v "] "
			}
			m = split(uris, u, " "); s = split(suites, su, " ")
			for (i = 1; i <= m; i++) for (j = 1; j <= s; j++) print "deb-src " key u[i] " " su[j] " " comp }' "$f"
	done
} | grep -v nodesource >apt/sources.list || true
[ -s apt/sources.list ] || fail "no Debian source in /etc/apt"
apt="apt-get -q -o Dir::Etc::sourcelist=$PWD/apt/sources.list -o Dir::Etc::sourceparts=- \
	-o Dir::State::lists=$PWD/apt/lists -o Dir::Cache=$PWD/apt/cache -o APT::Sandbox::User="
$apt update >apt/log 2>&1 && $apt source sqlite3 >>apt/log 2>&1 || fail "apt-get source sqlite3: $(tail -n 1 apt/log)"
src=$(find . -maxdepth 1 -type d -name 'sqlite3-*' | head -n 1)
[ -n "$src" ] || fail "no source was unpacked"
echo "sqlite-suite: building ${src#./}"
mv "$src" source
cd build
../source/configure --with-tcl="$(dirname "$(find /usr/lib -name tclConfig.sh | head -n 1)")" >log 2>&1 &&
	make -j"${JOBS:-1}" testfixture >>log 2>&1 || fail "build: $(tail -n 3 log)"
cp testfixture ../testfixture.new
mv ../testfixture.new ../testfixture
