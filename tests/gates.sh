#!/bin/sh
# gates.sh GATE... - run make targets one after the other, all of them even if one fails, and count. What a gate could
# not look at here it writes to $WALSUP_SKIPPED, one line each: "all REASON", then it counts as skipped, not as passed,
# or "part REASON". At the end they are listed: that much is not proven by this run.
set -u
make=${MAKE:-make}
jobs=${JOBS:-1}
here=$(dirname "$0")
unset MAKEFLAGS MAKELEVEL MFLAGS
WALSUP_SKIPPED=$(mktemp)
export WALSUP_SKIPPED
unproven=$(mktemp)
trap 'rm -f "$WALSUP_SKIPPED" "$unproven"' EXIT
passed=0 failed=0 skipped=0 failures=
for gate; do
	echo "==== $gate"
	start=$(date +%s)
	: >"$WALSUP_SKIPPED"
	if ! $make --no-print-directory -j"$jobs" "$gate" </dev/null; then
		failed=$((failed + 1))
		failures="$failures $gate"
		echo "==== $gate: FAILED after $(($(date +%s) - start)) s"
	elif grep -q '^all ' "$WALSUP_SKIPPED"; then
		skipped=$((skipped + 1))
		echo "==== $gate: SKIPPED, $(sed -n 's/^all //p' "$WALSUP_SKIPPED" | head -n 1)"
		# what `make help` says of it
		sed -n "s/^#:   $gate  *\(.*\)/$gate, which is: \1/p" "$here/check.mk" >>"$unproven"
	else
		passed=$((passed + 1))
		echo "==== $gate: passed in $(($(date +%s) - start)) s"
	fi
	sed "s/^[a-z]* /$gate: skipped: /" "$WALSUP_SKIPPED" >>"$unproven"
	echo
done
if [ -s "$unproven" ]; then
	echo "not proven here:"
	sed 's/^/  /' "$unproven"
	echo
fi
[ -z "$failures" ] || echo "failed:$failures"
echo "gates: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
