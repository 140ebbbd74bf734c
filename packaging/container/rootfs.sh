#!/bin/sh
# rootfs.sh PROGRAMS ROOT - a root file system with walsupd and walsupctl of the directory PROGRAMS, the libraries they
# need, certificates, and a user. Any uid can run it.
set -eu
programs=$1 root=$2

# with the links on the way to it, each in the directory where the loader looks for it
place() {
	at=$(readlink -f "$(dirname "$1")")/$(basename "$1")
	mkdir -p "$root$(dirname "$at")"
	cp -P --preserve=mode "$at" "$root$at"
	[ ! -L "$at" ] || case $(readlink "$at") in
	/*) place "$(readlink "$at")" ;;
	*) place "$(dirname "$at")/$(readlink "$at")" ;;
	esac
}

mkdir -p "$root/usr/bin" "$root/etc" "$root/var/lib/walsup" "$root/run/walsup" "$root/run/lock" "$root/tmp"
# /lib is a link into /usr on every Debian of today
for d in bin sbin lib lib64; do
	[ ! -L "/$d" ] || { mkdir -p "$root/usr/$d" && ln -sfn "usr/$d" "$root/$d"; }
done
install -m 755 "$programs/walsupd" "$programs/walsupctl" "$root/usr/bin/"
strip "$root/usr/bin/walsupd" "$root/usr/bin/walsupctl"
for p in walsupd walsupctl; do
	ldd "$programs/$p" | sed -n 's,^[^/]*\(/[^ ]*\) (0x.*,\1,p'
done | sort -u | while read -r lib; do
	place "$lib"
done
place /etc/ssl/certs/ca-certificates.crt
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/sbin/nologin\nwalsup:x:10001:10001:walsup:/var/lib/walsup:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nwalsup:x:10001:\n' >"$root/etc/group"
chmod 1777 "$root/var/lib/walsup" "$root/run/walsup" "$root/run/lock" "$root/tmp"
