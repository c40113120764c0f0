"""The program as a service of machines that really boot: installed, it counts from then on, whatever happens."""

import json
import re
from pathlib import Path

import certifi
import machine
import pytest
from counting import PROJECT, SETTINGS

#: Exit statuses (LSB): of an action, and of "status".
NOT_RUNNING, DEAD_WITH_PIDFILE, STOPPED = 7, 1, 3

#: A writer whose service can't be reached.
AWAY = 'WRITERS = {"file": {"type": "file", "path": "power.csv"}, "db": {"type": "influxdb", "host": "192.0.2.1"}}\n'

#: What the page at *path* answers.
ASKED_FOR = (
    "python3 -c 'import urllib.request; "
    'print(urllib.request.urlopen("http://127.0.0.1:8080/{path}", timeout=60).read().decode())\''
)

systemd_only = pytest.mark.parametrize("flavour", ["systemd"], indirect=True, scope="session")
sysvinit_only = pytest.mark.parametrize("flavour", ["sysvinit"], indirect=True, scope="session")


def assert_all(on, written):
    """The journal has each flash of *written*, in its time, and so has the file, with its register."""
    times, lines = on.kept()
    assert len(times) == len(written)
    assert max(abs(at_ns - flash_ns) for at_ns, flash_ns in zip(times, written, strict=True)) < 50 * machine.MS
    assert [line.split(",")[4] for line in lines] == [f"{n / 1000:g}" for n in range(1, len(written) + 1)]


def test_counts_without_a_login(off):
    """
    It counts from the boot on; two restarts of the machine in order lose no flash, and the register goes on.

    Without a network too: what a writer can't deliver waits. The time from power-on to the first counted flash is
    printed; docs/benchmarks.rst has it from a quiet machine.
    """
    seconds = off.boot_flashing()
    print(f"\n{off.flavour}: {seconds:.2f} s from power-on to the first counted flash")
    status = off.status()
    assert off.run(f"ps -o user= -p {status['pid']}").strip() == "pi"
    assert off.service("status").status == 0
    off.wait_pulses(status["meters"]["house"]["pulses"])
    written = off.kept()[0] + off.flash(200)
    off.reboot()
    assert off.wait_counting()["meters"]["house"]["register_kwh"] == len(written) / 1000
    assert_all(off, written)

    assert off.run("ip route").strip() == ""
    off.set(SETTINGS + AWAY)
    off.reboot()
    assert off.wait_counting()["meters"]["house"]["pulses"] == len(written)
    written += off.flash(20)
    assert off.wait_pulses(len(written))["writers"]["db"]["waiting"] == 20
    assert "db: failing" in off.log()
    assert off.service("stop").status == 0
    assert_all(off, written)


def test_commands(on):
    """Stop, start, restart, condrestart, reload and force-reload do what they say, and status tells."""
    pid = on.status()["pid"]
    written = on.flash(20)
    assert on.service("start").status == 0
    assert on.status()["pid"] == pid
    assert on.service("stop").status == 0
    assert on.service("status").status == STOPPED
    assert_all(on, written)
    assert on.service("stop").status == 0
    assert on.service("condrestart").status == 0
    assert on.service("status").status == STOPPED
    assert on.try_run("/etc/init.d/power reload").status == NOT_RUNNING
    assert on.service("start").status == 0
    assert on.service("status").status == 0
    for action in ("restart", "condrestart"):
        before = on.status()["pid"]
        assert on.service(action).status == 0
        assert on.status()["pid"] != before
    before = on.status()["pid"]
    for action in ("reload", "force-reload"):
        assert on.try_run(f"/etc/init.d/power {action}").status == 0
    assert on.status()["pid"] == before
    assert on.try_run("/etc/init.d/power status").status == 0
    assert on.try_run("/etc/init.d/power tidy").status == 2
    assert on.try_run("setpriv --reuid=nobody --regid=nogroup --clear-groups /etc/init.d/power stop").status == 4
    assert on.status()["pid"] == before
    written += on.flash(20)
    assert on.service("stop").status == 0
    assert_all(on, written)


def reload_while_flashing(on, settings):
    """Write *settings* and have them read in the midst of 200 flashes."""
    on.set(settings)
    on.run(
        "rm -f /run/reload.status; "
        "(sleep 0.5; /etc/init.d/power reload; echo $? > /run/reload.status) > /dev/null 2>&1 < /dev/null &"
    )
    on.flash(200)
    assert on.wait_until("cat /run/reload.status").strip() == "0"


