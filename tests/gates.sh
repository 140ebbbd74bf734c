#!/bin/bash
# gates.sh GATE... [-- GATE...]... - run make targets, all of them even if one fails, and count. Those before the first
# `--` run one after the other; then each further group is a lane: lanes run side by side, the gates of a lane one after
# the other, and what such a gate prints is held back until it ends, so that nothing is mixed. A later lane gives way to
# an earlier one (nice): what waits for events belongs in the first. What a gate could not look at here it writes to
# $WALSUP_SKIPPED, one line each: "all REASON", then it counts as skipped, not as passed, or "part REASON". At the end they
# are listed: that much is not proven by this run.
set -u
make=${MAKE:-make}
jobs=${JOBS:-1}
niceness=0
here=$(dirname "$0")
unset MAKEFLAGS MAKELEVEL MFLAGS
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
TIMEFORMAT='%R %U %S'

# what is said of a gate that has ended: its time, and the processors' time it took
verdict() { # GATE STATUS
	local wall user sys took
	read -r wall user sys <"$results/$1.time"
	took=$(echo "$wall $user $sys" | awk '{ printf "%.0f s, %.0f s of CPU", $1, $2 + $3 }')
	if [ "$2" != 0 ]; then
		echo failed >"$results/$1.verdict"
		echo "==== $1: FAILED after $took"
	elif grep -q '^all ' "$results/$1.skipped"; then
		echo skipped >"$results/$1.verdict"
		echo "==== $1: SKIPPED, $(sed -n 's/^all //p' "$results/$1.skipped" | head -n 1)"
	else
		echo passed >"$results/$1.verdict"
		echo "==== $1: passed in $took"
	fi
	echo
}

gate() { # GATE: prints all the time
	local status=0
	: >"$results/$1.skipped"
	echo "==== $1"
	{ time WALSUP_SKIPPED=$results/$1.skipped nice -n $niceness $make --no-print-directory -j"$jobs" "$1" </dev/null 2>&3; } \
		3>&2 2>"$results/$1.time" || status=$?
	verdict "$1" $status
}

lane() { # NICENESS GATE...: prints whole gates
	local one
	niceness=$1
	shift
	for one; do
		gate "$one" >"$results/$one.said" 2>&1
		flock "$results/printing" cat "$results/$one.said"
	done
}

all=() first=() lanes=() side_by_side=
group=()
close_group() {
	if [ -z "$side_by_side" ]; then first=(${group[@]+"${group[@]}"}); else lanes+=("${group[*]}"); fi
	group=()
}
for word; do
	if [ "$word" = -- ]; then
		close_group
		side_by_side=1
	else
		group+=("$word")
		all+=("$word")
	fi
done
close_group

for one in ${first[@]+"${first[@]}"}; do gate "$one"; done
if [ -n "$side_by_side" ]; then
	set -m # a process group each, so that they end with this script, and Ctrl-C is not ignored in them
	pids=()
	trap 'kill -- ${pids[@]/#/-} 2>/dev/null; exit 130' INT TERM HUP
	for words in "${lanes[@]}"; do
		echo "==== side by side: $words"
		# shellcheck disable=SC2086 # gates have no blanks
		lane $((5 * ${#pids[@]})) $words &
		pids+=($!)
	done
	echo
	wait
fi

passed=0 failed=0 skipped=0 failures=
for one in ${all[@]+"${all[@]}"}; do
	case $(cat "$results/$one.verdict" 2>/dev/null) in
	passed) passed=$((passed + 1)) ;;
	skipped)
		skipped=$((skipped + 1))
		# what `make help` says of it
		sed -n "s/^#:   $one  *\(.*\)/$one, which is: \1/p" "$here/check.mk" >>"$results/unproven"
		;;
	*)
		failed=$((failed + 1))
		failures="$failures $one"
		;;
	esac
	sed "s/^[a-z]* /$one: skipped: /" "$results/$one.skipped" >>"$results/unproven"
done
if [ -s "$results/unproven" ]; then
	echo "not proven here:"
	sed 's/^/  /' "$results/unproven"
	echo
fi
# once more what a gate of a lane said last: of a long output, a reader may have the end alone
for one in $failures; do
	[ -s "$results/$one.said" ] || continue
	echo "==== the end of $one, which failed:"
	tail -n 40 "$results/$one.said"
	echo
done
[ -z "$failures" ] || echo "failed:$failures"
echo "gates: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
