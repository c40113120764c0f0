#!/bin/sh
# make_venv.sh PYTHON DIR REQUIREMENTS: a virtual environment with what REQUIREMENTS name, or one line that says what is missing.
# One that works is kept: the service may run by it, and it may have been made with --system-site-packages.
set -eu
python=$1 dir=$2 requirements=$3

fail() { echo "power: $1" >&2; exit 1; }

if "$dir/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    echo "power: installing into $dir what it lacks of $requirements"
else
    command -v "$python" > /dev/null || fail "$python is missing: sudo apt install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old, 3.11 or newer is needed: make PYTHON=/path/to/a/newer/python3"
    "$python" -c 'import ensurepip, venv' 2> /dev/null ||
        fail "Python's venv is missing: sudo apt install python3-venv"
    echo "power: making $dir for $("$python" --version), this takes a minute"
    rm -rf "$dir"
    "$python" -m venv "$dir" || fail "$dir can't be made: may this user write here?"
fi
# What is there already needs no network.
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 -r "$requirements" ||
    fail "pip could not install what $requirements names (see above): is there a network?"
# Another user's, with all that is needed, will do.
touch "$dir/.made" 2> /dev/null || :
