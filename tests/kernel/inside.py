"""
What jobs use inside a guest: the simulated lines, signals with the time of each edge, an ordinary user.

The guest has one processor. With a clock that jumps, time passes while
everything sleeps, and in steps of some ns at each look at a clock.
"""

import contextlib
import importlib
import json
import os
import stat
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parents[2]

#: The host's directory of this job, the only one of the host that can be written.
HOST = Path("/run/host")

#: What is between two edges at least, in ns, unless the trace has them closer: simulated edges that are
#: nearer to each other become one, and a busy machine would bring all that are overdue at once.
GAP_NS = 300_000

NS_PER_S = 1_000_000_000


def jumping():
    """Whether sleeps take no time in this guest."""
    return "time-travel" in Path("/proc/cmdline").read_text().split()


def wait_until(condition, seconds=30):
    """Call *condition* until it returns something true; return that."""
    end_s = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end_s, f"still not so after {seconds} s"
        time.sleep(0.005)
    return answer


class Line:
    """
    The simulated line of BCM *number*; a context manager.

    With *high* it rests high from now on, as the collector of a phototransistor
    does in the dark; a line that nobody has set rests low. A program that asks
    for an internal pull-up moves it as well.
    """

    def __init__(self, number, *, high=False):
        self._directory = Path(os.environ["SIM_DIR"], f"sim_gpio{number}")
        self._pull = os.open(self._directory / "pull", os.O_WRONLY)
        if high:
            self.high()

    def low(self):
        """Pull it low."""
        os.write(self._pull, b"pull-down")

    def high(self):
        """Pull it high."""
        os.write(self._pull, b"pull-up")

    def close(self):
        """Leave it as it is; may be called twice."""
        if self._pull is not None:
            os.close(self._pull)
            self._pull = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()

    def value(self):
        """The level, 0 or 1; for a line that a program drives, the level that it drives."""
        return int((self._directory / "value").read_text())


class Write(NamedTuple):
    """A change of a line, and the time by both clocks just before it was written."""

    monotonic_ns: int
    realtime_ns: int
    line: int
    level: int


def flashes(line, starts_ns, length_ns):
    """The trace of flashes on *line*, each *length_ns* long: it is low from each of *starts_ns* on."""
    for start_ns in starts_ns:
        yield start_ns, line, 0
        yield start_ns + length_ns, line, 1


def play(trace, lines=None):
    """
    Play *trace*, each ``(offset_ns, line, level)``, in order of time; return a :class:`Write` each.

    Offsets count from the call, on the monotonic clock. Every line rests high
    before the first edge. *lines* are Lines by number that are open already.
    On a busy machine edges come late, and later ones with them: a
    :class:`Write` has the time that was.
    """
    trace = list(trace)
    lines = lines or {number: Line(number, high=True) for number in {line for _, line, _ in trace}}
    written = []
    start_ns = written_ns = time.monotonic_ns()
    last_offset_ns = 0
    for offset_ns, number, level in trace:
        change = lines[number].high if level else lines[number].low
        # Slept to the end, not awake for the last of it: that keeps the kernel's own thread from the edge before.
        sleep_until(max(start_ns + offset_ns, written_ns + min(GAP_NS, offset_ns - last_offset_ns)))
        written.append(Write(time.monotonic_ns(), time.time_ns(), number, level))
        change()
        written_ns, last_offset_ns = time.monotonic_ns(), offset_ns
    return written


def sleep_until(at_ns):
    """Sleep until *at_ns* of the monotonic clock."""
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        time.sleep(left_ns / NS_PER_S)


def as_user(function, *, user=None, groups=()):
    """
    Run *function* in a process of an ordinary user, in a home of its own; return what it returns.

    It is in *groups* beside the user's own. That user's number is the one on the host, or 1000 where that is root. The
    interpreter and the project can be read by that user, wherever they lie.
    Files that are open stay so: a :class:`Line` made before can be changed.
    """
    user = user or int(os.environ["POWER_USER"])
    for path in (sys.prefix, sys.base_prefix, TOP):
        open_way(Path(path))
    home = Path("/run/home", str(user))
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, user, user)
    read_end, write_end = os.pipe()
    if not (child := os.fork()):
        os.close(read_end)
        os.setgroups(groups)
        os.setgid(user)
        os.setuid(user)
        os.chdir(home)
        os.environ |= {"HOME": str(home), "TMPDIR": str(home), "XDG_RUNTIME_DIR": str(home)}
        with open(write_end, "w") as end:
            end.write(answer_of(function))
        os._exit(0)
    os.close(write_end)
    with open(read_end) as end:
        text = end.read()
    os.waitpid(child, 0)
    answer = json.loads(text) if text else {"raised": "the user's process ended without an answer"}
    if "raised" in answer:
        raise AssertionError(f"as user {user}:\n{answer['raised']}")
    return answer["returned"]


def open_way(path):
    """Make *path* reachable for everybody: private directories above it become passable, and nothing more."""
    host = Path("/run/root", *path.parts[1:])
    for parent in reversed(path.parents):
        if not Path("/run/root", *parent.parts[1:]).stat().st_mode & stat.S_IXOTH:
            if not parent.stat().st_mode & stat.S_IXOTH:
                subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(parent)], check=True)
            path.mkdir(parents=True, exist_ok=True)
            if not path.is_mount():
                subprocess.run(["mount", "--bind", str(host), str(path)], check=True)
            return


def answer_of(function):
    """As JSON: what *function* returned or raised."""
    try:
        return json.dumps({"returned": function()})
    except BaseException:  # noqa: BLE001 - whatever it is, the test shows it
        return json.dumps({"raised": traceback.format_exc()})


def main():
    """Run the job that the host names, and leave its answer there."""
    asked = json.loads((HOST / "job.json").read_text())
    if asked["start_ns"] is not None and not jumping():
        time.clock_settime_ns(time.CLOCK_REALTIME, asked["start_ns"])
    module, _, job = asked["job"].rpartition(".")
    answer = answer_of(lambda: getattr(importlib.import_module(module or "jobs"), job)(**asked["arguments"]))
    with (HOST / "answer.new").open("w") as file:
        file.write(answer)
        file.flush()
        os.fsync(file.fileno())
    (HOST / "answer.new").rename(HOST / "answer.json")
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(0)  # whatever else runs ends with the guest
