# The end-to-end tests inside the sandbox of walsupd.service: everything the daemon and the tool do there is done
# under the unit's user, capabilities, paths and system calls. /run/given/suite says where they are, and
# how pytest is called.

. /run/given/suite
mkdir /srv/tree # wherever it is: /root and /home are closed in there
mount --bind "$tree" /srv/tree
systemd-sysusers /usr/lib/sysusers.d/walsup.conf
systemd-tmpfiles --create /usr/lib/tmpfiles.d/walsup.conf
{
	grep -vE '^(ExecStart|ExecReload|Type|NotifyAccess|Restart|RestartSec|WatchdogSec|Timeout|After|Wants)' \
		/usr/lib/systemd/system/walsupd.service
	cat <<UNIT
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
TimeoutStartSec=infinity
WorkingDirectory=/srv/tree
Environment=WALSUP_OUT=/srv/tree/$out PYTHONDONTWRITEBYTECODE=1 WALSUP_SANDBOXED=$parameters HOME=/var/lib/walsup
ExecStart=$pytest
StandardOutput=append:/run/given/pytest.log
StandardError=inherit
# the tests' own: pytest, servers, three daemons at a time
TasksMax=infinity
UNIT
} >/run/systemd/system/suite.service
systemctl daemon-reload
systemctl start suite.service
result=$(systemctl show suite.service -p Result --value)
[ "$result" = success ] || cat /run/given/pytest.log
passed=$(sed -n 's/^\(.* \)\?\([0-9]*\) passed.*/\2/p' /run/given/pytest.log | tail -n 1)
skipped=$(sed -n 's/^.* \([0-9]*\) skipped.*/\1/p' /run/given/pytest.log | tail -n 1)
holds "${passed:-0} end-to-end tests pass inside the sandbox of the unit (${skipped:-0} are left to e2e)" test "$result" = success -a "${passed:-0}" -gt 0
finish
