#!/bin/sh
# build.sh PYTHON CACHE: Home Assistant in a virtual environment of PYTHON (3.13), made once in CACHE; prints its Python.
# With its frontend, and what MQTT and the recorder need; some minutes, 800 MB.
set -eu
python=$1 cache=$2
version=2025.4.4
dir=$cache/home-assistant-$version
# Those beside it as the manifests of its frontend, of its recorder and of its MQTT have them.
packages="homeassistant==$version home-assistant-frontend==20250411.0 SQLAlchemy==2.0.39 fnv-hash-fast==1.4.0
psutil-home-assistant==0.0.1 paho-mqtt==2.1.0"

if [ "$(cat "$dir/.made" 2> /dev/null)" != "$packages" ]; then
    echo "power: making $dir, this takes some minutes" >&2
    rm -rf "$dir"
    "$python" -m venv "$dir" >&2
    # shellcheck disable=SC2086 # a word for each package
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check $packages >&2 ||
        { echo "power: pip could not install Home Assistant (see above): is there a network?" >&2; exit 1; }
    echo "$packages" > "$dir/.made"
fi
echo "$dir/bin/python"
