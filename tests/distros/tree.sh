#!/bin/sh
# tree.sh - minimal systems of other releases, for distros.sh. As root.
#
#   tree.sh make SUITE          debootstrap SUITE into the cache, unless it is there
#   tree.sh run SUITE NAME COMMAND...
#                               run COMMAND as root in that tree, with this source in /src (read-only). What it changes
#                               goes into an overlay called NAME, which the next call with that name sees
#   tree.sh drop NAME           forget what was changed
#
# The cache is WALSUP_DISTROS, outside of the source. The mirror is that of the machine's own apt configuration, and so
# are apt's settings. Mounts and processes are in namespaces of their own and end with COMMAND.
set -eu
self=$(readlink -f "$0")
source=$(dirname "$(dirname "$(dirname "$self")")")
cache=${WALSUP_DISTROS:-/var/cache/walsup-distros}
die() { echo "distros: $*" >&2; exit 1; }

# the first Debian archive that apt has here
mirror() {
	apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' | sed -n 's,^Debian ,,p' | sed -n 1p
}
make_tree() {
	[ -e "$cache/$1/made" ] && return
	command -v debootstrap >/dev/null || die "there is no debootstrap. hint: apt-get install debootstrap"
	from=$(mirror)
	[ -n "$from" ] || die "apt has no Debian archive here to make a $1 from. hint: apt-get update"
	script=
	[ -e "/usr/share/debootstrap/scripts/$1" ] || script=/usr/share/debootstrap/scripts/sid
	mkdir -p "$cache"
	rm -rf "$cache/$1"
	debootstrap --variant=minbase "$1" "$cache/$1/root" "$from" $script >"$cache/$1.log" 2>&1 ||
		{ tail -n 5 "$cache/$1.log" >&2; die "$1 cannot be made, see $cache/$1.log"; }
	rm -f "$cache/$1/root"/var/cache/apt/archives/*.deb
	touch "$cache/$1/made"
}
# the packages that it fetched are kept for the next one
drop_tree() {
	for deb in "$1"/archives/*.deb; do
		[ ! -e "$deb" ] || mv -n "$deb" "$cache/archives/$(cat "$1/suite")/"
	done
	rm -rf "$1"
}
# in the namespaces
enter() {
	suite=$1 name=$2
	shift 2
	root=$cache/work/$name/root
	mount --make-rprivate /
	mkdir -p "$root" "$cache/work/$name/upper" "$cache/work/$name/work" "$cache/archives/$suite" \
		"$cache/work/$name/archives" "$cache/work/$name/archives.work"
	echo "$suite" >"$cache/work/$name/suite"
	mount -t overlay overlay -o \
		"lowerdir=$cache/$suite/root,upperdir=$cache/work/$name/upper,workdir=$cache/work/$name/work" "$root"
	mkdir -p "$root/src"
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount --rbind /sys "$root/sys"
	mount -t tmpfs tmpfs "$root/run"
	mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
	mount --bind "$source" "$root/src"
	mount -o remount,bind,ro "$root/src"
	# what was fetched before, with a lock of its own: apt waits for nobody
	mount -t overlay overlay -o "lowerdir=$cache/archives/$suite,upperdir=$cache/work/$name/archives" \
		-o "workdir=$cache/work/$name/archives.work" "$root/var/cache/apt/archives"
	mkdir -p "$root/run/lock"
	[ ! -e /etc/resolv.conf ] || cat /etc/resolv.conf >"$root/etc/resolv.conf"
	{
		apt-config dump | grep -E '^Acquire::(Check-|http|https|Retries)' || true
		echo 'Binary::apt-get::APT::Keep-Downloaded-Packages "true";'
	} >"$root/etc/apt/apt.conf.d/99of-the-machine"
	# not by chroot alone: whoever is in one gets no namespaces of users, which tests want
	mkdir -p "$root/.outside"
	cd "$root"
	pivot_root . .outside
	exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8 \
		chroot . /bin/sh -c 'umount -l /.outside && rmdir /.outside && exec "$@"' sh "$@"
}

case ${1:-} in
make) make_tree "$2" ;;
drop) drop_tree "${cache:?}/work/${2:?}" ;;
run)
	shift
	[ "$(id -u)" = 0 ] || die "it needs root"
	[ -e "$cache/$1/made" ] || die "there is no $1. hint: tree.sh make $1"
	exec unshare -m -p --fork --kill-child "$self" enter "$@" ;;
enter) shift; enter "$@" ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$self"; exit 2 ;;
esac
