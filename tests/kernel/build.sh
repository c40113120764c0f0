#!/bin/sh
# build.sh CACHE: builds a User Mode Linux kernel with gpio-sim into CACHE once and prints the path of its binary.
# The source is Debian's package, unpacked and not installed; root's apt-get installs the tools that are missing.
set -eu
cache=$1
here=$(cd "$(dirname "$0")" && pwd)
source=$(sed -n 's/^# source: //p' "$here/kernel.config")
key=$(cat "$here/kernel.config" "$here/fp-registers.patch" "$here/gpio-sim.patch" | sha256sum | cut -c1-12)
dir=$cache/kernel-$key

fail() { echo "power: the tests on a real GPIO device need a kernel: $1" >&2; exit 1; }

# The packages of the tools that are missing.
missing() {
    for tool in flex bison bc make gcc patch; do
        command -v $tool > /dev/null || echo $tool
    done
    command -v xz > /dev/null || echo xz-utils
    [ -e /usr/include/stdio.h ] || echo libc6-dev
}

# The package's tarball, at $work/source.tar.xz.
fetch() {
    if [ -r "/usr/src/$source.tar.xz" ]; then
        ln -s "/usr/src/$source.tar.xz" "$work/source.tar.xz"
        return
    fi
    for tool in apt-get dpkg-deb; do
        command -v $tool > /dev/null || fail "$tool is missing, the source is Debian's package $source"
    done
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs"
    apt="apt-get -qq -o Dir::State::lists=$work/lists -o Dir::Cache=$work -o Dir::Cache::archives=$work/archives
         -o APT::Sandbox::User=$(id -un)"
    $apt update >&2 || fail "apt-get update failed (see above): is there a network?"
    (cd "$work/debs" && $apt download "$source" >&2) || fail "no package $source in the sources of apt"
    dpkg-deb -x "$work"/debs/*.deb "$work/package"
    mv "$work/package/usr/src/$source.tar.xz" "$work/source.tar.xz"
    rm -rf "$work/lists" "$work/debs" "$work/package"
}

# One step of the build; its output only where it fails.
step() {
    "$@" > "$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; fail "'$1' failed (see above)"; }
}

if [ ! -x "$dir/linux" ]; then
    [ "$(uname -m)" = x86_64 ] || fail "User Mode Linux is built on x86-64 only, not on $(uname -m)"
    packages=$(missing)
    if [ -n "$packages" ]; then
        packages=$(echo $packages)    # on one line
        [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || fail "first: sudo apt install $packages"
        echo "power: installing $packages" >&2
        ls /var/lib/apt/lists/*_Packages* > /dev/null 2>&1 || apt-get update -qq >&2 || fail "apt-get update failed (see above)"
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >&2 ||
            fail "apt-get install failed (see above)"
    fi
    work=$dir.$$
    trap 'rm -rf "$work"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    mkdir -p "$work/out" || fail "$cache can't be written"
    echo "power: building a kernel into $dir, this takes some minutes" >&2
    fetch
    # Left out: 40 % of the source, and no file of this kernel.
    step tar -C "$work" -xf "$work/source.tar.xz" --exclude='drivers/gpu/drm/*.[ch]'
    cd "$work/$source"
    step patch -p1 -i "$here/fp-registers.patch"
    step patch -p1 -i "$here/gpio-sim.patch"
    cp "$here/kernel.config" .config
    unset MAKEFLAGS MFLAGS MAKELEVEL    # of the make that may have called this
    step make ARCH=um olddefconfig
    for option in $(grep '^CONFIG' "$here/kernel.config"); do
        grep -qx "$option" .config || fail "the source does not know $option"
    done
    step make ARCH=um -j"$(nproc)"
    step strip -o "$work/out/linux" linux
    # Another build may have been faster: a directory that is there and not empty is left as it is.
    mv -T "$work/out" "$dir" 2> /dev/null || [ -x "$dir/linux" ] || fail "$dir can't be written"
fi
echo "$dir/linux"
