#!/bin/sh
# power.sh [CUTS] - power loss at a step of the scripted life (scripted.c), on real file systems.
#
# The database and the spool are on a loop device; the ledger and the replica are not. At a step the file
# system is shut down without a flush: what was not synced is gone, as is every rename whose directory was
# not. After a new mount a fresh process recovers; every TXID that was acknowledged must be there and every
# state must have been committed. CUTS steps are spread over the whole life, per file system and mode.
# Modes: the application syncs its commits; it does not, and loses some that are in the replica. The control:
# walsup's own fsyncs do nothing, which must be noticed. Needs root and loop devices, else it is skipped.
set -eu
cuts=${1:-40}
out=${WALSUP_OUT:?the build directory}
program=$out/engines/scripted
skip() { echo "power: skipped ($*)"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root"
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
mnt=$work/mnt
image=
clean() {
	umount "$mnt" 2>/dev/null || true
	rm -rf "$work"
	[ -z "$image" ] || rm -f "$image"
}
trap clean EXIT
trap 'exit 1' INT TERM
mkdir "$mnt"
# an image in memory: cutting the power of a loop device needs no disk
image=$(mktemp -p "$([ -w /dev/shm ] && echo /dev/shm || echo "$work")" walsup-power.XXXXXX)

remount() {
	umount "$mnt"
	mount -o loop "$image" "$mnt"
}

# one cut: step, mode -> what recover says
cut_at() {
	rm -rf "$mnt/w" "$work/replica" "$work/acks"
	mkdir -p "$mnt/w" "$work/replica/l0"
	ln -s "$work/replica" "$mnt/w/replica"
	"$program" make "$mnt/w" "$work/acks"
	sync -f "$mnt"
	status=0
	SCRIPTED=$2 "$program" cut "$mnt/w" "$work/acks" "$1" "$mnt" >"$work/out" 2>&1 || status=$?
	[ $status = 9 ] || { echo "power: not cut at step $1, status $status: $(cat "$work/out")"; return 2; }
	remount
	SCRIPTED=$2 "$program" recover "$mnt/w" "$work/acks" >"$work/out" 2>&1
}

systems=0 total=0 bad=0 noticed=0
for fs in ext4 xfs; do
	command -v mkfs.$fs >/dev/null || { echo "power: $fs skipped (no mkfs.$fs)"; continue; }
	rm -f "$image"
	truncate -s 320M "$image"
	case $fs in
	ext4) mkfs.ext4 -q -F "$image" ;;
	xfs) mkfs.xfs -q -f "$image" ;;
	esac
	mount -o loop "$image" "$mnt" 2>"$work/out" || { echo "power: $fs skipped ($(head -n 1 "$work/out"))"; continue; }
	mkdir -p "$mnt/w" "$work/replica/l0"
	ln -sfn "$work/replica" "$mnt/w/replica"
	rm -f "$work/acks"
	"$program" make "$mnt/w" "$work/acks"
	steps=$("$program" cut "$mnt/w" "$work/acks" 1000000 "$mnt" | sed -n 's/^steps //p')
	# the ioctl itself may be missing
	if ! cut_at 1 full && [ "$status" = 2 ]; then
		echo "power: $fs skipped ($(head -n 1 "$work/out"))"
		umount "$mnt"
		continue
	fi
	systems=$((systems + 1))
	for mode in full off no-fsync; do
		i=0
		while [ $i -lt "$cuts" ]; do
			k=$((1 + (i * steps + steps / 2) / cuts))
			i=$((i + 1))
			total=$((total + 1))
			if cut_at $k $mode; then
				continue
			fi
			if [ $mode = no-fsync ]; then
				noticed=$((noticed + 1))
			else
				bad=$((bad + 1))
				echo "violation: power.sh, $fs, SCRIPTED=$mode, step $k of $steps: $(cat "$work/out")"
			fi
		done
	done
	umount "$mnt"
done
[ $systems -gt 0 ] || skip "no file system could be tried"
echo "power: $systems file systems, $total cuts, $bad violations; control without fsync: $noticed noticed"
[ $total -gt 0 ] && [ $bad = 0 ] && [ $noticed -gt 0 ]
