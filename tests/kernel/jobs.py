"""Jobs: functions that tests run in a guest, by their names."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gpiod
import inside
from gpiod.line import Direction, Edge, Value


def chips():
    """Label and count of lines of each chip, in order of their numbers."""
    found = []
    for path in sorted(Path("/dev").glob("gpiochip*")):
        with gpiod.Chip(str(path)) as chip:
            info = chip.get_info()
            found.append([info.label, info.num_lines])
    return found


def edges(starts_ns, length_ns):
    """The flashes of line 18 as written, and the edges with the kernel's timestamps: [monotonic ns, level] each."""
    inside.Line(18, high=True)
    settings = gpiod.LineSettings(edge_detection=Edge.BOTH)
    with gpiod.request_lines("/dev/gpiochip0", {18: settings}, "test", event_buffer_size=1024) as request:
        written = inside.play(inside.flashes(18, starts_ns, length_ns))
        events = []
        while request.wait_edge_events(0.1):
            events += request.read_edge_events()
    return {
        "written": [[write.monotonic_ns, write.level] for write in written],
        "edges": [[event.timestamp_ns, int(event.event_type == event.Type.RISING_EDGE)] for event in events],
    }


def lamp():
    """What line 12 shows while it is driven: lit, dark, lit."""
    line = inside.Line(12)
    settings = gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.INACTIVE)
    seen = []
    with gpiod.request_lines("/dev/gpiochip0", {12: settings}, "test") as request:
        for level in (1, 0, 1):
            request.set_value(12, Value(level))
            seen.append(line.value())
    return seen


def clocks(sleep_s):
    """The time before and after a sleep, by both clocks, in ns."""
    before = time.time_ns(), time.monotonic_ns()
    time.sleep(sleep_s)
    return [before, (time.time_ns(), time.monotonic_ns())]


def ordinary_user():
    """Who an ordinary user is, whether that user may open the chip, before and after owning it, and run Python."""

    def may_open():
        try:
            with gpiod.Chip("/dev/gpiochip0"):
                return True
        except PermissionError:
            return False

    user = inside.as_user(os.getuid)
    first = inside.as_user(may_open)
    os.chown("/dev/gpiochip0", user, user)
    program = [sys.executable, "-c", "import power, gpiod"]
    runs = inside.as_user(lambda: subprocess.run(program, check=False).returncode == 0)
    return {"user": user, "at first": first, "then": inside.as_user(may_open), "runs": runs}


def writable():
    """Which of some directories can be written."""

    def is_writable(path):
        try:
            Path(path, "power.tried").write_text("")
        except OSError:
            return False
        return True

    return [path for path in ("/", "/tmp", str(inside.TOP), "/run/job", "/run/host") if is_writable(path)]


def raise_one(text):
    """Print, then raise."""
    print("before it raises")
    raise ValueError(text)


def hang():
    """Print, then run for ever."""
    print("before it hangs", flush=True)
    while True:
        time.sleep(3600)


def end():
    """Print, then power off without an answer."""
    print("before it ends", flush=True)
    Path("/proc/sysrq-trigger").write_text("o")
    time.sleep(60)
