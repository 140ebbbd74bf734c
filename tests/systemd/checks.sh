# What walsupctl check says, and what the service then finds: set-ups in which root's shell can do what the unit cannot.
# Each is named by check, fails in the service (the control), and where it can be mended, works after the command that
# check printed.

inactive() { # for good: between two starts it is "activating"
	case $(prop ActiveState) in inactive | failed) ;; *) return 1 ;; esac
}
kill_off() { # at once, where a stop would try to upload for half a minute
	inactive && return
	systemctl stop --no-block walsupd
	systemctl kill -s KILL walsupd 2>/dev/null
	until_true 10 inactive
}
fresh() { # KEY = VALUE of the database: the service as installed, nothing replicated yet
	kill_off
	systemctl reset-failed walsupd 2>/dev/null
	rm -rf /etc/systemd/system/walsupd.service.d /var/lib/walsup /srv/backup /etc/walsup/* /etc/walsup.env
	mkdir -p /etc/systemd/system/walsupd.service.d /srv/backup
	chown walsup:walsup /srv/backup
	systemctl daemon-reload
	config "$1"
	: >/run/given/walsupd.log
}
dropin() { # LINES of [Service]
	printf '[Service]\n%s\n' "$1" >/etc/systemd/system/walsupd.service.d/own.conf
	systemctl daemon-reload
}
database_at() { # PATH
	mkdir -p "$(dirname "$1")"
	chown app:app "$(dirname "$1")"
	[ -e "$1" ] || as_app sqlite3 "$1" 'pragma journal_mode = wal; create table t(x); insert into t values(1)' >/dev/null
	chmod 640 "$(readlink -f "$1")"
}
instead_of() { sed -i "s,$1,$2," /etc/walsup.ini; } # TEXT TEXT
to_s3() { # LINES of the target
	printf '[target s3]\ntype = s3\nendpoint = %s\nbucket = litestream\n%s\n' "$endpoint" "$1" >>/etc/walsup.ini
	instead_of 'target = local' 'target = s3'
}
flat() { tr -s ' \n' ' ' </run/checked; }
named() { # TEXT...: check says so, and fails
	walsupctl check >/run/checked 2>&1 && { cat /run/checked; return 1; }
	for text in "$@"; do
		flat | grep -qF -e "$text" || { cat /run/checked; return 1; }
	done
}
fine_again() { walsupctl check >/run/checked 2>&1 || { cat /run/checked; return 1; }; }
fails() { # the service
	timeout 20 systemctl start walsupd >/dev/null 2>&1 || return 0
	until_true 10 unwell # a target that has not answered yet is no trouble in the first seconds
}
unwell() { ! { walsupctl sync --wait --timeout 2s && walsupctl status; } >/run/said 2>&1; }
works() {
	systemctl reset-failed walsupd 2>/dev/null
	systemctl restart walsupd && { walsupctl sync --wait --timeout 20s && walsupctl status; } >/run/said 2>&1 && return
	cat /run/said /run/given/walsupd.log
	return 1
}
hinted() { # run the command that check printed
	local command
	command=$(awk '/^    hint: /{ on = 1; sub(/.*hint: /, ""); printf "%s", $0; next } on && /^    /{ sub(/^ */, " "); printf "%s", $0; next }
		on { exit }' /run/checked)
	[ -n "$command" ] || { cat /run/checked; return 1; }
	kill_off
	sh -c "$command" >/run/hinted 2>&1 || { cat /run/hinted; return 1; }
}
case_of() { # WHAT TEXT...: named by check, and a failure of the service
	local what=$1
	shift
	holds "$what: check names it" named "$@"
	holds "$what: the service fails" fails
}
mended() { # WHAT
	holds "$1: the hint mends it" hinted
	holds "$1: check is content" fine_again
	holds "$1: so is the service" works
}

systemd-sysusers /usr/lib/sysusers.d/walsup.conf
systemd-tmpfiles --create /usr/lib/tmpfiles.d/walsup.conf
for d in /home /root /mnt /opt; do mount -t tmpfs -o mode=755 tmpfs $d; done
mkdir -p /etc/walsup
an_application
openssl req -x509 -newkey rsa:2048 -nodes -keyout /run/tls.key -out /run/tls.pem -days 9 -subj /CN=x \
	-addext subjectAltName=IP:127.0.0.1 >/dev/null 2>&1
