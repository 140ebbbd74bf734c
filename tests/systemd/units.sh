# The units as `make install` puts them: what they allow, what they refuse, the watchdog, a tenant.

tripped() { [ "$(prop Result)" = watchdog ]; }
restarted() { [ "$(prop NRestarts)" -gt 0 ]; }

systemd-sysusers /usr/lib/sysusers.d/walsup.conf
systemd-tmpfiles --create /usr/lib/tmpfiles.d/walsup.conf
an_application
config ''

holds "start returns when it is ready" systemctl start walsupd
holds "nothing of it is refused by the sandbox" test "$(grep -c "not permitted" /run/given/walsupd.log)" = 0
holds "and it has given up what it does not need" grep -q 'confined by Landlock' /run/given/walsupd.log
holds "status of systemd says how it fares: $(prop StatusText)" test -n "$(prop StatusText)"
walsupctl sync --wait >/dev/null
holds "walsupctl status is healthy" quietly walsupctl status
sql "insert into t values('first')"
walsupctl sync --wait >/dev/null
holds "what another user committed is restored" restored_has first
holds "the side files are that user's" test "$(stat -c %U:%a /srv/app/app.db-wal /srv/app/app.db-shm | sort -u)" = app:640
shadow=$(nsenter -t "$(prop MainPID)" -m cat /etc/shadow 2>/dev/null | wc -c)
ini=$(nsenter -t "$(prop MainPID)" -m cat /etc/walsup.ini | wc -c)
holds "/etc/shadow cannot be read inside the unit, its own configuration can" \
	test "$shadow" = 0 -a "$ini" -gt 0 -a -s /etc/shadow

config 'sync-interval = 1h'
holds "reload returns when it is done" systemctl reload walsupd
sql "insert into t values('not yet')"
walsupctl sync >/dev/null # captured, but not due for an hour
sql "insert into t values('flushed')"
holds "stop uploads what is left" systemctl stop walsupd
holds "and it is in the replica" restored_has flushed
holds "an orderly stop is no failure" test "$(prop Result)" = success

config 'sync-interval = ${APP_EVERY}'
printf '# for walsup.ini\nAPP_EVERY="2s"\n' >/etc/walsup.env
chmod 600 /etc/walsup.env
holds "a variable of /etc/walsup.env is expanded for the service" systemctl start walsupd
holds "and for walsupctl" grep -q '^sync-interval = 2s ' <(walsupctl config)
systemctl stop walsupd
rm /etc/walsup.env

config ''
mkdir -p /run/systemd/system/walsupd.service.d
walsupctl sandbox >/run/systemd/system/walsupd.service.d/paths.conf
printf '[Service]\nWatchdogSec=3s\n' >/run/systemd/system/walsupd.service.d/watchdog.conf
systemctl daemon-reload
holds "with the drop-in of walsupctl sandbox it starts" systemctl start walsupd
holds "which opens nothing but what is configured" \
	nsenter -t "$(prop MainPID)" -m sh -c 'touch /srv/app/x /srv/backup/x && ! touch /srv/x 2>/dev/null'
sql "insert into t values('opened')"
holds "and all that is needed" quietly walsupctl sync --wait

sleep 4
holds "an idle daemon is not restarted" test "$(prop NRestarts)" = 0
strace -f -o /dev/null -e trace=renameat,renameat2 -e inject=renameat,renameat2:delay_enter=60s -p "$(prop MainPID)" 2>/run/strace &
strace=$!
until_true 5 grep -qs attached /run/strace
sql "insert into t values('hung')"
holds "a worker that hangs trips the watchdog" until_true 10 tripped
disown
kill -9 $strace # a process that is traced does not end
holds "it is restarted" until_true 10 restarted
until_true 10 systemctl is-active -q walsupd
walsupctl sync --wait >/dev/null
holds "and nothing is lost" restored_has hung
systemctl stop walsupd

holds "the socket alone starts" systemctl start walsupd.socket
holds "with group and mode" test "$(stat -c %G:%a /run/walsup/walsup.sock)" = walsup:660
holds "and walsupd does not" test "$(prop ActiveState)" = inactive
holds "the first call starts walsupd and is answered" quietly walsupctl status
holds "on that socket" quietly walsupctl sync --wait
inode=$(stat -c %i /run/walsup/walsup.sock)
holds "a restart keeps the socket" systemctl restart walsupd
holds "and it still answers" test "$(stat -c %i /run/walsup/walsup.sock)" = "$inode" -a -n "$(walsupctl status)"
systemctl stop walsupd.socket walsupd 2>/dev/null
holds "the end of the socket unit removes it" test ! -e /run/walsup/walsup.sock

refused=$(grep -ci 'not permitted\|denied\|not locked' /run/given/walsupd.log)
[ "$refused" = 0 ] || grep -i 'not permitted\|denied\|not locked' /run/given/walsupd.log
holds "nothing was refused by a sandbox until the end" test "$refused" = 0

tenant='walsupctl -c /etc/walsup@app.ini'
printf '[walsup]\nstate-dir = /var/lib/walsup@app\nsocket = /run/walsup@app/walsup.sock\n' >/etc/walsup@app.ini
sed 's,/srv/backup,/srv/app/backup,' /etc/walsup.ini >>/etc/walsup@app.ini
chgrp app /etc/walsup@app.ini
chmod 640 /etc/walsup@app.ini
holds "a tenant's own starts" systemctl start walsupd@app
sql "insert into t values('mine')"
holds "and replicates without a capability" quietly $tenant sync --wait
holds "which it does not have" grep -q '^CapEff:.0*$' /proc/"$(systemctl show walsupd@app -p MainPID --value)"/status
holds "its reload works" systemctl reload walsupd@app
holds "its stop as well" systemctl stop walsupd@app
finish
