"""
A real Linux kernel for tests: a User Mode Linux guest with a simulated GPIO chip.

The guest is a process of the user who starts it: it needs no root, and it ends
with the test. Its root is the host's /, read-only, so that the Python that
runs the tests runs in it as well, and all of the project.
"""

import contextlib
import hashlib
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]

#: The label of the chip with the header's pins: that of a Pi 4.
CHIP = "pinctrl-bcm2711"

#: Lines of the console that a failure shows.
TAIL = 40


def kernel_path():
    """The kernel that build.sh makes from the files that are beside it now."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parts = ("kernel.config", "fp-registers.patch", "gpio-sim.patch")
    key = hashlib.sha256(b"".join((HERE / part).read_bytes() for part in parts))
    return cache / "power" / f"kernel-{key.hexdigest()[:12]}" / "linux"


def memory_directory(memory):
    """
    Where the guest's *memory* ("256M") goes, as a file.

    Memory itself is the fastest; but in a container that may be smaller than
    the guest, or closed for programs, which a guest's memory holds.
    """
    if chosen := os.environ.get("TMPDIR"):
        return chosen
    size = int(memory[:-1]) << {"K": 10, "M": 20, "G": 30}[memory[-1]]
    if os.access("/dev/shm", os.W_OK):
        shm = os.statvfs("/dev/shm")
        if not shm.f_flag & os.ST_NOEXEC and shm.f_bavail * shm.f_frsize > size:
            return "/dev/shm"
    return "/tmp"


class Guest:
    """
    A guest that runs; a context manager, at whose end it is dead.

    *args* are added to the kernel's command line, *disks* are its ubda, ubdb
    and so on: image files, or ``"changes,image"`` for a throwaway copy.
    """

    def __init__(self, kernel, args=(), *, memory="256M", disks=()):
        # Not in TMPDIR: the guest has a /run and a /dev of its own, and a socket's path is short.
        self.directory = Path(tempfile.mkdtemp(prefix="power-guest.", dir="/tmp"))
        #: What the kernel says goes to this file.
        self.console = self.directory / "console"
        self._serial, guests_end = socket.socketpair()
        self._read = b""
        options = [
            *(f"mem={memory}", f"uml_dir={self.directory}/", "umid=guest", "loglevel=4", "con=null", "con0=null,fd:1"),
            f"ssl0=fd:{guests_end.fileno()}",
            *(f"ubd{number}={disk}" for number, disk in enumerate(disks)),
        ]
        with guests_end, self.console.open("ab") as console:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(kernel), *options, *args],
                cwd=self.directory,
                env=os.environ | {"TMPDIR": memory_directory(memory)},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[guests_end.fileno()],
                start_new_session=True,
            )

    def lines(self, timeout):
        """What the guest writes to its /dev/ttyS0, line by line, until it ends or *timeout* s have passed."""
        end_s = time.monotonic() + timeout
        while select.select([self._serial], [], [], max(0, end_s - time.monotonic()))[0]:
            more = self._receive()
            *lines, self._read = (self._read + more).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").rstrip("\r")
            if not more:
                return

    def _receive(self):
        try:
            return self._serial.recv(65536)
        except ConnectionResetError:  # it ended with something unread
            return b""

    def send(self, text):
        """Write *text* to the guest's /dev/ttyS0."""
        self._serial.sendall(text.encode())

    def wait(self, timeout):
        """Wait until it has ended, and return its exit status; raises :exc:`subprocess.TimeoutExpired`."""
        return self._process.wait(timeout)

    def kill(self):
        """End it at once, like a power cut; may be called twice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self):
        """The console's last lines."""
        return "\n".join(self.console.read_text(errors="replace").splitlines()[-TAIL:])

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.kill()
        self._serial.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def run(
    kernel,
    job,
    arguments=None,
    *,
    jumping=False,
    start_ns=None,
    memory="256M",
    timeout=60,
    chip=CHIP,
    other_chip=None,
):
    """
    Run *job* in a guest, with *arguments* by keyword; return what it returns.

    It is a function of jobs.py, or of another module beside it: ``"module.function"``.

    Both go through JSON. *jumping*: sleeps take no time. *start_ns*: the UTC
    the guest's clock starts at, else the host's. *timeout*: the most it may
    take, in s of the host. *chip*: the label of the chip of 54 lines, None
    for none. *other_chip*: the label of one that comes before it.

    What the job prints is the test's output. A job that raises fails the test,
    and so does a guest that dies or is not done in time.
    """
    with tempfile.TemporaryDirectory(prefix="power-job.", dir="/tmp") as name:
        work = Path(name)
        (work / "init.sh").symlink_to(HERE / "init.sh")
        (work / "job.json").write_text(json.dumps({"job": job, "arguments": arguments or {}, "start_ns": start_ns}))
        (work / "job").write_text(command())
        args = [
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={work}/init.sh"),
            *(f"POWER_WORK={work}", f"POWER_CHIP={chip or ''}", f"POWER_OTHER_CHIP={other_chip or ''}"),
            *(["time-travel"] if jumping else []),
            *([f"time-travel-start={start_ns}"] if jumping and start_ns is not None else []),
        ]
        with Guest(kernel, args, memory=memory) as guest:
            end_s = time.monotonic() + timeout
            printed = []
            for line in guest.lines(timeout):
                print(line)
                printed.append(line)
            tail = "\n".join(["", "--- the job's output", *printed[-TAIL:], "--- the guest's console", guest.tail()])
            try:
                status = guest.wait(max(0.1, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f"{job}: not done in {timeout} s{tail}", pytrace=False)
        try:
            answer = json.loads((work / "answer.json").read_text())
        except FileNotFoundError:
            pytest.fail(f"{job}: the guest ended with {status} and without an answer{tail}", pytrace=False)
    if "raised" in answer:
        pytest.fail(f"{job} in the guest:\n{answer['raised']}{tail}", pytrace=False)
    return answer["returned"]


def command():
    """The shell's line that runs the job in the guest: this Python, with an environment of the guest's own."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/run/home",
        "TMPDIR": "/run/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(str(TOP / name) for name in ("src", "tests", "tests/kernel", "tools", "bench")),
        "PYTHONDONTWRITEBYTECODE": "1",
        "POWER_USER": str(os.getuid() or 1000),
    }
    words = [
        *(f"{key}={value}" for key, value in environment.items()),
        sys.executable,
        "-c",
        "import inside; inside.main()",
    ]
    kept = " ".join(f'{key}="${key}"' for key in ("SIM_DIR", "OTHER_SIM_DIR"))
    return f"exec env -i {kept} {shlex.join(words)}\n"
