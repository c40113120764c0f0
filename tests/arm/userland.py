"""
The program on a Pi's userland: Debian for Arm, emulated by qemu-user.

    userland.py CACHE [ROOT ...]        (make test-arm: all of ROOTS)

In each root: the install steps of README.rst, from a clone of what is committed;
the tests that need no server and no kernel; the program with the simulated meter
for a minute, by its command line. A line a step; ends with 1 where one failed.
The output is kept in CACHE/arm-logs.
"""

import contextlib
import csv
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]

#: Where the project is cloned. Others may look into it: some tests give up root's privileges and look for libraries.
HOME = "/home/pi"

#: The most that a step may take, in s: by then it hangs.
STEP_S = 2400

#: The simulated load. A pulse every 180 ms, of which each is known in advance.
WATTS = 20_000
IMPULSES_PER_KWH = 1000
SPACING_NS = 3_600_000_000_000_000 // (WATTS * IMPULSES_PER_KWH)
#: In a minute there are 333; a slow machine may take a third of it to start.
MIN_PULSES = 200

#: $1: the root; then the command. Mounts end with this shell, which is process 1 and waits for orphans.
ENTER = """
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
root=$1
shift
chroot "$root" "$@" || exit $?
"""

#: What pip and apt have brought.
VERSIONS = """
import importlib.metadata, platform
print("Python", platform.python_version(), "on", platform.machine(), end="")
for name in ("pip", "gpiod", "rpi-lgpio", "lgpio", "influxdb", "msgpack"):
    try:
        print(",", name, importlib.metadata.version(name), end="")
    except importlib.metadata.PackageNotFoundError:
        print(", no", name, end="")
"""

TEST_PACKAGES = "pytest hypothesis pytest-timeout"

#: $1: watts. The data are root's, in /var/lib/power/simulated.
A_MINUTE = """
venv/bin/python src/power.py --nodaemon --simulate "$1" &
sleep 40
venv/bin/python src/power.py --status
venv/bin/python src/power.py --status --json > /srv/status.json
sleep 20
kill -TERM $!
wait $!
"""


class StepError(Exception):
    """A step that failed, with the reason."""


@dataclass(frozen=True)
class Kind:
    """A Debian: its architecture and suite, the processor, and whether the tests are run there."""

    arch: str
    suite: str
    cpu: str
    tests: bool = True


# The processors of a Pi 4 and a Pi 2. Neither has pointer authentication, which Trixie uses where it is there, as on
# qemu's own: Python 3.13 is 13 times as fast without.
ROOTS = {
    "arm64-bookworm": Kind("arm64", "bookworm", "cortex-a72"),
    "arm64-trixie": Kind("arm64", "trixie", "cortex-a72"),
    "armhf-bookworm": Kind("armhf", "bookworm", "cortex-a7"),
    # Nearest to a Pi Zero or Zero W: its processor, with Debian's armel, since Debian's armhf is for newer ones.
    "armel-bookworm": Kind("armel", "bookworm", "arm1176", tests=False),
}


