#!/bin/bash
# boot.sh SCENARIO DIRECTORY - run the script SCENARIO as a service of a real systemd, which is booted as
# process 1 of new namespaces: what is changed of /etc, /usr and /var is gone with them. DIRECTORY is there as
# /run/given; what `make install DESTDIR=DIRECTORY/root` has put in it is installed, if anything. Needs root;
# says so and does nothing else where that or the kernel does not allow it.
set -u
self=$(readlink -f "$0")
here=$(dirname "$self")

if [ "${1:-}" != --inside ]; then
	name=$(basename "$1" .sh)
	skip() {
		echo "$name: skipped, $1"
		echo "${BOOT_IS:-all} the real systemd, $1" >>"${WALSUP_SKIPPED:-/dev/null}"
		exit 0
	}
	[ "$(id -u)" = 0 ] || skip "it needs root"
	for p in unshare nsenter strace sqlite3 systemd-sysusers setpriv; do
		command -v "$p" >/dev/null || skip "there is no $p"
	done
	[ -x /lib/systemd/systemd ] || skip "there is no systemd"
	unshare -m -p -u -n -i -C --fork true 2>/dev/null || skip "no namespaces can be made"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cp -r "$2/." "$work/"
	cat "$here/steps.sh" "$1" >"$work/scenario"
	chmod 755 "$work/scenario"
	timeout -k 5 "${SYSTEMD_SECONDS:-150}" unshare -m -p -u -n -i -C --fork --kill-child "$self" --inside "$work" \
		>"$work/console" 2>&1 </dev/null
	[ -s "$work/out" ] || { tail -n 30 "$work/console" "$work/out.tmp"; echo "$name: it did not come to its end"; exit 1; }
	cat "$work/out"
	grep -q '^[1-9][0-9]* situations$' "$work/out" && exit 0
	tail -n 20 "$work/walsupd.log" "$work/console"
	exit 1
fi

set -e
overlay() { # DIRECTORY LOWER...
	mkdir -p "/run/overlay$1/upper" "/run/overlay$1/work"
	mount -t overlay overlay -o "lowerdir=$2,upperdir=/run/overlay$1/upper,workdir=/run/overlay$1/work" "$1"
}
mount --make-rprivate /
mount --make-rshared / # services would have no credentials without it
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/lock /run/given /run/systemd/system
chmod 1777 /run/lock
mount --bind "$2" /run/given
mkdir -p /run/given/root/usr /run/given/root/etc
overlay /etc /run/given/root/etc:/etc
overlay /usr /run/given/root/usr:/usr
overlay /var /var
for d in /tmp /var/tmp /srv; do mount -t tmpfs -o mode=1777 tmpfs $d; done
[ ! -d /run/given/root/lib/systemd ] || cp -r /run/given/root/lib/systemd/. /usr/lib/systemd/
ip link set lo up 2>/dev/null || true
# there is no basic system to wait for here, no network and no journal
ln -s /dev/null /run/systemd/system/network-online.target
for u in walsupd.service walsupd@.service; do
	mkdir "/run/systemd/system/$u.d"
	printf '[Unit]\nDefaultDependencies=no\n[Service]\n%s\n' \
		"StandardOutput=append:/run/given/walsupd.log
StandardError=inherit" >"/run/systemd/system/$u.d/of-the-test.conf"
done
printf '[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/run/given/scenario\n' \
	>/run/systemd/system/scenario.service
printf '[Unit]\nDefaultDependencies=no\nRequires=scenario.service\n' >/run/systemd/system/t.target
container=walsup-test exec /lib/systemd/systemd --system --unit=t.target --log-target=console \
	--log-level=info --show-status=no
