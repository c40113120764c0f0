#!/bin/sh
# fetch_influxdb.sh CACHE: unpacks Debian's InfluxDB into CACHE once and prints the path of its influxd.
# Nothing is installed, and apt's own lists are left alone: any user can do this.
set -eu
cache=$1
dir=$cache/influxdb

fail() { echo "power: the tests need an InfluxDB: $1" >&2; exit 1; }

if [ ! -x "$dir/usr/bin/influxd" ]; then
    for tool in apt-get dpkg-deb; do
        command -v $tool > /dev/null || fail "$tool is missing, it is unpacked from Debian's package"
    done
    work=$cache/influxdb.$$
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs" || fail "$cache can't be written"
    apt="apt-get -qq -o Dir::State::lists=$work/lists -o Dir::Cache=$work -o Dir::Cache::archives=$work/archives
         -o APT::Sandbox::User=$(id -un)"
    echo "power: unpacking InfluxDB into $dir, this takes a minute" >&2
    $apt update >&2 || fail "apt-get update failed (see above): is there a network?"
    (cd "$work/debs" && $apt download influxdb >&2) || fail "no package influxdb in the sources of apt"
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
    [ -x "$work/root/usr/bin/influxd" ] || fail "no influxd in the package"
    rm -rf "$dir"
    mv "$work/root" "$dir"
fi
echo "$dir/usr/bin/influxd"