def test_reload(on):
    """Settings that are read again take effect; wrong ones do not, and are reported; no flash is lost meanwhile."""
    pid = on.status()["pid"]
    reload_while_flashing(on, SETTINGS.replace("1000", "2000", 1))
    on.flash(10)
    status = on.wait_pulses(210)
    register_kwh = status["meters"]["house"]["register_kwh"]
    assert 0.105 < register_kwh < 0.210
    reload_while_flashing(on, "METERS = {}\n")
    status = on.wait_pulses(410)
    assert status["meters"]["house"]["register_kwh"] == pytest.approx(register_kwh + 0.1)
    assert status["pid"] == pid
    assert "METERS" in on.log()


def test_page(on):
    """A page that the settings ask for is served, by a process whose end is no matter; in the unit's sandbox too."""
    on.run("ip link set lo up")
    pid = on.status()["pid"]
    reload_while_flashing(on, SETTINGS + 'PAGE = {"address": "127.0.0.1", "port": 8080}\n')
    assert "<html" in on.wait_until(ASKED_FOR.format(path=""), timeout=120)
    (page,) = on.run(f"ps -o pid= --ppid {pid}").split()
    on.run(f"kill -KILL {page}")
    on.flash(20)
    on.wait_pulses(220)
    now = json.loads(on.wait_until(ASKED_FOR.format(path="api/now"), timeout=120))
    assert (now["pid"], now["meters"]["house"]["pulses"]) == (pid, 220)
    assert on.run(f"ps -o pid= --ppid {pid}").split() != [page]


def test_after_a_power_cut(on):
    """What is left by a power cut, or by a kill, does not block the next start, and what was on the disk is there."""
    written = on.flash(20)
    on.wait_pulses(20)
    on.cut()
    on.boot()
    assert on.wait_counting()["meters"]["house"]["pulses"] == 20
    assert on.service("status").status == 0
    # The pidfile stays, with the pid of a process that is another one.
    assert on.service("stop").status == 0
    on.run(
        "install -d -o pi -g pi -m 755 /run/power && echo 1 > /run/power/power.pid && chown pi: /run/power/power.pid"
    )
    if on.flavour == "sysvinit":
        assert on.service("status").status == DEAD_WITH_PIDFILE
    assert on.service("start").status == 0
    written += on.flash(20)
    if on.flavour == "sysvinit":
        on.wait_pulses(40)
        on.run(f"kill -KILL {on.status()['pid']}")
        assert on.service("status").status == DEAD_WITH_PIDFILE
        assert on.service("start").status == 0
        written += on.flash(20)
    assert on.service("stop").status == 0
    assert_all(on, written)


#: A disk that fstab knows and nobody mounts at boot: an image with a CA file, the log, and a writer's file.
NAS = "/mnt/nas"
ON_NAS = f"""\
LOG_FILE = "{NAS}/power/my.log"
WRITERS = {{
    "here": {{"type": "file", "path": "power.csv"}},
    "nas": {{"type": "file", "path": "{NAS}/power/power.csv"}},
    "db": {{"type": "influxdb", "host": "127.0.0.1", "ssl": True, "verify_ssl": "{NAS}/ca.pem"}},
}}
"""


def test_disks_that_are_missing(off):
    """
    With the disk of a writer's file, of the log and of a CA file missing at boot it counts, and says what is missing.

    Once the disk is there it is used, without a restart, and has each line once; it may go and come back.
    """
    on = off.boot()
    on.service("stop")
    on.run(
        f"truncate -s 32M /root/nas.img && mke2fs -q -F /root/nas.img && mkdir {NAS} && "
        f"echo '/root/nas.img {NAS} ext4 loop,noauto 0 0' >> /etc/fstab && mount {NAS} && "
        f"install -d -o pi -g pi {NAS}/power"
    )
    on.write(
        f"{NAS}/ca.pem",
        Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----",
    )
    on.set(SETTINGS + ON_NAS)
    on.install("--link")
    on.run(f"umount {NAS} && mv /root/nas.img /root/away.img")
    on.reboot()
    assert on.wait_counting()["meters"]["house"]["pulses"] == 0
    written = on.flash(20)
    status = on.wait_pulses(20)
    assert status["writers"]["nas"]["state"] == "failing"
    assert f"its disk is not mounted at {NAS}" in status["writers"]["nas"]["reason"]
    assert f"{NAS}/ca.pem: no CA certificates" in status["writers"]["db"]["reason"]
    assert f"its disk is not mounted at {NAS}" in status["log"]["failing"]
    assert f"log: {NAS}/power/my.log: its disk is not mounted" in on.log()
    assert on.run(f"ls {NAS}") == ""

    def wait_used(pulses):
        """Wait until the disk has so many lines, each once, and nothing but the database fails; within a minute."""
        on.wait_until(f"[ $(cat {NAS}/power/power.csv | wc -l) = {pulses + 1} ] && tail -n 1 {NAS}/power/my.log", 60)
        status = on.status()
        assert (status["log"]["failing"], status["writers"]["nas"]["state"]) == ("", "ok")
        assert status["writers"]["db"]["reason"].startswith("127.0.0.1:8086: ")
        lines = on.run(f"cat {NAS}/power/power.csv").splitlines()
        assert len(set(lines)) == len(lines) == pulses + 1

    on.run(f"mv /root/away.img /root/nas.img && mount {NAS}")
    wait_used(20)
    on.run(f"umount -l {NAS}")
    written += on.flash(20)
    on.wait_pulses(40)
    on.wait_until(f"! mountpoint -q {NAS}")
    assert on.run(f"ls {NAS}") == ""
    on.run(f"mount {NAS}")
    wait_used(40)
    on.service("stop")
    assert_all(on, written)


