#!/bin/sh
# history.sh SEED - HISTORY_DAYS virtual days (tests/engines/history.c), restores against the ledger, no object that
# nobody knows, a clock that leaps and takes nothing from the window, and a control with a retention that forgets what
# the window needs.
set -eu
seed=$1
run=$WALSUP_OUT/engines/history
base=$(mktemp -d /dev/shm/walsup-historyXXXXXX 2>/dev/null || mktemp -d)
trap 'rm -rf "$base"' EXIT
mkdir "$base/a" "$base/control" "$base/rest"
echo "history: seed $seed"
"$run" live "$base/a" "${HISTORY_DAYS:-10}" "$seed"
"$run" judge "$base/a" 200 "$seed"
"$run" orphans "$base/a"
"$run" clock "$base/a"
"$run" judge "$base/a" 100 "$seed"
"$run" cost "$base/rest" 0 "$seed"
HISTORY=forget "$run" live "$base/control" 9 "$seed"
if HISTORY=forget "$run" judge "$base/control" 20 "$seed" >"$base/said"; then
	echo "history: the control was not noticed"
	exit 1
fi
tail -n 1 "$base/said" | sed 's/^history: /history: control: /'
