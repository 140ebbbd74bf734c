#!/bin/sh
# gates.sh GATE... - run make targets one after the other, all of them even if one fails, and count.
set -u
make=${MAKE:-make}
jobs=${JOBS:-1}
unset MAKEFLAGS MAKELEVEL MFLAGS
passed=0 failed=0 failures=
began=$(date +%s)
for gate; do
	echo "==== $gate"
	start=$(date +%s)
	if $make --no-print-directory -j"$jobs" "$gate" </dev/null; then
		passed=$((passed + 1))
		echo "==== $gate: passed in $(($(date +%s) - start)) s"
	else
		failed=$((failed + 1))
		failures="$failures $gate"
		echo "==== $gate: FAILED after $(($(date +%s) - start)) s"
	fi
	echo
done
[ -z "$failures" ] || echo "failed:$failures"
echo "gates: $passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
