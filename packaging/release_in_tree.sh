#!/bin/sh
# release_in_tree.sh VERSION ARCHITECTURE - as root in a minimal tree: a package from /srv/walsup-VERSION.tar.gz, and
# its bill of materials, into /srv/out. Its version says which release it is for: 0.2.0~deb12.
set -eu
version=$1 architecture=$2
. /etc/os-release
case ${VERSION_ID:-} in ?*) suffix=~deb$VERSION_ID ;; *) suffix=~$VERSION_CODENAME ;; esac
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends make dpkg-dev python3-minimal
cross=
[ "$architecture" = "$(dpkg --print-architecture)" ] || cross=$(dpkg-architecture -a"$architecture" -qDEB_HOST_GNU_TYPE)
cd /srv
tar -xf "walsup-$version.tar.gz"
cd "walsup-$version"
sed -i "1s/($version)/($version$suffix)/" packaging/debian/changelog
make deps-deb CROSS="$cross"
make deb CROSS="$cross"
mkdir -p /srv/out
deb=$(ls build/walsup_*_"$architecture".deb)
cp "$deb" /srv/out/
python3 packaging/sbom.py "$deb" >"/srv/out/$(basename "$deb" .deb).cdx.json"
