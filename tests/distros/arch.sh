#!/bin/bash
# arch.sh [MACHINE...] - in a tree (tree.sh run) with this source: build for other machines and run that under
# qemu-user. Each: the programs without a warning, what the compiler was asked for, the unit tests; replicas that are
# written there and restored here, and the other way round. Big endian: the unit tests of the formats.
set -u
self=$(readlink -f "$0")
here=$(dirname "$self")
magic() { # MACHINE: as binfmt_misc wants it, name:M:offset:magic:mask:interpreter:flags
	local any='\x00\x00\x00\x00\x00\x00\x00\x00\x00' all='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff'
	case $1 in
	aarch64-*) echo ":qemu-aarch64:M::\\x7fELF\\x02\\x01\\x01$any\\x02\\x00\\xb7\\x00:$all\\xfe\\xff\\xff\\xff:$(command -v qemu-aarch64):F" ;;
	arm-*) echo ":qemu-arm:M::\\x7fELF\\x01\\x01\\x01$any\\x02\\x00\\x28\\x00:$all\\xfe\\xff\\xff\\xff:$(command -v qemu-arm):F" ;;
	s390x-*) echo ":qemu-s390x:M::\\x7fELF\\x02\\x02\\x01$any\\x00\\x02\\x00\\x16:$all\\xff\\xfe\\xff\\xff:$(command -v qemu-s390x):F" ;;
	esac
}
if [ "${1:-}" != --inside ]; then
	set -e
	[ $# -gt 0 ] || set -- aarch64-linux-gnu arm-linux-gnueabihf s390x-linux-gnu
	make deps-deb
	packaging/deps.sh arch libcmocka-dev sqlite3 'qemu-user|qemu-user-static'
	for machine; do make deps CROSS="$machine"; done
	# Their programs start each other: the kernel has to know of qemu. In a namespace of users it does so in there alone.
	exec unshare --user --map-users=all --map-groups=all --mount --fork "$self" --inside "$@"
fi

shift
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || { echo "arch: this kernel has no binfmt_misc of its own for a namespace (Linux 6.7)"; exit 1; }
failed=
step() { # NAME COMMAND...
	local name=$1 start=$SECONDS
	shift
	if "$@" >"build/arch-$name.txt" 2>&1; then
		echo "arch: $name: ok, $((SECONDS - start)) s"
		case $name in *-unit)
			echo "arch: $name: $(grep -c '^\[  PASSED  \]' "build/arch-$name.txt") programs, $(grep -c '^\[       OK \]' "build/arch-$name.txt") tests"
			grep '^WALSUP_QUICK' "build/arch-$name.txt" ;;
		esac
	else
		tail -n 40 "build/arch-$name.txt"
		echo "arch: $name: FAILED"
		failed="$failed $name"
	fi
}
mkdir -p build
# what is emulated is slow: no gigabytes, and not for ever
export WALSUP_QUICK=1 UNIT_SECONDS=${UNIT_SECONDS:-900}
step native make -j"$(nproc)" WERROR=1 programs build/release/helpers/ledger
for machine; do
	magic "$machine" >/proc/sys/fs/binfmt_misc/register || exit 1
	out=build/release-$machine
	step "$machine-build" make -j"$(nproc)" CROSS="$machine" WERROR=1 programs unit-programs "$out/helpers/ledger"
	step "$machine-hardening" make CROSS="$machine" check-hardening
	case $machine in
	s390x-*) step "$machine-unit" make CROSS="$machine" unit-formats ;;
	*)
		step "$machine-unit" make CROSS="$machine" unit
		step "$machine-replicas" "$here/replicas.sh" build/release "$out"
		;;
	esac
done
echo "arch: $# machines${failed:+, failed:$failed}"
[ -z "$failed" ]
