#!/bin/sh
# mkimage.sh CACHE FLAVOUR: makes the image of a Debian 12 machine in CACHE once and prints its path.
# FLAVOUR is what starts it: sysvinit or systemd. root's apt-get installs the tools that are missing.
set -eu
cache=$1 flavour=$2
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
inputs="$here/mkimage.sh $here/setup.sh $here/chip.sh $here/agent.py $top/tests/kernel/inside.py $top/requirements.txt"
key=$(cat $inputs | sha256sum | cut -c1-12)
dir=$cache/boot-$key
image=$dir/$flavour.img
python=$top/.venv-test/bin/python

fail() { echo "power: the tests on booted machines need an image: $1" >&2; exit 1; }

# The packages of the tools that are missing.
missing() {
    command -v mmdebstrap > /dev/null || echo mmdebstrap
    [ -x /sbin/mke2fs ] || echo e2fsprogs
    [ "$(id -u)" = 0 ] || command -v newuidmap > /dev/null || echo uidmap
}

# One step; its output only where it fails.
step() {
    "$@" > "$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; fail "'$1' failed (see above)"; }
}

# The packages that requirements.txt names, for Debian 12's Python: at $1.
wheels() {
    step "$python" -m pip wheel --use-pep517 --wheel-dir "$1" -r "$top/requirements.txt"
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' && return
    for wheel in "$1"/*.whl; do
        case $wheel in *-none-any.whl) continue ;; esac
        name=$(basename "$wheel" | sed 's/^\([^-]*\)-\([^-]*\)-.*/\1==\2/')
        rm "$wheel"
        step "$python" -m pip download --no-deps --only-binary=:all: --python-version 3.11 -d "$1" "$name"
    done
}

if [ ! -s "$image" ]; then
    case $flavour in
    sysvinit) init=sysvinit-core,sysv-rc,initscripts,insserv,orphan-sysvinit-scripts,startpar ;;
    systemd) init=systemd,systemd-sysv,dbus ;;
    *) fail "no flavour $flavour: sysvinit or systemd" ;;
    esac
    [ -x "$python" ] || fail "$python is missing: run make test-boot"
    packages=$(missing)
    if [ -n "$packages" ]; then
        packages=$(echo $packages)    # on one line
        [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || fail "first: sudo apt install $packages"
        echo "power: installing $packages" >&2
        ls /var/lib/apt/lists/*_Packages* > /dev/null 2>&1 || apt-get update -qq >&2 || fail "apt-get update failed (see above)"
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >&2 ||
            fail "apt-get install failed (see above)"
    fi
    # A directory that everybody can reach: an ordinary user's root is another user's here.
    work=$(mktemp -d /tmp/power-boot.XXXXXX)
    trap 'rm -rf "$work" "$image.$$"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    chmod 755 "$work"
    mkdir -p "$dir" || fail "$cache can't be written"
    echo "power: making a machine with $flavour: $image, this takes a minute" >&2

    mkdir "$work/files"
    cp $inputs "$work/files"
    wheels "$work/files/wheels"

    # unshare makes an ordinary user the root of the files it makes.
    if [ "$(id -u)" = 0 ]; then mode=root within=; else mode=unshare within="mmdebstrap --unshare-helper"; fi
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 2> /dev/null | head -n 1)
    step mmdebstrap --mode=$mode --variant=minbase --format=tar \
        --include="$init,python3,python3-venv,logrotate,procps,iproute2,kmod" \
        --aptopt='APT::Sandbox::User "root"' --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="copy-in '$work/files' /root" \
        --customize-hook="chroot \"\$1\" sh /root/files/setup.sh $flavour /root/files" \
        --customize-hook='rm -rf "$1/root/files"' \
        bookworm "$work/root.tar" "${mirror:-http://deb.debian.org/debian}"
    $within sh -c '
        set -e
        root=$(mktemp -d /tmp/power-root.XXXXXX)
        trap "rm -rf $root $root.img" EXIT
        chmod 755 "$root"
        tar -C "$root" -x --exclude="./dev/*"
        /sbin/mke2fs -q -F -t ext4 -E root_owner=0:0 -d "$root" "$root.img" 700M >&2
        cat "$root.img"
        echo made >&2' < "$work/root.tar" 2> "$work/log" | cp --sparse=always /dev/stdin "$image.$$"
    grep -qx made "$work/log" || { cat "$work/log" >&2; fail "the image can't be made (see above)"; }
    mv "$image.$$" "$image"
    # Those of other inputs, which nobody has made for a month.
    find "$cache" -path "$cache/boot-*.img" ! -path "$dir/*" -mtime +30 -delete
fi
echo "$image"
