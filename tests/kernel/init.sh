#!/bin/sh
# init.sh: process 1 of a guest whose root is the host's /, read-only: mounts, a GPIO chip, one job, power off.
# From the kernel's command line, as variables: POWER_WORK, the host's directory with the job; POWER_CHIP, the label of
# a chip of 54 lines, or nothing; POWER_OTHER_CHIP, the label of one of 8 lines that comes before it, or nothing.
[ $$ = 1 ] || { echo "init.sh: this is process 1 of a guest, and nothing else" >&2; exit 2; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t configfs configfs /sys/kernel/config
mount -t debugfs debugfs /sys/kernel/debug
mkdir -p /dev/shm /dev/pts    # the kernel has mounted /dev
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mkdir /run/root /run/host /run/home /run/job /run/tmp
chmod 1777 /run/tmp
mount --bind / /run/root                           # the host's, with nothing of the guest's mounted over it
mount --bind "/run/root$POWER_WORK" /run/host      # the only one of these that can be written
mount -o remount,bind,ro none /run/root
mount -o remount,bind,ro none /
ip link set lo up 2> /dev/null || /sbin/ifconfig lo up
stty -F /dev/ttyS0 raw -echo

# chip NAME LABEL LINES: a simulated chip; prints its directory.
chip() {
    at=/sys/kernel/config/gpio-sim/$1
    mkdir -p "$at/bank"
    echo "$3" > "$at/bank/num_lines"
    echo "$2" > "$at/bank/label"
    echo 1 > "$at/live"
    echo "/sys/devices/platform/$(cat "$at/dev_name")/$(cat "$at/bank/chip_name")"
}
[ -z "$POWER_OTHER_CHIP" ] || OTHER_SIM_DIR=$(chip other "$POWER_OTHER_CHIP" 8)
[ -z "$POWER_CHIP" ] || SIM_DIR=$(chip pi "$POWER_CHIP" 54)
export SIM_DIR OTHER_SIM_DIR

cd /run/job
sh /run/host/job < /dev/null > /dev/ttyS0 2>&1
echo o > /proc/sysrq-trigger    # power off
sleep 60
