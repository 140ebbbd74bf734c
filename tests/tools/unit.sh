#!/bin/sh
# unit.sh JOBS PROGRAM... - run unit-test programs, so many at the same time, until one has failed. What a program prints
# stays together. The longest go first, which only matters for the time. UNIT_SECONDS: each may take so long; those that
# take longer are stopped and have failed, but the rest are run as well.
set -eu
jobs=$1
shift
[ $# -gt 0 ]
said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT
first='test_restore_verify|test_verify|test_restore|test_restore_v3|test_restore_time|test_capture|test_source|test_source_thread|test_glob'
seconds=${UNIT_SECONDS:-0}
export said seconds
{ printf '%s\n' "$@" | grep -E "/($first)\$" || true; printf '%s\n' "$@" | grep -vE "/($first)\$" || true; } |
	# shellcheck disable=SC2016 # for the inner shell; 255: xargs starts no more
	xargs -P "$jobs" -n 1 sh -c 'status=0; timeout "$seconds" "$0" >"$said/${0##*/}" 2>&1 || status=255
		if [ "$seconds" != 0 ] && [ $status != 0 ]; then
			echo "unit: $0 failed, or took longer than $seconds s" >>"$said/${0##*/}"; status=1; fi
		flock "$said" sh -c "echo \"== \$0\"; cat \"\$1\"" "$0" "$said/${0##*/}"; exit $status'
echo "unit: $# programs"
