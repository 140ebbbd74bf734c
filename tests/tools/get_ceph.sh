#!/bin/sh
# get_ceph.sh - Ceph's RADOS Gateway, from Debian, for tests/e2e/test_real_stores.py (some 70 MB to fetch). Where it
# cannot be had its tests are skipped: that is no failure here.
set -u
packages="radosgw ceph-mon ceph-osd ceph-common"
say() { echo "ceph: $*"; exit 0; }

command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && command -v ceph-osd >/dev/null && say "is there"
[ "$(id -u)" = 0 ] || say "its tests are skipped; as root: apt-get install --no-install-recommends $packages"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt-get update -q >/dev/null 2>&1
DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -q --no-install-recommends $packages >"$log" 2>&1 ||
	say "cannot be installed, its tests are skipped: $(tail -n 1 "$log")"
say "installed"
