#!/bin/sh
# fetch_npm.sh PACKAGE VERSION CACHE: unpacks PACKAGE of npm with what it needs into CACHE/PACKAGE, once.
# Nothing is installed, and none of the scripts that it brings is run.
set -eu
package=$1 version=$2 cache=$3
found=$cache/$package/node_modules/$package/package.json
[ ! -e "$found" ] || ! grep -q "\"version\": \"$version\"" "$found" || exit 0

fail() { echo "power: the tests of MQTT need $package: $1" >&2; exit 1; }

command -v npm > /dev/null || fail "npm is missing: sudo apt install npm"
work=$cache/$package.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work" || fail "$cache can't be written"
(cd "$work" && npm install --silent --no-audit --no-fund --ignore-scripts "$package@$version" > /dev/null) ||
    fail "npm could not fetch it: is there a network?"
rm -rf "${cache:?}/$package"
mv "$work" "$cache/$package"