mkfifo /run/hold
(exec 9<>/run/hold && exec /run/given/s3fault --dir /run/bucket --bucket litestream --key-pair AKIA:sesame --until-eof \
	--cert /run/tls.pem --key /run/tls.key >/run/port <&9) &
until_true 10 test -s /run/port
endpoint=https://127.0.0.1:$(head -n 1 /run/port)

fresh ''
holds "as installed, check is content" fine_again
holds "and says as whom" grep -q 'service walsupd.service, as user walsup' /run/checked
holds "so is the service" works
holds "what check wrote is not root's" test "$(find /srv/backup ! -user walsup | wc -l)" = 0

# ---- five of newcomers ------------------------------------------------------------------------
database_at /home/u/app/x.db
fresh ''
instead_of /srv/app/app.db /home/u/app/x.db
case_of "a database in a home" "does not see /home/u/app/x.db (ProtectHome=yes)"
holds "status leads to check" sh -c 'walsupctl status | tr -s " \n" " " | grep -q "walsupctl check"'
mended "a database in a home"

database_at /mnt/x.db
fresh ''
instead_of /srv/app/app.db /mnt/x.db
case_of "a database in another top-level directory" "may not write /mnt (ProtectSystem=strict)"
walsupctl status >/run/said
holds "status has the reason" sh -c 'tr -s " \n" " " </run/said | grep -q "cannot write /mnt/x.db: Read-only file system"'
holds "nothing says that it is not an error" test "$(cat /run/said /run/given/walsupd.log | grep -c 'not an error')" = 0
mended "a database in another top-level directory"

fresh ''
cp /run/tls.pem /root/ca.pem
to_s3 'ca-file = /root/ca.pem
access-key-id = AKIA
secret-access-key = sesame'
case_of "a ca-file of root's" "ca-file FAILED" "does not see /root/ca.pem (ProtectHome=yes)"
mended "a ca-file of root's"

fresh ''
cp /run/tls.pem /etc/walsup/ca.pem
mkdir -p /root/keys
echo sesame >/root/keys/secret
chmod 600 /root/keys/secret
to_s3 'ca-file = /etc/walsup/ca.pem
access-key-id = AKIA
secret-access-key-file = /root/keys/secret'
case_of "a secret of root's" "does not see /root/keys/secret"
holds "it is not restarted for ever" test "$(prop NRestarts)" = 0
mended "a secret of root's"

fresh ''
cp /run/tls.pem /etc/walsup/ca.pem
to_s3 'ca-file = /etc/walsup/ca.pem'
export AWS_ACCESS_KEY_ID=AKIA AWS_SECRET_ACCESS_KEY=sesame
case_of "keys of the shell alone" "AWS_* is set in the environment of your shell alone" \
	"NAME=VALUE to /etc/walsup.env"
holds "it is not restarted for ever" test "$(prop NRestarts)" = 0
holds "the log leads to check" grep -q 'walsupctl check' /run/given/walsupd.log
holds "as this process, check is content (the control)" quietly walsupctl check --unit none
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
printf 'AWS_ACCESS_KEY_ID=AKIA\n# mine\nAWS_SECRET_ACCESS_KEY="sesame"\n' >/etc/walsup.env
chmod 600 /etc/walsup.env
holds "as the hint says, check is content" fine_again
holds "so is the service" works

# ---- more of the kind -------------------------------------------------------------------------
fresh ''
dropin 'InaccessiblePaths=/srv/app'
holds "a drop-in that hides the database: check names it" named "InaccessiblePaths=/srv/app"
mkdir -p /run/systemd/system/walsupd.service.d
mv /etc/systemd/system/walsupd.service.d/own.conf /run/systemd/system/walsupd.service.d/
systemctl daemon-reload
holds "so it does for one in /run" named "InaccessiblePaths=/srv/app"
ln -s /dev/null /etc/systemd/system/walsupd.service.d/own.conf
systemctl daemon-reload
holds "masked by one of its name in /etc: check is content" fine_again
holds "so is the service" works
rm /run/systemd/system/walsupd.service.d/own.conf

fresh ''
instead_of /srv/backup /mnt/backup/walsup
case_of "a directory target that is nowhere yet" "may not write /mnt/backup/walsup, which does not exist" \
	"mkdir -p /mnt/backup/walsup"
