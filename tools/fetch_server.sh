#!/bin/sh
# fetch_server.sh PACKAGE PROGRAM CACHE [LIBRARY...]: unpacks Debian's PACKAGE, and the packages of its libraries, into
# CACHE once and prints the path of its PROGRAM.
# Nothing is installed, and apt's own lists are left alone: any user can do this.
set -eu
package=$1 program=$2 cache=$3
shift 3
dir=$cache/$package

fail() { echo "power: the tests need $package: $1" >&2; exit 1; }

found() {
    for path in "$1/usr/bin/$program" "$1/usr/sbin/$program" "$1/sbin/$program"; do
        [ ! -x "$path" ] || { echo "$path"; return; }
    done
}

if [ -z "$(found "$dir")" ]; then
    for tool in apt-get dpkg-deb; do
        command -v $tool > /dev/null || fail "$tool is missing, it is unpacked from Debian's package"
    done
    work=$cache/$package.$$
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs" || fail "$cache can't be written"
    apt="apt-get -qq -o Dir::State::lists=$work/lists -o Dir::Cache=$work -o Dir::Cache::archives=$work/archives
         -o APT::Sandbox::User=$(id -un)"
    echo "power: unpacking $package into $dir, this takes a minute" >&2
    $apt update >&2 || fail "apt-get update failed (see above): is there a network?"
    (cd "$work/debs" && $apt download "$package" "$@" >&2) || fail "no package $package${*:+, $*} in the sources of apt"
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
    [ -n "$(found "$work/root")" ] || fail "no $program in the package"
    rm -rf "$dir"
    mv "$work/root" "$dir"
fi
found "$dir"
