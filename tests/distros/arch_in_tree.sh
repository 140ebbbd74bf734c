#!/bin/sh
# arch_in_tree.sh MACHINE... - arch.sh in a minimal tree of Debian, which its foreign packages do not leave
set -eu
here=$(dirname "$(readlink -f "$0")")
release=${ARCH_RELEASE:-trixie}
"$here/tree.sh" make "$release"
"$here/tree.sh" drop "arch-$release"
"$here/tree.sh" run "$release" "arch-$release" sh -euc '
	apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends make >/dev/null
	mkdir -p /root/walsup
	tar -C /src --exclude=./build --exclude=./.git -c . | tar -x -C /root/walsup
	cd /root/walsup
	exec tests/distros/arch.sh "$@"' sh "$@"
