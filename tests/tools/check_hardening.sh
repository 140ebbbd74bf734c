#!/bin/sh
# check_hardening.sh PROGRAM... - each is built as Makefile's HARDEN says: asked of the program itself, not of
# the command line. The compiler notes its options in the debugging information, once for each file.
set -eu
flags='-fstack-protector-strong -fstack-clash-protection -fPIE -ftrivial-auto-var-init=zero
	-fno-delete-null-pointer-checks -fno-strict-overflow -fno-strict-aliasing -O2'
# what the processor has of its own; the words are readelf's
case $(readelf -h "$1" | sed -n 's/^ *Machine: *//p') in
*X86-64 | *80386) flags="$flags -fcf-protection=full -fzero-call-used-regs=used-gpr" ;;
AArch64) flags="$flags -mbranch-protection=standard -fzero-call-used-regs=used-gpr" ;;
esac
n=0
wrong() { echo "check-hardening: $p: $1"; exit 1; }
has() { # WHAT PATTERN READELF-OPTIONS...
	what=$1 pattern=$2
	shift 2
	readelf -W "$@" "$p" | grep -qE "$pattern" || wrong "no $what"
	n=$((n + 1))
}
hasnt() {
	what=$1 pattern=$2
	shift 2
	readelf -W "$@" "$p" | grep -qE "$pattern" && wrong "$what" || n=$((n + 1))
}
for p in "$@"; do
	has 'position independent executable' 'Type: +DYN .Position-Independent' -h
	has 'read-only relocations (-z relro)' GNU_RELRO -l
	has 'binding at the start (-z now)' 'FLAGS_1.*NOW.*PIE' -d
	has 'stack that cannot be executed' 'GNU_STACK .* RW +0x' -l
	has 'stack protector' '__stack_chk_fail' --dyn-syms
	has '_FORTIFY_SOURCE' '__(memcpy|snprintf|vsnprintf|read)_chk' --dyn-syms
	hasnt 'search path for libraries' '\((RPATH|RUNPATH)\)' -d
	hasnt 'relocations in the code' TEXTREL -d
	hasnt 'segment that is written and executed' 'LOAD .* RWE ' -l
	ours=$(readelf -W --debug-dump=info --dwarf-depth=1 "$p" | grep -c 'DW_AT_name.*: \(common\|daemon\|ctl\)/.*\.c$') || true
	[ "$ours" -gt 0 ] || wrong 'has no debugging information: nothing is known of its files'
	for f in $flags; do
		with=$(readelf -W --debug-dump=info --dwarf-depth=1 "$p" | grep 'DW_AT_producer.*GNU C11' | grep -c -e "$f") || true
		[ "$with" = "$ours" ] || wrong "$f for $with of its $ours files"
		n=$((n + 1))
	done
done
echo "check-hardening: $n properties of $# programs"
[ "$n" -gt 0 ]
