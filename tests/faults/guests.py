"""Guests with a disk, for the faults that need one: images, jobs of fault_jobs.py, power cuts."""

import concurrent.futures
import contextlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import guest
import pytest
from server import unpacked

#: Of a card of usual size; smaller ones get smaller blocks, which would flatter them.
BLOCK_BYTES = 4096

#: As many guests as run at the same time: each takes a core.
AT_ONCE = 2


def tool(name):
    """The path of a tool of e2fsprogs."""
    path = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert path, f"{name} is missing, first: sudo apt install e2fsprogs"
    return path


def image(path, size="512M"):
    """A new ext4 file system in the file *path*; all of it made now, so that nothing is left to the kernel to write."""
    done = ("lazy_itable_init=0,lazy_journal_init=0,nodiscard", path, size)
    line = [tool("mke2fs"), "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-E", *map(str, done)]
    subprocess.run(line, check=True, capture_output=True)
    return str(path)


#: By the kind of a stick's file system: Debian's package and the program that makes one.
MAKERS = {"vfat": ("dosfstools", "mkfs.fat"), "exfat": ("exfatprogs", "mkfs.exfat")}


def fat_image(path, kind, size=64 << 20):
    """A new FAT or exFAT file system in the file *path*."""
    maker = unpacked(*MAKERS[kind])
    assert maker.exists(), "run: make servers"
    path.touch()
    os.truncate(path, size)
    # The root directory of FAT16, which a stick so small would get, has room for some 170 renamed files only.
    options = ["-F", "32", "-s", "1"] if kind == "vfat" else []
    subprocess.run([str(maker), *options, str(path)], check=True, capture_output=True)
    return str(path)


def sound(path):
    """Assert that e2fsck finds nothing to repair in the image."""
    done = subprocess.run([tool("e2fsck"), "-fn", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def run(kernel, job, /, *, jumping=True, timeout=600, start_ns=None, memory="256M", **arguments):
    """Run a job of fault_jobs.py in a guest; return what it returns."""
    options = {"jumping": jumping, "timeout": timeout, "start_ns": start_ns, "memory": memory}
    try:
        return guest.run(kernel, f"faults.fault_jobs.{job}", arguments, **options)
    except pytest.fail.Exception as failed:
        raise AssertionError(failed.msg) from None


def each(work, things):
    """What *work* returns for each of *things*, :data:`AT_ONCE` of them at a time."""
    # What a job prints is shown where it fails. Not in each thread: they all have one stdout.
    with contextlib.redirect_stdout(io.StringIO()), concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, things))


class Life:
    """A job in a guest whose power can be cut; a context manager. The job's messages are collected in :attr:`said`."""

    def __init__(self, kernel, job, /, *, jumping, **arguments):
        self.said = []
        self._stack = contextlib.ExitStack()
        work = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="power-job.", dir="/tmp")))
        self._answer = work / "answer.json"
        (work / "init.sh").symlink_to(guest.HERE / "init.sh")
        (work / "job").write_text(guest.command())
        asked = {"job": f"faults.fault_jobs.{job}", "arguments": arguments, "start_ns": None}
        (work / "job.json").write_text(json.dumps(asked))
        args = [
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={work}/init.sh"),
            *(f"POWER_WORK={work}", f"POWER_CHIP={guest.CHIP}", "POWER_OTHER_CHIP="),
            *(["time-travel"] if jumping else []),
        ]
        self._guest = self._stack.enter_context(guest.Guest(kernel, args))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._stack.close()

    def live(self, seconds, until=None):
        """Let it run for that long, or until it reports *until*; return whether it did."""
        return self._hear(seconds, until)

    def cut(self):
        """Cut its power, and collect what it reported before."""
        assert not self._answer.exists(), self._failed()
        self._guest.kill()
        self._hear(0.2, None)

    def end(self, seconds):
        """Wait until it ends."""
        self._hear(seconds, None)
        assert self._answer.exists(), self._failed()
        answer = json.loads(self._answer.read_text())
        assert "raised" not in answer, self._failed()

    def _hear(self, seconds, until):
        for line in self._guest.lines(seconds):
            with contextlib.suppress(ValueError):
                self.said.append(json.loads(line))
                if until and until in self.said[-1]:
                    return True
        return False

    def _failed(self):
        answer = json.loads(self._answer.read_text()) if self._answer.exists() else {}
        return f"{answer.get('raised', 'no answer')}\n{self.said[-5:]}\n{self._guest.tail()}"
