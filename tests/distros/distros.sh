#!/bin/sh
# distros.sh RELEASE... - on a minimal tree of each: `make demo`, the gates in DISTRO_GATES (check-all: all of them), the
# package with the release's lintian. A row for each in docs/DISTROS.md, logs in build/distros. As root; it needs
# debootstrap, and a Debian archive in apt's configuration.
set -u
here=$(dirname "$(readlink -f "$0")")
out=${DISTROS_OUT:-build/distros}
cache=${WALSUP_DISTROS:-/var/cache/walsup-distros}
gates=${DISTRO_GATES:-build check-hardening check-docs check-units unit corpus}
mkdir -p "$out"
table=docs/DISTROS.md
passed=0 failed=0
# replace the release's row, or put it at the end
into_table() { # RELEASE ROW
	awk -v release="$1" -v row="$2" '
		index($0, "| " release " |") == 1 { if (!done) print row; done = 1; next }
		/END TABLE/ && !done { print row }
		{ print }' "$table" >"$out/table.md" && cp "$out/table.md" "$table"
}
value() { sed -n "s/^$1=//p" "$facts" | tail -n 1; }
for release; do
	echo "==== $release"
	facts=$out/$release.facts
	: >"$facts"
	"$here/tree.sh" make "$release" && "$here/tree.sh" drop "gates-$release" &&
		"$here/tree.sh" run "$release" "gates-$release" sh /src/tests/distros/inside.sh "$release" $gates >"$out/$release.log" 2>&1
	status=$?
	cp "$cache/work/gates-$release/upper/root/facts" "$facts" 2>/dev/null
	if [ $status = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
	row="| $(value release) | $(value gcc) | $(value sqlite) | $(value libuv) | $(value libcurl) | $(value systemd) |"
	row="$row $(value demo), $(value demo_minutes) min, $(value demo_packages) | $(value gates) |"
	row="$row $(value deb), $(value lintian) | $(value minutes) |"
	echo "$row"
	[ ! -e "$table" ] || ! [ -s "$facts" ] || into_table "$(value release)" "$row"
	if [ $status = 0 ]; then
		"$here/tree.sh" drop "gates-$release"
	else
		tail -n 30 "$out/$release.log"
		echo "==== $release: FAILED, see $out/$release.log; the tree is kept until the next run:"
		echo "tests/distros/tree.sh run $release gates-$release sh"
	fi
done
echo "distros: $passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
