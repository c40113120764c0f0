#!/bin/sh
# build.sh PYTHON CACHE: Home Assistant in a virtual environment of PYTHON (3.13), made once in CACHE; prints its Python.
# Without its frontend, and with what MQTT and the recorder need; some minutes, 600 MB.
set -eu
python=$1 cache=$2
version=2025.4.4
dir=$cache/home-assistant-$version

if [ ! -e "$dir/.made" ]; then
    echo "power: making $dir, this takes some minutes" >&2
    rm -rf "$dir"
    "$python" -m venv "$dir" >&2
    # Those beside it as the manifests of its recorder and of its MQTT have them.
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "homeassistant==$version" \
        SQLAlchemy==2.0.39 fnv-hash-fast==1.4.0 psutil-home-assistant==0.0.1 paho-mqtt==2.1.0 >&2 ||
        { echo "power: pip could not install Home Assistant (see above): is there a network?" >&2; exit 1; }
    touch "$dir/.made"
fi
echo "$dir/bin/python"