class Root:
    """A root of *kind* in *directory*, with a copy of *repository*; its output goes to *log*."""

    def __init__(self, kind, repository, cache, directory, log):
        self.directory, self.log = directory, log
        show = ["git", "-C", repository, "show", "HEAD:README.rst"]
        self.readme = subprocess.run(show, stdout=subprocess.PIPE, text=True, check=True).stdout
        self._env = {
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "QEMU_CPU": kind.cpu,
        }
        archive = subprocess.run(
            ["sh", HERE / "mkroot.sh", cache, kind.arch, kind.suite, *readme_packages(self.readme)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
        subprocess.run(["tar", "-C", directory, "--numeric-owner", "-xf", archive], check=True)
        (directory / HOME[1:]).mkdir(parents=True)
        shutil.copytree(repository, directory / "srv/power.git")
        shutil.copy(HERE / "choose.py", directory / "srv")

    def run(self, script, *args):
        """Run a shell's *script* in the project, at HOME before there is one; return its status and output."""
        there = f"{HOME}/power" if (self.directory / HOME[1:] / "power").exists() else HOME
        line = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "enter", self.directory]
        begin = self.log.seek(0, os.SEEK_END)
        self.log.write(f"$ {script.strip()}\n".encode())
        self.log.flush()
        done = subprocess.run(
            [*line, "/bin/sh", "-ec", f"cd {there}\n{script}", "sh", *args],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            timeout=STEP_S,
            check=False,
        )
        self.log.seek(begin)
        output = self.log.read().decode()
        self.log.write(f"\nstatus {done.returncode}\n\n".encode())
        return done.returncode, output.partition(script.strip() + "\n")[2]

    def must(self, script, *args):
        """The same, where anything but status 0 is a failure."""
        status, output = self.run(script, *args)
        if status:
            raise StepError(f"status {status}: {' | '.join(output.strip().splitlines()[-5:])}")
        return output


def readme_packages(readme):
    """What the first apt line of *readme* names."""
    return re.search(r"sudo apt install ([a-z0-9 .+-]+?) +#", readme)[1].split()


def readme_steps(readme):
    """The commands below the heading "Installing on the Pi" of *readme*, up to the next paragraph."""
    steps = re.search(r"^Installing on the Pi\n-+\n\n::\n\n((?:    .*\n)+)", readme, re.MULTILINE)[1]
    assert "<this repository>" in steps, steps
    return steps.replace("<this repository>", "/srv/power.git")


def install(root):
    """The README's steps, and what came of them."""
    root.must(readme_steps(root.readme))
    versions = root.must(f"venv/bin/python -c '{VERSIONS}'")
    # There are no pins: its status is 1.
    output = root.run("venv/bin/python src/power.py --check")[1]
    pins = re.search(r"^pins: (.*?)([;:] on a Raspberry Pi|$)", output, re.MULTILINE)
    if not pins:
        raise StepError("--check says nothing of the pins")
    return f"{versions}; pins: {pins[1]}"


def tests(root):
    """The tests that choose.py leaves."""
    root.must(f"venv/bin/pip install --quiet --only-binary=:all: -c tests/requirements.lock {TEST_PACKAGES}")
    status, output = root.run(
        "PYTHONPATH=/srv venv/bin/python -m pytest -q --ignore=tests/arm -p choose -p no:cacheprovider --durations=30"
    )
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    summary = [line for line in output.splitlines() if re.match(r"left out: |\d+ (passed|failed|deselected)", line)]
    if status or not summary:
        raise StepError("; ".join([*summary, *failed]) or output[-500:])
    return "; ".join(summary)


def simulated(root):
    """A minute of the simulated meter, ended with SIGTERM: journal, file and status agree, and nothing is missing."""
    output = root.must(A_MINUTE, str(WATTS))
    for line in ("INFO counting", "INFO stopped"):
        if line not in output:
            raise StepError(f"it did not say {line!r}")
    data = root.directory / "var/lib/power/simulated"
    status = json.loads((root.directory / "srv/status.json").read_text())
    try:
        return _exact(data, status)
    except AssertionError as error:
        raise StepError(f"not exact: {error}") from error


def _exact(data, status):
    with contextlib.closing(sqlite3.connect(data / "journal.db")) as journal:
        integrity = journal.execute("PRAGMA integrity_check").fetchall()
        pulses = journal.execute("SELECT count, time_ns, interval_ns FROM pulses ORDER BY count").fetchall()
    with (data / "power.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert integrity == [("ok",)], integrity
    assert len(pulses) >= MIN_PULSES, f"{len(pulses)} pulses"
    assert [count for count, _, _ in pulses] == list(range(1, len(pulses) + 1)), "counts"
    assert all(abs(interval - SPACING_NS) <= 1 for _, _, interval in pulses[1:]), "intervals in the journal"
    assert [_ns(row["time"]) for row in rows] == [time_ns for _, time_ns, _ in pulses], "times in the file"
    assert [float(row["register_kwh"]) for row in rows] == [n / IMPULSES_PER_KWH for n, _, _ in pulses], "register"
    assert rows[0]["power_w"] == "", "power of the first pulse"
    watts = [3.6e15 / (IMPULSES_PER_KWH * interval) for _, _, interval in pulses[1:]]
    assert all(map(math.isclose, (float(row["power_w"]) for row in rows[1:]), watts)), "power"
    assert {(row["meter"], float(row["energy_wh"])) for row in rows} == {("house", 1000 / IMPULSES_PER_KWH)}, "energy"
    house = status["meters"]["house"]
    # A flash that is late by now bounds the power.
    assert WATTS / 2 < house["watts"] < WATTS * 1.001, status
    assert (house["rejected"], status["journal"]["failing"]) == (0, ""), status
    assert MIN_PULSES / 2 < round(house["register_kwh"] * IMPULSES_PER_KWH) < len(rows), status
    return f"{len(rows)} pulses, each once in journal and file"


def _ns(text):
    whole, nanoseconds = text.removesuffix("Z").split(".")
    return round(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 10**9 + int(nanoseconds)


def try_root(name, root):
    """Take the steps in *root*, a line each; return the names of those that failed. A failed install ends it."""
    failed = []
    for step in (install, *[tests] * ROOTS[name].tests, simulated):
        begin_s = time.monotonic()
        try:
            result = f"ok, {step(root)}"
        except (StepError, subprocess.TimeoutExpired) as error:
            result = f"FAILED, {error}"
            failed.append(step.__name__)
        print(f"{name}: {step.__name__}, {time.monotonic() - begin_s:.0f} s: {result}", flush=True)
        if "install" in failed:
            break
    return failed


def main(cache, *names):
    """Try the roots of *names*, one after another; return the exit status."""
    cache = Path(cache)
    (cache / "arm-logs").mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="arm-repository-", dir=cache) as repository:
        # One copy for all: what is committed meanwhile is for the next time.
        subprocess.run(["git", "clone", "--quiet", "--bare", TOP, repository], check=True)
        for name in names or ROOTS:
            with (
                (cache / "arm-logs" / f"{name}.log").open("wb+") as log,
                tempfile.TemporaryDirectory(prefix="arm-root-", dir=cache) as directory,
            ):
                failed += try_root(name, Root(ROOTS[name], repository, cache, Path(directory), log))
    return int(bool(failed))


if __name__ == "__main__":
    # So that the root is removed and what runs in it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    sys.exit(main(*sys.argv[1:]))