walsupctl status >/run/said
holds "status leads to check" sh -c 'tr -s " \n" " " </run/said | grep -q "Read-only file system .*walsupctl check says"'
mended "a directory target that is nowhere yet"

fresh ''
mkdir -p /home/u/backup
instead_of /srv/backup /home/u/backup
case_of "a directory target in a home" "does not see /home/u/backup"
mended "a directory target in a home"

fresh ''
database_at /var/tmp/app/x.db
instead_of /srv/app/app.db /var/tmp/app/x.db
case_of "a database in a temporary directory" "it has an empty /var/tmp of its own (PrivateTmp=yes)"
mended "a database in a temporary directory"

fresh ''
ln -sf /home/u/app/x.db /srv/app/link.db
instead_of /srv/app/app.db /srv/app/link.db
case_of "a link into a home" "/srv/app/link.db, which is /home/u/app/x.db"
mended "a link into a home"

fresh ''
database_at /mnt/tenants/acme/x.db
instead_of /srv/app/app.db '/mnt/tenants/*/x.db'
systemctl start walsupd
holds "a pattern in another top-level directory: check names it" named "may not write /mnt/tenants (ProtectSystem=strict)"
holds "a pattern in another top-level directory: the service fails" until_true 10 \
	sh -c 'walsupctl status | grep -q "app/acme/x.db *failed"'
mended "a pattern in another top-level directory"

fresh ''
dropin EnvironmentFile=/etc/walsup/nothing
case_of "an EnvironmentFile that is missing" "EnvironmentFile=/etc/walsup/nothing, and cannot start"
touch /etc/walsup/nothing
holds "with the file, both are content" fine_again
holds "so is the service" works

fresh ''
cp /run/tls.pem /etc/walsup/ca.pem
to_s3 'ca-file = /etc/walsup/ca.pem'
dropin 'LoadCredential=s3-access-key-id:/root/keys/id
LoadCredential=s3-secret-access-key:/root/keys/secret'
case_of "a credential that is missing" "LoadCredential=s3-access-key-id:/root/keys/id, and cannot start"
echo AKIA >/root/keys/id
holds "with the file, check is content" fine_again
holds "and says where the keys came from" grep -q 'key id AKIA from $CREDENTIALS_DIRECTORY' /run/checked
holds "nothing of them is left" test -z "$(ls -d /run/walsup-check-* 2>/dev/null)"
holds "so is the service" works

fresh ''
dropin 'User=nosuch'
case_of "a user that does not exist" "runs as user nosuch, which does not exist" "217/USER"
holds "it is not restarted for ever" test "$(prop NRestarts)" = 0 -a "$(prop ActiveState)" = failed

fresh ''
dropin 'CapabilityBoundingSet=
AmbientCapabilities='
case_of "without capabilities, a database of somebody else's" "/srv/app: Permission denied" \
	"setfacl -m u:walsup:rwx /srv/app"

fresh ''
dropin 'CapabilityBoundingSet=
AmbientCapabilities='
chown root:root /etc/walsup.ini
case_of "without capabilities, a configuration of root's" "user walsup cannot read /etc/walsup.ini" "chgrp walsup"

fresh ''
printf '[walsup]\nstate-dir = /mnt/state\n' >>/etc/walsup.ini
mkdir -p /mnt/state
chown walsup /mnt/state
case_of "a state-dir elsewhere" "state-dir FAILED" "may not write /mnt/state"
mended "a state-dir elsewhere"

fresh ''
mkdir -p /mnt/socket
printf '[walsup]\nsocket = /mnt/socket/walsup.sock\n' >>/etc/walsup.ini
case_of "a socket outside of the runtime directory" "socket FAILED" "may not write /mnt/socket (ProtectSystem=strict)"
mended "a socket outside of the runtime directory"

fresh ''
mkdir -p /root/walsup.d
{ echo '[walsup]'; echo 'include = /root/walsup.d/*.ini'; } >>/etc/walsup.ini
printf '[db more]\npath = /srv/app/app2.db\ntarget = local\n' >/root/walsup.d/more.ini
database_at /srv/app/app2.db
holds "an include of root's: check names it" named "include FAILED" "does not see /root/walsup.d"
systemctl start walsupd
holds "an include of root's: the service has only the rest, or nothing" sh -c '! walsupctl status more >/dev/null 2>&1'
mended "an include of root's"
holds "an include of root's: the service has it now" quietly walsupctl status more

