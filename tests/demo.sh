#!/bin/sh
# demo.sh - one live database to a directory and back. `make demo` runs it; nothing is left behind.
# Any step that fails ends it with a non-zero status. `make valgrind` runs it with WALSUP_WRAP set.
set -eu
out=$(cd "${WALSUP_OUT:-build/release}" && pwd)
PATH=$out:$out/helpers:$PATH
for program in walsupd walsupctl ledger; do
	command -v $program >/dev/null || { echo "demo: $program is not built: make demo"; exit 1; }
done

dir=$(mktemp -d /tmp/walsup-demo.XXXXXX)
cd "$dir"
writer= daemon=
ended() {
	status=$?
	trap - EXIT INT TERM HUP
	for pid in $writer $daemon; do kill "$pid" 2>/dev/null || true; done
	for pid in $writer $daemon; do wait "$pid" 2>/dev/null || true; done
	if [ $status -ne 0 ]; then
		echo
		echo "demo: FAILED. What walsupd said:"
		cat walsupd.log 2>/dev/null || true
	fi
	cd /
	rm -rf "$dir"
	exit $status
}
trap ended EXIT
trap 'exit 130' INT TERM HUP

say() { printf '\n# %s\n' "$*"; }
# show a command as one would type it, then run it
show() { printf '$ %s\n' "$*"; "$@" 2>&1; }
# until COMMAND succeeds, 20 s at most
until_ok() {
	what=$1 tries=0
	shift
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		for pid in $writer $daemon; do
			kill -0 "$pid" || tries=1000
		done
		if [ $tries -gt 400 ]; then
			echo "demo: $what never came about"
			exit 1
		fi
		sleep 0.05
	done
}
# the TXID column is no longer "-"
replicated() { walsupctl -c walsup.ini status bank | grep -q '^bank  *replicating  *backup  *[1-9a-f]'; }
has_entries() { [ "$(ledger count bank.db)" -gt "$1" ]; }

say "An application writes to its database, about 300 transactions a second, and goes on doing so."
ledger write bank.db 300 20000 &
writer=$!
until_ok "a database of some size" has_entries 40000
echo "bank.db has $(ledger count bank.db) ledger entries"

say "walsupd is told to replicate it to a directory. S3 is a [target] with other keys."
cat >walsup.ini <<EOF
[walsup]
state-dir = $dir/state
socket = $dir/walsup.sock

[target backup]
type = file
path = $dir/replica

[db bank]
path = $dir/bank.db
target = backup
EOF
sed -n '/target backup/,$p' walsup.ini | sed 's/^/    /'
echo
${WALSUP_WRAP:-} walsupd -c walsup.ini 2>walsupd.log &
daemon=$!
until_ok "the first transaction in the replica" replicated
ctl() { show ${WALSUP_WRAP:-} walsupctl -c walsup.ini "$@"; }
ctl status

say "What is committed now is in the replica when 'sync --wait' returns."
acked=$(ledger count bank.db)
ctl sync bank --wait
echo "$acked entries were committed before the call: a restore must have at least these"

say "Restore, while the application goes on writing."
ctl restore bank -o restored.db
restored_at=$(ledger count bank.db)
kill -0 "$writer" || { echo "demo: the application died"; exit 1; }
show ledger verify restored.db "$acked"
until_ok "another 300 entries" has_entries $((restored_at + 300))
echo "the live one has $(ledger count bank.db) entries by now"
ctl status bank

say "The application stops. After one more sync both must be the same, page by page."
kill "$writer"
wait "$writer" || { echo "demo: the application failed"; exit 1; }
writer=
ctl sync bank --wait
ctl restore bank -o final.db
show ledger verify final.db "$(ledger count bank.db)"
show ledger same bank.db final.db

files=$(find replica -name '*.ltx' | sort)
n=$(printf '%s\n' "$files" | wc -l)
say "In the replica: $n files, $(du -sk replica | cut -f1) KiB, in the layout of Litestream v0.5.$([ "$n" -le 3 ] || echo ' The first three:')"
printf '%s\n' "$files" | head -n 3

kill "$daemon"
wait "$daemon" || { echo "demo: walsupd did not stop in order"; exit 1; }
daemon=
say "walsupd has stopped, everything is cleaned up: the demonstration worked."
