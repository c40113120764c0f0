"""
Machines that boot: Debian with sysvinit or systemd as process 1, in a guest kernel with a simulated GPIO chip.

A machine's disk is its image, which never changes, and a file with what differs: that survives
a power cut as a disk does, and a copy of it is another machine.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path.insert(0, str(TOP / "tests" / "kernel"))

import guest  # noqa: E402 - of the tests on a real kernel

FLAVOURS = ("sysvinit", "systemd")

#: The most that a boot, and a command, may take on a busy host, in s.
BOOT_S = 120
COMMAND_S = 120

MS = 1_000_000

#: Ends when the boot is done: systemd says so, a degraded one too; sysvinit has then run its runlevel's scripts.
WHOLE = """
if [ -d /run/systemd/system ]; then systemctl is-system-running --wait > /dev/null || :
else until [ "$(runlevel)" != unknown ] && ! pgrep -x 'startpar|rc' > /dev/null; do sleep 0.05; done
fi"""


#: What mkimage.sh makes an image of, in its order.
INPUTS = (
    *(HERE / name for name in ("mkimage.sh", "setup.sh", "chip.sh", "agent.py")),
    TOP / "tests" / "kernel" / "inside.py",
    TOP / "requirements.txt",
)


def image_path(flavour):
    """The image that mkimage.sh makes of what stands here now."""
    key = hashlib.sha256(b"".join(path.read_bytes() for path in INPUTS)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "power" / f"boot-{key}" / f"{flavour}.img"


class Done(NamedTuple):
    """What a command came to."""

    status: int
    output: str


class MachineError(AssertionError):
    """A machine did not do what it was asked."""


class Machine:
    """
    A machine; a context manager, at whose end it is gone.

    It starts as *image* with the changes of the file *changes*, which stays
    as it is, and it is off. *disk*: a file that it finds as /dev/ubdb.
    """

    def __init__(self, kernel, image, *, changes=None, disk=None):
        self.directory = Path(tempfile.mkdtemp(prefix="power-machine.", dir="/tmp"))
        self._changes = self.directory / "changes"
        if changes:
            subprocess.run(["cp", "--sparse=always", changes, self._changes], check=True)
        self._kernel, self._image, self._disk = kernel, image, disk
        self._guest = None
        #: When its power came, by the host's clock, in ns; the guest's clock starts from that.
        self.on_ns = None

    def boot(self, *, whole=True):
        """Switch it on, and wait until it can be asked; *whole*: until the boot is done."""
        assert self._guest is None, "it runs"
        disks = [f"{self._changes},{self._image}", *([self._disk] if self._disk else [])]
        self.on_ns = time.time_ns()
        self._guest = guest.Guest(self._kernel, ["root=/dev/ubda", "rootfstype=ext4", "rw"], disks=disks)
        self._wait_up()
        if whole:
            self.wait_booted()
        return self

    def _wait_up(self):
        while "up" not in self._answer(BOOT_S):
            pass

    def wait_booted(self):
        """Wait until the boot is done."""
        self.run(WHOLE, BOOT_S)

    def _answer(self, timeout):
        for line in self._guest.lines(timeout):
            with contextlib.suppress(ValueError):
                return json.loads(line)
        raise MachineError(f"no answer in {timeout} s; its console:\n{self._guest.tail()}")

    def _ask(self, name, within_s, /, **arguments):
        self._guest.send(json.dumps([name, arguments]) + "\n")
        answer = self._answer(within_s)
        if "returned" not in answer:
            raise MachineError(f"{name}: the machine answered {answer}; its console:\n{self._guest.tail()}")
        return answer["returned"]

    def try_run(self, command, timeout=COMMAND_S):
        """Run *command* in root's shell; its :class:`Done`, with status None where *timeout* s were too few."""
        return Done(*self._ask("run", timeout + COMMAND_S, command=command, timeout=timeout))

    def run(self, command, timeout=COMMAND_S):
        """What *command* says, with its errors; it has to succeed."""
        done = self.try_run(command, timeout)
        if done.status != 0:
            raise MachineError(f"{command}\n--- ended with {done.status} and this output:\n{done.output}")
        return done.output

    def wait_until(self, command, timeout=60):
        """Run *command* again and again until it succeeds; return its output."""
        end_s = time.monotonic() + timeout
        while (done := self.try_run(command)).status != 0:
            if time.monotonic() > end_s:
                raise MachineError(f"{command}\n--- after {timeout} s still {done.status}:\n{done.output}")
            time.sleep(0.1)
        return done.output

    def flash(self, count, *, apart_ms=10, length_ms=2):
        """*count* flashes on the input; the UTC of each, in ns, as the machine has it."""
        starts = [number * apart_ms * MS for number in range(count)]
        seconds = count * apart_ms / 1000
        return self._ask("flash", 10 * seconds + COMMAND_S, starts_ns=starts, length_ns=length_ms * MS)

    def write(self, path, text):
        """Make *text* the contents of the file *path*; its owner and mode stay."""
        self.run(f"cat > {path} <<'END_OF_FILE'\n{text.rstrip()}\nEND_OF_FILE\n")

    def reboot(self):
        """A restart in order, as by the command; then wait until it can be asked."""
        self._shut("shutdown -r now")
        self._wait_up()
        self.wait_booted()

    def off(self):
        """A shutdown in order."""
        self._shut("shutdown -h now")
        try:
            self._guest.wait(BOOT_S)
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"still on after {BOOT_S} s; its console:\n{self._guest.tail()}") from error
        self.cut()

    def _shut(self, command):
        # The answer may be lost with the agent; what comes after a restart is a line of its own.
        self._guest.send(json.dumps(["run", {"command": f"{command} > /dev/null 2>&1", "timeout": 60}]) + "\n")

    def cut(self):
        """Take its power away; may be called twice."""
        if self._guest:
            self._guest.__exit__(None, None, None)
            self._guest = None

    def console(self):
        """The end of the messages of its kernel and its process 1."""
        return self._guest.tail() if self._guest else ""

    def changes(self, path):
        """Copy what its disk has more than the image to the file *path*; it is off."""
        assert self._guest is None, "it runs"
        subprocess.run(["cp", "--sparse=always", self._changes, path], check=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.cut()
        shutil.rmtree(self.directory, ignore_errors=True)


def pack_project(path):
    """Pack the project as it stands here, with what git does not know yet and not with what it ignores, into *path*."""
    listed = ["git", "-C", str(TOP), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, stdout=subprocess.PIPE).stdout.split(b"\0")
    there = b"\0".join(name for name in names if name and (TOP / os.fsdecode(name)).exists())
    pack = ["tar", "-C", str(TOP), "-cf", str(path), "--owner=0", "--group=0", "--null", "--no-recursion", "-T", "-"]
    subprocess.run(pack, check=True, input=there)