@sysvinit_only
def test_log_is_rotated(on):
    """logrotate moves the daemon's log away, and the program goes on in a new one."""
    on.run("logrotate --force /etc/logrotate.d/power")
    assert "counting" in on.run("cat /var/lib/power/power.log.1")
    assert on.run("stat -c '%U %a' /var/lib/power/power.log").split() == ["pi", "640"]
    assert on.service("stop").status == 0
    assert "stopped" in on.run("cat /var/lib/power/power.log")


def property_of(on, name):
    """A property of the unit, as systemd has it."""
    return on.run(f"systemctl show power --value -p {name}").strip()


def drop_in(on, *lines):
    """Change the unit by *lines* until the next boot."""
    directory = "/run/systemd/system/power.service.d"
    on.run(f"mkdir -p {directory}")
    on.write(f"{directory}/test.conf", "\n".join(["[Service]", *lines]))
    on.run("systemctl daemon-reload")


def thread_of_flashes(on, pid):
    """The thread of *pid* that flashes wake most."""

    def switches():
        lines = on.run(f"grep ^voluntary /proc/{pid}/task/*/status").splitlines()
        return {int(re.search(r"task/(\d+)", line)[1]): int(line.split()[-1]) for line in lines}

    before = switches()
    on.flash(50, apart_ms=20)
    after = switches()
    return max(after, key=lambda tid: after[tid] - before.get(tid, 0))


@systemd_only
def test_comes_back(on):
    """Killed, or with its process or its recorder's thread stopped, it is back by itself, and all is counted."""
    restarts = 0
    pulses = 0

    def wait_back(pid):
        nonlocal restarts, pulses
        on.wait_until(f'[ "$(systemctl show power --value -p SubState -p MainPID)" != "running\n{pid}" ]')
        on.wait_until("systemctl is-active power", 120)
        restarts += 1
        assert int(property_of(on, "NRestarts")) == restarts
        on.flash(10)
        pulses += 10
        return on.wait_pulses(pulses)["pid"]

    pid = on.status()["pid"]
    on.run(f"kill -KILL {pid}")
    on.wait_until("[ $(systemctl show power --value -p NRestarts) = 1 ]")
    pid = wait_back(pid)
    assert pid > 0

    # The watchdog of the unit is slower, for a Pi Zero whose card hangs.
    drop_in(on, "WatchdogSec=3")
    on.run("systemctl restart power")
    restarts = 0
    pid = on.wait_counting()["pid"]
    on.run(f"kill -STOP {pid}")
    on.wait_until("[ $(systemctl show power --value -p NRestarts) = 1 ]", 120)
    pid = wait_back(pid)

    tid = thread_of_flashes(on, pid)
    pulses += 50
    on.wait_pulses(pulses)
    on.run(f"python3 {PROJECT}/tests/boot/freeze.py {tid} > /run/freeze.out 2>&1 < /dev/null &")
    on.wait_until("grep stopped /run/freeze.out")
    on.wait_until("[ $(systemctl show power --value -p NRestarts) = 2 ]", 120)
    wait_back(pid)
    assert on.run("journalctl -u power -o cat").count("Watchdog timeout") == 2


@sysvinit_only
def test_wrong_settings_are_said(on):
    """With wrong settings a start fails and says why; with right ones it counts."""
    on.service("stop")
    on.set("METERS = {}\n")
    done = on.service("start")
    assert done.status not in (0, None)
    assert "METERS" in done.output
    on.set(SETTINGS)
    assert on.service("start").status == 0
    on.flash(3)
    on.wait_pulses(3)


@systemd_only
def test_wrong_settings_fail(on):
    """With wrong settings the unit has failed after few tries, and its status says why; with right ones it counts."""
    on.service("stop")
    on.set("METERS = {}\n")
    assert on.service("start").status not in (0, None)
    on.wait_until("systemctl is-failed power", 120)
    done = on.service("status")
    assert done.status == STOPPED
    assert "METERS" in done.output
    assert property_of(on, "SubState") == "failed"  # and not auto-restart
    assert int(property_of(on, "NRestarts")) <= 5
    on.set(SETTINGS)
    assert on.service("start").status == 0
    on.flash(3)
    on.wait_pulses(3)


