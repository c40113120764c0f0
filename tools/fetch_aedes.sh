#!/bin/sh
# fetch_aedes.sh CACHE: unpacks aedes of npm, a broker that speaks only MQTT 3.1.1, and what it needs into CACHE, once.
# Nothing is installed, and nothing that it brings is run.
set -eu
cache=$1 version=1.2.0
[ ! -e "$cache/aedes/node_modules/aedes/aedes.js" ] || exit 0

fail() { echo "power: the tests of MQTT need aedes: $1" >&2; exit 1; }

command -v npm > /dev/null || fail "npm is missing: sudo apt install npm"
work=$cache/aedes.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work" || fail "$cache can't be written"
(cd "$work" && npm install --silent --no-audit --no-fund --ignore-scripts "aedes@$version" > /dev/null) ||
    fail "npm could not fetch it: is there a network?"
rm -rf "$cache/aedes"
mv "$work" "$cache/aedes"