fresh ''
printf '#!/bin/sh\ntouch /srv/backup/hook-ran\n' >/home/u/hook
chmod 755 /home/u/hook
printf '[walsup]\non-state-change = /home/u/hook\n' >>/etc/walsup.ini
holds "a hook in a home: check names it" named "on-state-change FAILED" "does not see /home/u/hook"
systemctl start walsupd
mv /srv/app/app.db /srv/app/away.db
holds "a hook in a home: the service cannot run it" until_true 15 grep -q 'on-state-change.*hook.*No such file' /run/given/walsupd.log
mv /srv/app/away.db /srv/app/app.db
mended "a hook in a home"

fresh ''
cp /run/tls.pem /etc/walsup/ca.pem
mkdir -p /root/.aws
printf '[prod]\naws_access_key_id = AKIA\naws_secret_access_key = sesame\n' >/root/.aws/credentials
chmod 600 /root/.aws/credentials
to_s3 'ca-file = /etc/walsup/ca.pem
profile = prod'
export HOME=/root
case_of "a profile of root's" "those of /root/.aws/credentials are for your shell alone" "credentials-file = /etc/walsup/credentials"
holds "as this process, check is content (the control)" quietly walsupctl check --unit none
unset HOME

fresh ''
dropin 'ReadWritePaths=/mnt/nothing'
case_of "a path of the unit that does not exist" "ReadWritePaths=/mnt/nothing" "226/NAMESPACE" "mkdir -p /mnt/nothing"

fresh ''
cp /run/tls.pem /etc/walsup/ca.pem
to_s3 'ca-file = /etc/walsup/ca.pem
access-key-id = AKIA
secret-access-key = sesame'
dropin 'PrivateNetwork=yes'
case_of "a unit without a network" "PrivateNetwork=yes, so no server can be reached"

fresh ''
cp /run/tls.pem /etc/walsup/ca.pem
to_s3 'ca-file = /etc/walsup/ca.pem
access-key-id = AKIA
secret-access-key = sesame'
dropin 'IPAddressDeny=any
IPAddressAllow=192.0.2.0/24'
holds "addresses that the unit keeps away: check names it" named "may not talk to 127.0.0.1 (IPAddressDeny=any" "IPAddressAllow=127.0.0.1,"
if grep -qs 'IPAddressDeny.*not support\|BPF.*not support' /run/given/console; then
	echo "  (this kernel or namespace filters no addresses: what the service finds was not tried)"
else
	holds "addresses that the unit keeps away: the service fails" fails
fi
dropin 'IPAddressDeny=any
IPAddressAllow=127.0.0.1'
holds "with the address, both are content" fine_again
holds "so is the service" works

fresh ''
mkdir -p /srv/root/usr /srv/root/etc /srv/root/tmp /srv/root/run /srv/root/var/lib /srv/root/dev /srv/root/proc /srv/root/sys
for d in bin sbin lib lib64; do ln -sfn usr/$d /srv/root/$d; done
dropin 'RootDirectory=/srv/root
BindReadOnlyPaths=/etc'
case_of "a root directory without the program" "there is no /usr/bin/walsupd in RootDirectory=/srv/root" "203/EXEC"
dropin 'RootDirectory=/srv/root
BindReadOnlyPaths=/usr /etc'
case_of "a root directory without the database" "does not see /srv/app/app.db (RootDirectory=/srv/root)"
mended "a root directory without the database"

fresh ''
printf '[walsup]\nmetrics-listen = 127.0.0.1:80\n' >>/etc/walsup.ini
holds "metrics at a port of root's: check names it" named "a port below 1024 needs a capability"
systemctl start walsupd
holds "metrics at a port of root's: the service has none" grep -q 'no metrics: .*Permission denied' /run/given/walsupd.log

fresh ''
mkdir -p /etc/ssl/private
cp /run/tls.pem /etc/walsup/ca.pem
cp /run/tls.key /etc/ssl/private/walsup.key
chmod 600 /etc/ssl/private/walsup.key
to_s3 'ca-file = /etc/walsup/ca.pem
client-certificate = /etc/walsup/ca.pem
client-key = /etc/ssl/private/walsup.key
access-key-id = AKIA
secret-access-key = sesame'
case_of "a key in /etc/ssl/private" "client-key FAILED" "InaccessiblePaths=/etc/ssl/private"
mended "a key in /etc/ssl/private"
touch /etc/ssl/private/other.key
holds "and nothing else of that directory is opened" sh -c \
	"! nsenter -t $(prop MainPID) -m test -e /etc/ssl/private/other.key && nsenter -t $(prop MainPID) -m test -e /etc/ssl/private/walsup.key"

