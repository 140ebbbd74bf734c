#!/bin/bash
# radosgw.sh DIR PORT - Ceph's RADOS Gateway over a cluster of one monitor and one OSD that keeps its objects in
# memory, on loopback, with every file below DIR (new or empty), without systemd. It prints one line
# "ENDPOINT KEY-ID SECRET" when it is ready, serves until standard input ends, and ends all that it started.
# Exit status 77: it cannot be had here, for the reason printed.
set -u -o pipefail
umask 077
unset CEPH_ARGS CEPH_CONF CEPH_KEYRING CEPH_LIB
dir=$(readlink -f "$1") port=$2
key_id=walsuptestkey0000001 secret=walsuptestsecret0000000000000000000001
conf=$dir/ceph.conf pids=

for p in ceph ceph-authtool monmaptool ceph-mon ceph-osd radosgw radosgw-admin curl; do
	command -v "$p" >/dev/null || { echo "there is no $p (packages radosgw, ceph-mon, ceph-osd)"; exit 77; }
done
# a path of a socket has at most 107 bytes
[ ${#dir} -le 80 ] || { echo "the path $dir is too long"; exit 1; }
mkdir -p "$dir"/{mon,osd,rgw,log} || exit 1

finish() {
	trap - EXIT INT TERM HUP
	# the monitor last: the others ask it while they end
	for p in $pids; do kill -9 "$p" 2>/dev/null; done
	wait 2>/dev/null
}
trap finish EXIT
trap 'exit 1' INT TERM HUP
die() {
	echo "radosgw: $*" >&2
	tail -qn 4 "$dir"/log/*.out >&2
	exit 1
}
until_true() { # SECONDS WHAT COMMAND...
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >>"$dir/log/wait.out" 2>&1; do
		for p in $pids; do kill -0 "$p" 2>/dev/null || die "one of them ended while $what was awaited"; done
		[ $SECONDS -lt "$end" ] || die "$what did not come up"
		sleep 0.1
	done
}
run() { # NAME COMMAND...: in the background; ended by finish
	local name=$1
	shift
	"$@" </dev/null >>"$dir/log/$name.out" 2>&1 &
	pids="$! $pids"
}
once() { timeout 60 "$@" >>"$dir/log/setup.out" 2>&1 || die "$1 failed"; }

# Debian 13's ceph-osd looks for them elsewhere than its package has them
classes=$(find /usr/lib -maxdepth 2 -type d -name rados-classes -print -quit)
mon_port=$((port + 1))
fsid=$(cat /proc/sys/kernel/random/uuid) osd_id=$(cat /proc/sys/kernel/random/uuid)
cat >"$conf" <<C
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$mon_port]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
ms_bind_ipv6 = false
auth_allow_insecure_global_id_reclaim = false
keyring = $dir/keyring
admin_socket = $dir/\$name.asok
run_dir = $dir
crash_dir = $dir/log
log_file = $dir/log/\$name.log
pid_file =
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
[mon]
mon_data = $dir/mon
mon_cluster_log_file = $dir/log/cluster.log
mon_data_avail_warn = 1
mon_data_avail_crit = 0
paxos_propose_interval = 0.05
[osd]
osd_data = $dir/osd
osd_objectstore = memstore
osd_class_dir = $classes
memstore_device_bytes = 1073741824
osd_max_object_name_len = 2048
osd_fast_shutdown = true
[client.rgw]
rgw_data = $dir/rgw
# without tcp_nodelay an answer may wait 40 ms for the acknowledgement of the one before
rgw_frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
# a test speaks SSE-C over plain http with itself
rgw_crypt_require_ssl = false
rgw_enable_usage_log = false
rgw_enable_lc_threads = false
rgw_dynamic_resharding = false
rgw_run_sync_thread = false
C

once ceph-authtool "$dir/keyring" --create-keyring --gen-key -n mon. --cap mon 'allow *'
for name in client.admin client.rgw osd.0; do
	once ceph-authtool "$dir/keyring" --gen-key -n $name --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
done
# the map is given: made from mon_host alone it lacks the monitor, which would look for itself for ever
once monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon_port]" --set-min-mon-release 16 "$dir/mon.map"
once ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/mon.map" --keyring "$dir/keyring"
run mon ceph-mon -c "$conf" -f -i a
# the monitor has to know the OSD by the uuid that its store is made with
once ceph -c "$conf" --connect-timeout 30 osd new "$osd_id" 0
once ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd_id"
run osd ceph-osd -c "$conf" -f -i 0
osd_is_up() { timeout 10 ceph -c "$conf" --connect-timeout 5 osd stat | grep -q ' 1 up'; }
until_true 60 "the OSD" osd_is_up
once radosgw-admin -c "$conf" -n client.rgw user create --uid=walsup --display-name=walsup \
	--access-key="$key_id" --secret="$secret"
run rgw radosgw -c "$conf" -f -n client.rgw
until_true 60 "the gateway" curl -sf -o /dev/null -m 5 "http://127.0.0.1:$port/"
echo "http://127.0.0.1:$port $key_id $secret"
cat >/dev/null
