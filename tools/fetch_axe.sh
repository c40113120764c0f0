#!/bin/sh
# fetch_axe.sh CACHE: unpacks axe-core of npm, which looks for barriers on a page, into CACHE once. Nothing is installed.
set -eu
cache=$1 version=4.10.3
[ ! -e "$cache/axe-core/package/axe.min.js" ] || exit 0

fail() { echo "power: the tests of the page need axe-core: $1" >&2; exit 1; }

command -v npm > /dev/null || fail "npm is missing: sudo apt install npm"
work=$cache/axe-core.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work" || fail "$cache can't be written"
(cd "$work" && npm pack --silent "axe-core@$version" > /dev/null) || fail "npm could not fetch it: is there a network?"
tar -xzf "$work/axe-core-$version.tgz" -C "$work"
rm -rf "$cache/axe-core" "$work/axe-core-$version.tgz"
mv "$work" "$cache/axe-core"
