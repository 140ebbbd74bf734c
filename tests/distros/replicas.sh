#!/bin/sh
# replicas.sh OUT OTHER-OUT - what the programs in one directory replicate the others restore, and the other way round;
# byte for byte the same as their own restore, and page by page the same as the source.
set -eu
a=$(cd "$1" && pwd) b=$(cd "$2" && pwd)
ledger=$a/helpers/ledger
dir=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill $daemon; cd /; rm -rf "$dir"' EXIT
n=0
there_and_back() { # WRITES RESTORES
	rm -rf "$dir"/*
	cd "$dir"
	printf '[walsup]\nstate-dir = %s/state\nsocket = %s/sock\n[target t]\ntype = file\npath = %s/replica\n' "$dir" "$dir" "$dir" >ini
	printf '[db bank]\npath = %s/bank.db\ntarget = t\n' "$dir" >>ini
	"$ledger" write bank.db 300 2000 &
	writer=$!
	"$1/walsupd" -c ini 2>log &
	daemon=$!
	tries=0
	until "$1/walsupctl" -c ini status bank 2>/dev/null | grep -q '^bank  *replicating  *t  *[1-9a-f]'; do
		tries=$((tries + 1))
		[ $tries -lt 200 ] || { cat log; echo "replicas: nothing came into the replica"; kill $writer; exit 1; }
		sleep 0.2
	done
	kill $writer
	wait $writer
	"$1/walsupctl" -c ini sync bank --wait
	kill $daemon
	wait $daemon
	daemon=
	"$1/walsupctl" -c ini restore bank -o own.db >/dev/null
	"$2/walsupctl" -c ini restore bank -o theirs.db >/dev/null
	cmp own.db theirs.db
	"$ledger" same bank.db theirs.db
	"$2/walsupctl" -c ini verify bank >/dev/null
	n=$((n + 1))
}
there_and_back "$a" "$b"
there_and_back "$b" "$a"
echo "replicas: $n directions, $(find replica -name '*.ltx' | wc -l) files in the last one"
