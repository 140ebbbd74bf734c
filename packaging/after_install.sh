#!/bin/sh
# after_install.sh - what a package does after its files are there, for `make install`: the user, the rights of the
# configuration, and what to do next. Without root or systemd-sysusers it says what is left to do.
set -eu
ini=$SYSCONFDIR/walsup.ini
if [ "$(id -u)" = 0 ] && command -v systemd-sysusers >/dev/null && systemd-sysusers "$SYSUSERSDIR/walsup.conf"; then
	chgrp walsup "$ini"
	chmod 640 "$ini"
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
elif ! getent passwd walsup >/dev/null; then
	cat <<-EOT

	The user walsup is missing, as which walsupd.service runs. As root:
	  useradd --system --home-dir /var/lib/walsup --shell /usr/sbin/nologin walsup
	  chgrp walsup $ini && chmod 640 $ini
	EOT
fi
cat <<-EOT

walsup is installed. What to do next:
  1. write a [target NAME] into $ini: walsup.ini(5), examples in the file
  2. walsupctl add /PATH/OF/A.db
  3. walsupctl check
  4. systemctl enable --now walsupd; walsupctl status
EOT
