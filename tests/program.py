"""The program by its command line, for tests: real processes, with all that they write in one directory."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from powermeter.errors import PowerError
from powermeter.process.holder import holder

SOURCE = Path(__file__).resolve().parents[1] / "src"

#: The most that anything here may take, in s. Only a failing test waits that long.
PATIENCE_S = 60

#: Only root can make processes of other users, and may do anything to any. So what a user may not do is tried by one
#: without privileges: under root by a child that gives its own up, else by the user of the tests.
AS_ROOT = os.geteuid() == 0
NOBODY = 65534

#: For a test that gives files to other users, or makes users and mounts.
root_alone = pytest.mark.skipif(not AS_ROOT, reason="needs root")

#: The lines after which a command is run by a user whom the modes of files bind: for :meth:`Program.run_after`.
#: They import first: once the privileges are gone, the source and Python itself may not be readable any more.
UNPRIVILEGED = f"""
import json, locale, os, socket, powermeter.arguments, powermeter.check, powermeter.commands, powermeter.run
import powermeter.process.confined, powermeter.process.control, powermeter.process.daemon
import powermeter.settings.reading, powermeter.writers.file, powermeter.writers.influxdb, powermeter.writers.librato
powermeter.arguments.parser()
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
"""
if not AS_ROOT:
    UNPRIVILEGED = ""

#: A command of the program, after the lines that a test puts before it.
COMMAND = """
import sys
sys.path.insert(0, {source!r})
import power
{before}
sys.exit(power.main(sys.argv[1:]))
"""


def wait_until(condition, timeout=PATIENCE_S):
    """Ask *condition* again and again; return its first true answer."""
    end_s = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < end_s, f"still not so after {timeout} s"
        time.sleep(0.02)
    return answer


@contextlib.contextmanager
def first_page():
    """For who starts the page of a first try, at port 8080: the tests may run twice at the same time."""
    with socket.socket(socket.AF_UNIX) as held:

        def has_it():
            with contextlib.suppress(OSError):
                # In the abstract name space, so that the kernel lets go of it whatever happens.
                held.bind("\0power tests at port 8080")
                return True

        wait_until(has_it, 10 * PATIENCE_S)
        yield


class Program:
    """
    ``power.py`` with its settings, pidfile and DATA_DIR in *directory*; a context manager.

    *settings* is the text of settings.py after DATA_DIR; *env* is added to the
    environment. At the end whatever still runs is killed, by its pid.
    """

    def __init__(self, directory, settings="", *, env=None, python=sys.executable, script=SOURCE / "power.py"):
        self.directory = Path(directory)
        self.data_dir = self.directory / "data"
        self.pidfile = self.directory / "power.pid"
        self.settings = self.directory / "settings.py"
        #: What a foreground program prints.
        self.out = self.directory / "foreground.out"
        self.err = self.directory / "foreground.err"
        self.env = {key: value for key, value in os.environ.items() if key != "POWER_SETTINGS"} | (env or {})
        self.start_of_line = [str(python), str(script)]
        self._foregrounds = []
        self.directory.mkdir(parents=True, exist_ok=True)
        self.set(settings)

    def set(self, settings):
        """Rewrite settings.py. A machine that has just booted, without a network, is not waited for."""
        self.settings.write_text(f"DATA_DIR = {str(self.data_dir)!r}\nCLOCK_WAIT = 0\n{settings}\n")
        self.settings.chmod(0o600)

    def line(self, *args):
        """The command line of *args*; with our pidfile and settings, unless it names others."""
        own = {"--settings": str(self.settings), "--pidfile": str(self.pidfile)}
        added = [word for option, path in own.items() if option not in args for word in (option, path)]
        return [*self.start_of_line, *added, *args]

    def run(self, *args, cwd=None):
        """Run *args* to its end. No command may show a traceback."""
        return self._finished(self.line(*args), cwd)

    def line_after(self, before, *args):
        """The command line of *args*, by a Python that first runs *before*: lines that bend what the program meets."""
        return [sys.executable, "-c", COMMAND.format(source=str(SOURCE), before=before), *self.line(*args)[2:]]

    def run_after(self, before, *args):
        """Run *args* to its end after the lines *before*, as :meth:`run` does."""
        return self._finished(self.line_after(before, *args))

    def _finished(self, line, cwd=None):
        done = subprocess.run(
            line,
            cwd=cwd or self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    def start(self, *args):
        """Start a daemon and return its pid."""
        done = self.run(*args)
        assert done.returncode == 0, done.stderr
        return self.pid

    def foreground(self, *args):
        """Start in the foreground and return the Popen once it counts; what it prints goes to *out* and *err*."""
        with self.out.open("ab") as out, self.err.open("ab") as err:
            line = self.line("--nodaemon", *args)
            popen = subprocess.Popen(
                line, cwd=self.directory, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self._foregrounds.append(popen)
        wait_until(lambda: popen.poll() is not None or self.run("--status").returncode == 0)
        assert popen.returncode is None, self.err.read_text()
        return popen

    def status(self):
        """What ``--status --json`` tells."""
        return json.loads(self.run("--status", "--json").stdout)

    @property
    def pid(self):
        """The pid of the running one by the lock of its pidfile, None without one."""
        return holder(str(self.pidfile))

    def end(self):
        """Kill whatever still runs, and wait until it has ended; may be called twice."""
        for popen in self._foregrounds:
            popen.kill()
            popen.wait()
        for path in self.directory.rglob("*"):
            if path.suffix == ".pid" or path.name == "lock":
                # Anything may be in the pidfile's place: then it has no holder.
                with contextlib.suppress(PowerError):
                    if pid := holder(str(path)):
                        kill(pid)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.end()
        if kind is None:
            for path in filter(Path.is_file, [*self.directory.rglob("*.log"), *self.directory.rglob("foreground.*")]):
                assert "Traceback" not in path.read_text(), f"{path}:\n{path.read_text()}"


@contextlib.contextmanager
def readable_to_all():
    """A directory that other users reach too, as tmp_path is open only to its user."""
    with tempfile.TemporaryDirectory(prefix="power-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def kill(pid):
    """SIGKILL *pid* and wait until it has ended."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert select.select([pidfd], [], [], PATIENCE_S)[0], f"pid {pid} survives SIGKILL"
        finally:
            os.close(pidfd)
