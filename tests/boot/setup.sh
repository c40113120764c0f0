#!/bin/sh
# setup.sh FLAVOUR DIR: makes the root it runs in a machine that boots with a simulated GPIO chip, a user pi with the
# program's virtual environment, and an agent on the serial line. DIR has the files for it.
set -eu
flavour=$1 dir=$2

install -m 755 "$dir/chip.sh" /usr/local/sbin/power-chip
install -d /usr/local/lib/power-agent
install -m 644 "$dir/agent.py" "$dir/inside.py" /usr/local/lib/power-agent
echo pi > /etc/hostname
echo "127.0.0.1 localhost pi" > /etc/hosts
echo "/dev/root / ext4 defaults,noatime 0 0" > /etc/fstab

# As on Raspberry Pi OS: the user pi, and its own home closed to others.
groupadd --system gpio
useradd --create-home --shell /bin/bash --groups gpio pi
chmod 700 /home/pi
install -d -o pi -g pi /home/pi/power
cp -r "$dir/wheels" "$dir/requirements.txt" /tmp
cd /home/pi/power
as_pi() { setpriv --reuid=pi --regid=pi --init-groups env -i HOME=/home/pi PATH=/usr/bin:/bin LANG=C.UTF-8 "$@"; }
as_pi python3 -m venv --system-site-packages venv
as_pi venv/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-index \
    --find-links /tmp/wheels -r /tmp/requirements.txt
rm -rf /tmp/wheels /tmp/requirements.txt

case $flavour in
sysvinit)
    sed -i '/getty/d' /etc/inittab
    # script NAME COMMAND: an init script that is run once, before the runlevel's.
    script() {
        cat > "/etc/init.d/$1" << END
#!/bin/sh
### BEGIN INIT INFO
# Provides:          $1
# Required-Start:    mountkernfs $3
# Required-Stop:
# Default-Start:     S
# Default-Stop:
# Short-Description: of the tests
### END INIT INFO
[ "\$1" = start ] || exit 0
$2
END
        chmod 755 "/etc/init.d/$1"
        update-rc.d "$1" defaults
    }
    script test-chip "mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
/usr/local/sbin/power-chip" ""
    script test-agent "setsid /usr/bin/python3 /usr/local/lib/power-agent/agent.py < /dev/null > /dev/null 2>&1 &" test-chip
    ;;
systemd)
    # unit NAME TYPE COMMAND AFTER
    unit() {
        cat > "/etc/systemd/system/$1.service" << END
[Unit]
Description=of the tests
DefaultDependencies=no
RequiresMountsFor=/sys/kernel/config
After=systemd-remount-fs.service $4
Before=sysinit.target
[Service]
Type=$2
RemainAfterExit=yes
ExecStart=$3
[Install]
WantedBy=sysinit.target
END
        systemctl enable --quiet "$1.service"
    }
    unit test-chip oneshot /usr/local/sbin/power-chip ""
    unit test-agent exec "/usr/bin/python3 /usr/local/lib/power-agent/agent.py" test-chip.service
    systemctl mask --quiet getty@.service serial-getty@.service console-getty.service systemd-firstboot.service
    systemctl set-default --quiet multi-user.target
    mkdir -p /etc/systemd/journald.conf.d
    printf '[Journal]\nStorage=persistent\nSystemMaxUse=16M\n' > /etc/systemd/journald.conf.d/test.conf
    echo uninitialized > /etc/machine-id
    ;;
esac
