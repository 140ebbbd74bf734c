#!/bin/sh
# run.sh [check|all] - the model in wal.pml, checked by spin, and its controls, which have to fail.
#
#   check  one writer, two commits: a few seconds
#   all    two writers exhaustively, one writer with more commits, two writers with more commits by a bit state
#          search (not exhaustive); some minutes and 2 GiB
set -eu
here=$(cd "$(dirname "$0")" && pwd)
command -v spin >/dev/null || { echo "model: spin is missing: make deps-test"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$work"
total=0
controls=0

# flags of the model, flags of the search, options of the search -> $work/out; sets states, errors
search() {
	spin -a $1 "$here/wal.pml" >spin.out 2>&1 || { cat spin.out; exit 1; }
	${CC:-cc} -O1 -w -DSAFETY -DMEMLIM=6000 $2 -o pan pan.c
	./pan -m2000000 $3 >out 2>&1 || true
	states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out)
	errors=$(sed -n 's/.*, errors: \([0-9]*\)$/\1/p' out)
	if grep -q 'max search depth too small\|out of memory\|memory limit' out || [ -z "$errors" ]; then
		echo "model: the search of $1 did not end:"
		cat out
		exit 1
	fi
}

holds() {
	search "$@"
	echo "model: $1: ${states:-0} states, $errors errors"
	[ "$errors" = 0 ] || { grep violated out; exit 1; }
	[ -n "$states" ]
	total=$((total + 1))
}

control() {
	search "-DCOMMITS=2 -DWRITERS=1 $(printf -- ' -D%s' "$@")" -DCOLLAPSE ""
	[ "$errors" != 0 ] || { echo "model: the control $* did not fail"; exit 1; }
	controls=$((controls + 1))
	echo "model: control $* fails: $(sed -n 's/^pan:1: //p' out)"
}

holds "-DCOMMITS=2 -DWRITERS=1" -DCOLLAPSE ""
holds "-DCOMMITS=2 -DWRITERS=1 -DSLEEP" -DCOLLAPSE ""
if [ "${1:-check}" = all ]; then
	holds "-DCOMMITS=3 -DWRITERS=1" -DCOLLAPSE ""
	holds "-DCOMMITS=4 -DWRITERS=1" -DCOLLAPSE ""
	holds "-DCOMMITS=2 -DWRITERS=2" -DCOLLAPSE ""
	holds "-DCOMMITS=3 -DWRITERS=2" -DBITSTATE "-w31 -k3"
	holds "-DCOMMITS=3 -DWRITERS=1 -DSLEEP" -DCOLLAPSE ""
	holds "-DCOMMITS=2 -DWRITERS=2 -DSLEEP" -DCOLLAPSE ""
	holds "-DCOMMITS=4 -DWRITERS=1 -DOLD_SQLITE -DPOLITE" -DCOLLAPSE ""
fi
for c in UNSAFE LATE BLIND; do control $c; done
control SLEEP NOLOCK
control SLEEP TRUSTING
echo "model: $total searches without a violation, $controls controls that fail"
