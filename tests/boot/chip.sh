#!/bin/sh
# A Pi's chip on gpio-sim: 54 lines labelled pinctrl-bcm2711, for the group gpio. /run/sim_dir names its directory.
set -e
at=/sys/kernel/config/gpio-sim/pi
mkdir -p $at/bank
echo 54 > $at/bank/num_lines
echo pinctrl-bcm2711 > $at/bank/label
echo 1 > $at/live
echo "/sys/devices/platform/$(cat $at/dev_name)/$(cat $at/bank/chip_name)" > /run/sim_dir
# What Raspberry Pi OS does by a rule of udev, which is not in this root.
chgrp gpio /dev/gpiochip0
chmod 660 /dev/gpiochip0