fresh ''
database_at /opt/acme/x.db
mkdir -p /srv/tenants
ln -sfn /opt/acme /srv/tenants/acme
instead_of /srv/app/app.db '/srv/tenants/*/x.db'
holds "a link out of a pattern: check names it" named "/srv/tenants/acme is a link to /opt/acme" "landlock"
systemctl start walsupd
holds "a link out of a pattern: the service does not replicate it" sh -c '! walsupctl sync app/acme/x.db --wait --timeout 3s >/dev/null 2>&1'

# ---- the configuration itself -----------------------------------------------------------------
fresh ''
cp /run/tls.pem /etc/walsup/ca.pem
to_s3 'ca-file = /etc/walsup/ca.pem
access-key-id = AKIA
secret-access-key = wrong'
chmod 644 /etc/walsup.ini
case_of "a readable secret is one finding among others" "everybody on this machine can read it" \
	"does not belong to key id AKIA" "2 problems"
holds "it is not restarted for ever" test "$(prop NRestarts)" = 0 -a "$(prop ActiveState)" = failed
holds "and ends as a wrong configuration does" test "$(prop ExecMainStatus)" = 78

fresh 'nosuchkey = 1'
holds "a configuration with a mistake: the service does not start" fails
holds "it is not restarted for ever" test "$(prop NRestarts)" = 0 -a "$(prop ActiveState)" = failed
rm /etc/walsup.ini
systemctl reset-failed walsupd
holds "no configuration: the service does not start" fails
holds "it is not restarted for ever" test "$(prop NRestarts)" = 0 -a "$(prop ActiveState)" = failed

# ---- a tenant's -------------------------------------------------------------------------------
fresh ''
printf '[walsup]\nstate-dir = /var/lib/walsup@app\nsocket = /run/walsup@app/walsup.sock\n' >/etc/walsup@app.ini
printf '[target local]\ntype = file\npath = /srv/app/backup\n[db app]\npath = /home/u/app/x.db\ntarget = local\n' >>/etc/walsup@app.ini
chgrp app /etc/walsup@app.ini
chmod 640 /etc/walsup@app.ini
walsupctl -c /etc/walsup@app.ini check >/run/said
holds "a tenant's configuration is judged by the tenant's unit" \
	sh -c 'tr -s " \n" " " </run/said | grep -q "service walsupd@app.service, as user app .*walsupctl -c /etc/walsup@app.ini sandbox --install"'
holds "and the hint mends it" sh -c \
	'walsupctl -c /etc/walsup@app.ini sandbox --install && walsupctl -c /etc/walsup@app.ini check && systemctl start walsupd@app && walsupctl -c /etc/walsup@app.ini sync --wait' >/run/said
systemctl stop walsupd@app

# ---- over from Litestream, whose unit has the keys ----------------------------------------------
fresh ''
cp /run/tls.pem /etc/walsup/ca.pem
printf '[Service]\nExecStart=/usr/bin/litestream replicate\nEnvironmentFile=-/etc/default/litestream\n' \
	>/etc/systemd/system/litestream.service
printf 'LITESTREAM_ACCESS_KEY_ID=AKIA\nLITESTREAM_SECRET_ACCESS_KEY=sesame\n' >/etc/default/litestream
cat >/etc/litestream.yml <<YML
access-key-id: \$LITESTREAM_ACCESS_KEY_ID
secret-access-key: \${LITESTREAM_SECRET_ACCESS_KEY}
dbs:
  - path: /srv/app/app.db
    replica: {url: 's3://litestream/app?endpoint=$endpoint'}
YML
walsupctl import-litestream /etc/litestream.yml >/etc/walsup.ini 2>/run/said
holds "keys of Litestream's unit come over, without a warning" test ! -s /run/said
sed -i 's,^type = s3,&\nca-file = /etc/walsup/ca.pem,' /etc/walsup.ini
chgrp walsup /etc/walsup.ini
chmod 640 /etc/walsup.ini
holds "and check is content" fine_again
holds "so is the service" works
sql "insert into t values('over')"
walsupctl sync --wait >/dev/null
holds "and what was committed is restored" restored_has over
finish
