#!/bin/sh
# unit.sh JOBS PROGRAM... - run unit-test programs, so many at the same time, until one has failed. What a program prints
# stays together. The longest go first, which only matters for the time.
set -eu
jobs=$1
shift
[ $# -gt 0 ]
said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT
first='test_restore_verify|test_verify|test_restore|test_restore_v3|test_restore_time|test_capture|test_source|test_glob'
export said
{ printf '%s\n' "$@" | grep -E "/($first)\$" || true; printf '%s\n' "$@" | grep -vE "/($first)\$" || true; } |
	# shellcheck disable=SC2016 # for the inner shell; 255: xargs starts no more
	xargs -P "$jobs" -n 1 sh -c 'status=0; "$0" >"$said/${0##*/}" 2>&1 || status=255
		flock "$said" sh -c "echo \"== \$0\"; cat \"\$1\"" "$0" "$said/${0##*/}"; exit $status'
echo "unit: $# programs"