@systemd_only
def test_sandbox(on):
    """In the unit's sandbox only the data can be written, only the chip opens, and the clock's state is known."""
    assert on.run("systemd-analyze verify /etc/systemd/system/power.service") == ""
    exposure = re.search(r"exposure level for power.service: ([\d.]+)", on.run("systemd-analyze security power"))
    assert float(exposure[1]) <= 2.0
    on.service("stop")
    # Open for everybody: whether they can be opened is not a matter of their mode.
    on.run("mknod /dev/test-disk b 98 0 && chmod 666 /dev/test-disk /dev/ttyS0 /dev/kmsg && chmod 777 /srv /opt")
    places = f"/etc /usr/local/lib {PROJECT} /root /srv /opt /var/lib /sys/kernel /proc/sys"
    probe = f"{PROJECT}/tests/boot/probe.py {places}"
    on.run(
        "install -d -o pi /run/outside && cd /run/outside && "
        f"STATE_DIRECTORY=. setpriv --reuid=pi --regid=pi --init-groups python3 {probe}"
    )
    outside = json.loads(on.run("cat /run/outside/probe.json"))
    drop_in(on, "Type=oneshot", "Restart=no", "WatchdogSec=0", "ExecStart=", f"ExecStart=/usr/bin/python3 {probe}")
    on.run("systemctl start power || { systemctl status power; exit 1; }")
    inside = json.loads(on.run("cat /var/lib/power/probe.json"))
    on.run("chmod 755 /srv /opt")  # the next test installs from there
    # The probe can find what it looks for.
    assert {"/dev/test-disk", "/dev/gpiochip0", "/dev/kmsg"} <= set(outside["devices"])
    assert all(outside["write"][path] is None for path in ("/srv", "/opt", PROJECT))
    assert outside["sockets"]["AF_NETLINK"] is None
    assert 1 in outside["processes"]

    assert inside["uid"] == outside["uid"] == int(on.run("id -u pi"))
    assert {int(value, 16) for key, value in inside["status"].items() if key.startswith("Cap")} == {0}
    assert (inside["status"]["NoNewPrivs"], inside["status"]["Seccomp"]) == ("1", "2")
    assert inside["write"].pop("/var/lib/power") is None
    assert all(inside["write"].values()), inside["write"]
    harmless = {f"/dev/{name}" for name in ("full", "null", "ptmx", "pts/ptmx", "random", "tty", "urandom", "zero")}
    assert set(inside["devices"]) - harmless == {"/dev/gpiochip0"}
    assert [name for name, error in inside["sockets"].items() if error] == ["AF_NETLINK", "AF_PACKET"]
    assert inside["set the clock"] == "EPERM"
    assert inside["ask the clock"] == outside["ask the clock"]
    assert inside["processes"] == []


def test_uninstalled(on, installed):
    """
    Nothing is left but data and settings, and the machine boots.

    Installed again from a source in nobody's home it counts on as a user of its own, who owns the data after an
    uninstall, and is gone with them.
    """
    on.flash(5)
    on.wait_pulses(5)
    on.install("--uninstall")
    assert on.try_run("pgrep -u pi").output == ""
    left = on.files() ^ installed[1]
    assert {path for path in left if not path.startswith("/var/lib/power/")} == {"/var/lib/power"}
    assert {"/var/lib/power/journal.db", "/var/lib/power/power.csv"} <= left
    on.reboot()
    assert on.try_run("[ -e /run/power ]").status == 1
    assert on.service("status").status not in (0, None)
    if on.flavour == "systemd":
        assert on.run("systemctl is-system-running").strip() == "running"

    on.user, on.settings = "power", "/opt/power/settings.py"
    on.run(f"cp -a {PROJECT} /opt/power && chown -R root: /opt/power")
    on.run("find /opt/power/src -name __pycache__ -prune -exec rm -r {} +")  # closed to others, by the daemon's umask
    on.install("--link", project="/opt/power")
    assert on.service("start").status == 0
    on.flash(5)
    status = on.wait_pulses(10)
    assert on.run(f"ps -o user= -p {status['pid']}").strip() == "power"
    assert on.run(f"stat -c '%U %a' {on.settings} /var/lib/power").split() == ["power", "600", "power", "750"]
    on.install("--uninstall", project="/opt/power")
    assert on.run(f"stat -c %U {on.settings} /var/lib/power/journal.db").split() == ["power", "power"]
    on.run(f"rm -r /var/lib/power {on.settings}")
    on.install("--uninstall", project="/opt/power")
    assert on.try_run("id power").status == 1
