#!/bin/sh
# mkroot.sh CACHE ARCH SUITE PACKAGE...: makes a Debian of ARCH with Python and the packages in CACHE once, and prints
# its archive's path. It runs here under qemu-user. For root, whose apt-get installs the tools that are missing.
#
# Packages are only unpacked, by this machine's dpkg: none of their scripts runs, so that a root takes half a minute.
# There is no compiler, as on a Pi that was just set up.
set -eu
cache=$1 arch=$2 suite=$3
shift 3
packages=$(echo python3 ca-certificates "$@" | tr ' ' ',')
key=$(echo "$packages" | cat - "$0" | sha256sum | cut -c1-12)
archive=$cache/arm-$key/$arch-$suite.tar.zst

fail() { echo "power: the tests on Arm need a root: $1" >&2; exit 1; }

# The packages of the tools that are missing.
missing() {
    for tool in mmdebstrap zstd; do command -v $tool > /dev/null || echo $tool; done
    [ -x /usr/bin/qemu-arm-static ] || echo qemu-user-static
}

# Have the kernel give programs of this architecture to qemu: without systemd the package leaves that to others.
register() {
    case $arch in arm64) qemu=qemu-aarch64 ;; *) qemu=qemu-arm ;; esac
    formats=/proc/sys/fs/binfmt_misc
    [ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats || fail "this kernel has no binfmt_misc"
    [ -e $formats/$qemu ] || cat /usr/lib/binfmt.d/$qemu.conf > $formats/register || fail "$qemu can't be registered"
}

[ "$(id -u)" = 0 ] || fail "only root can make and enter one"
wanted=$(missing)
if [ -n "$wanted" ]; then
    wanted=$(echo $wanted)    # on one line
    command -v apt-get > /dev/null || fail "first: install $wanted"
    echo "power: installing $wanted" >&2
    ls /var/lib/apt/lists/*_Packages* > /dev/null 2>&1 || apt-get update -qq >&2 || fail "apt-get update failed (see above)"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $wanted >&2 ||
        fail "apt-get install failed (see above)"
fi
register

if [ ! -s "$archive" ]; then
    echo "power: making $archive, this takes a minute" >&2
    mkdir -p "$cache/arm-$key" || fail "$cache can't be written"
    work=$(mktemp -d "$cache/arm-$key/making.XXXXXX")
    trap 'rm -rf "$work" "$archive.$$"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    root=$work/root
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 2> /dev/null | head -n 1)
    # /usr merged first, so that the packages are unpacked through its links.
    mmdebstrap --mode=root --variant=extract --architectures="$arch" --include='?essential' --include="$packages" \
        --setup-hook='cd "$1" && mkdir -p usr/bin usr/sbin usr/lib proc sys dev && ln -s usr/bin usr/sbin usr/lib .' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$suite" "$root" "${mirror:-http://deb.debian.org/debian}" > "$work/log" 2>&1 ||
        { tail -n 30 "$work/log" >&2; fail "mmdebstrap failed (see above)"; }

    # What the packages' own scripts would have done, as far as it is needed.
    for file in passwd group; do cp "$root/usr/share/base-passwd/$file.master" "$root/etc/$file"; done
    [ -e "$root/usr/bin/awk" ] || ln -s mawk "$root/usr/bin/awk"
    mkdir -p "$root/etc/ssl/certs" "$root/root" "$root/tmp" "$root/run" "$root/var/lib"
    chmod 1777 "$root/tmp"
    # This machine's names and certificates.
    for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
        [ ! -e $file ] || cp -L $file "$root$file"
    done
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
    tar -C "$root" --numeric-owner --exclude='./dev/*' -c --zstd -f "$archive.$$" .
    mv "$archive.$$" "$archive"
    # Those of other inputs, which nobody has made for a month.
    find "$cache" -path "$cache/arm-*.tar.zst" ! -path "$cache/arm-$key/*" -mtime +30 -delete
fi
echo "$archive"
