#!/bin/sh
# find_python.sh VERSION: prints the path of a Python of VERSION, or reports that none was found and fails.
version=$1
find="import sys; print(sys.executable)"

"python$version" -c "$find" 2> /dev/null && exit
if command -v pyenv > /dev/null; then
    PYENV_VERSION=$(pyenv latest "$version" 2> /dev/null) "python$version" -c "$find" 2> /dev/null && exit
fi
echo "power: no Python $version here, its tests are left out" >&2
exit 1
