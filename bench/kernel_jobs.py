"""
Jobs that measure the whole program in a guest, on a real kernel's GPIO device.

They return plain figures; run.py makes tables of them. The guest's clock of a
process is not one: it gives each whole tick of 10 ms to whatever runs then. That is
right in the mean as long as the flashes do not come by the same beat.
"""

import contextlib
import itertools
import os
import random
import signal
import time
from pathlib import Path

import gpiod
import rig
from gpiod.line import Edge
from inside import NS_PER_S, Line, flashes, play
from program import wait_until
from program_jobs import INPUTS, Counting, meters, settings

from powermeter.meter import hold_off_ns

#: A meter of 1,000 imp/kWh that may flash 2,500 times a second: its hold-off is 0.28 ms.
FAST = {"max_watts": 9_000_000}

#: The line of the yardstick, and how many edges the kernel keeps for it, as for the program.
YARDSTICK, EDGES_KEPT = 4, 1024

#: How long a flash is unless stated otherwise, in ns.
FLASH_NS = 2_000_000

COMMIT = f"COMMIT_INTERVAL = {rig.COMMIT_S}"

#: Makes a program stand still on request, and reads the kernel's numbers.
TOLD = str(rig.TOP / "bench" / "told")


def idle(library, seconds):
    """
    The program as a daemon with its file, after some pulses were delivered, with no more for *seconds*.

    Context switches a second of all threads and of the one that has most; CPU in us a second, by ticks of 10 ms.
    """
    with Counting(settings(meters(1), library=library), daemon=True) as counting:
        play(flashes(INPUTS[0], [n * NS_PER_S // 5 for n in range(5)], FLASH_NS), counting.lines)
        wait_until(lambda: _is_well(counting, 5))
        time.sleep(2)
        pid = counting.pid
        before, cpu_s, start_s = rig.switches(pid), rig.cpu_s(pid), time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - start_s
        after, cpu_s = rig.switches(pid), rig.cpu_s(pid) - cpu_s
        per_s = [(after[thread] - before.get(thread, 0)) / took_s for thread in after]
        assert counting.program.run("--kill").returncode == 0
    return {"all": sum(per_s), "most": max(per_s), "threads": len(per_s), "cpu_us": cpu_s * 1e6 / took_s}


def _is_well(counting, pulses):
    """Whether it counted *pulses* and its file has them."""
    status = counting.status()
    well = all(writer["state"] == "ok" and not writer["waiting"] for writer in status["writers"].values())
    return well and status["meters"]["meter0"]["pulses"] == pulses


def cpu(library, rates):
    """
    CPU of the program and of the yardstick, both given the same flashes, by *rates*: pulses a second, and for how long.

    In ms per 1,000 pulses, from the first of a rate until the journal has the
    last, and what the program counted of those fed.
    """
    found = []
    with Counting(settings(meters(1, **FAST), library=library, more=COMMIT)) as counting, yardstick() as other:
        lines = counting.lines | {YARDSTICK: Line(YARDSTICK, high=True)}
        for per_s, seconds in rates:
            pulses = per_s * seconds
            before, counted = [rig.cpu_s(pid) for pid in (counting.pid, other)], counting.meter()["pulses"]
            play(_side_by_side(pulses, per_s), lines)
            time.sleep(rig.COMMIT_S + 1)
            after = [rig.cpu_s(pid) for pid in (counting.pid, other)]
            ms = [(now_s - then_s) * 1e6 / pulses for now_s, then_s in zip(after, before, strict=True)]
            found.append({"per_s": per_s, "fed": pulses, "counted": counting.meter()["pulses"] - counted, "ms": ms})
        assert counting.program.run("--kill").returncode == 0
    return found


def _side_by_side(pulses, per_s):
    """The trace of flashes on both lines, just after each other, off the beat of the ticks."""
    chance = random.Random(per_s)
    # 1.01: 100/s would be the very beat.
    starts = [round((1.01 * n + chance.random() / 3) * NS_PER_S / per_s) for n in range(pulses)]
    return sorted(
        [
            *flashes(INPUTS[0], starts, FLASH_NS),
            *flashes(YARDSTICK, [at_ns + FLASH_NS // 4 for at_ns in starts], FLASH_NS),
        ]
    )


@contextlib.contextmanager
def yardstick():
    """A process that sleeps until its line has edges and reads them with the library, nothing else; its pid."""
    line = gpiod.LineSettings(edge_detection=Edge.BOTH)
    with gpiod.request_lines("/dev/gpiochip0", {YARDSTICK: line}, "yardstick", EDGES_KEPT) as request:
        if not (pid := os.fork()):
            while True:
                request.wait_edge_events(None)
                request.read_edge_events()
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def stalled(library, starts_ns, length_ns, *, max_watts, how=None, seconds=0):
    """
    Flashes while the program stands still for *seconds*, from 1 s on: what it says of them.

    *how*: "stop", the whole process; "hold", its interpreter; "busy", it goes
    on beside a thread that computes; None, nothing does.
    """
    work = Path("/run/job")
    env = {"PYTHONPATH": TOLD, "NUMBERS": str(work / "numbers")}
    if how in {"hold", "busy"}:
        os.mkfifo(work / how)
        env[how.upper()] = str(work / how)
    with Counting(settings(meters(1, max_watts=max_watts), library=library), env=env) as counting:
        if not (stopper := os.fork()):
            time.sleep(1)
            _stall(counting.pid, how, seconds)
            os._exit(0)
        # A meter waits for no program; but the kernel's own thread goes before it (at 50), or it would merge edges.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        written = play(flashes(INPUTS[0], starts_ns, length_ns), counting.lines)
        os.waitpid(stopper, 0)
        counting.settle()
        kept = counting.stop()
    return _account(kept, written, work / "numbers", hold_off_ns(1000, max_watts))


def _stall(pid, how, seconds):
    if how == "stop":
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
    elif how:
        Path("/run/job", how).write_text(f"{seconds}\n")


def _account(kept, written, numbers, least_ns):
    """
    Where the flashes *written* went.

    *close*: those that a busy host had written hardly more than *least_ns*, the
    hold-off, after the one before: the kernel stamps an edge somewhat later.

    *merged*: edges that the kernel does not tell of, nor its numbers: its
    thread was not run between two of them. None where nobody has seen the numbers.
    """
    meter = kept["status"]["meters"]["meter0"]
    starts = [write.monotonic_ns for write in written if not write.level]
    return {
        "fed": len(starts),
        "close": sum(later - start < 1.5 * least_ns for start, later in itertools.pairwise(starts)),
        "took_s": (written[-1].monotonic_ns - written[0].monotonic_ns) / NS_PER_S,
        "merged": len(written) - int(numbers.read_text()) if numbers.exists() else None,
        "counted": meter["pulses"],
        "unseen": meter["counted_without_being_seen"],
        "rejected": meter["rejected"],
        "late": meter["rejected_after_stall"],
        "journal": len(kept["journal"].get("meter0", [])),
        "file": len(kept["file"].get("meter0", [])),
    }
