"""Jobs that run the whole program in a guest, by its command line, on lines that they flash."""

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import inside
from inside import NS_PER_S, Line, flashes, play, wait_until
from program import Program

from powermeter.boards.simulated import flashes as flashes_of
from powermeter.boards.simulated import household
from powermeter.process.control import ask

#: BCM numbers: where the first eight meters are, and the lamps.
INPUTS = (24, 25, 5, 6, 13, 19, 26, 20)
L1, L2 = 18, 23

#: The Pi that rpi-lgpio is to assume, as it finds none: a Pi 4, whose header is the first chip.
PI_4 = {"RPI_LGPIO_REVISION": "c03114", "RPI_LGPIO_CHIP": "0"}


def meters(count, **options):
    """METERS with *count* of them, each with *options*."""
    one = {"impulses_per_kwh": 1000, **options}
    return {f"meter{number}": {"pin": pin, **one} for number, pin in enumerate(INPUTS[:count])}


def settings(watched, *, library="gpiod", more=""):
    """A settings.py on BCM numbers."""
    return (
        f"METERS = {watched!r}\nGPIO_LIBRARY = {library!r}\nPIN_NUMBERING = 'BCM'\n"
        f"L1_PIN, L2_PIN = {L1}, {L2}\nCOMMIT_INTERVAL = 1\n{more}\n"
    )


class Counting:
    """The program, counting in the foreground or as a daemon; a context manager."""

    def __init__(self, text, *, lines=INPUTS[:1], daemon=False, env=None, rests_high=True):
        self.lines = {number: Line(number, high=True) for number in lines}
        for line in () if rests_high else self.lines.values():
            line.low()
        self.program = Program(Path("/run/job/power"), text, env={**PI_4, **(env or {})})
        self._daemon = daemon

    def __enter__(self):
        self.program.__enter__()
        if self._daemon:
            self.program.start()
        else:
            self.program.foreground()
        self.pid = self.program.pid
        return self

    def __exit__(self, kind, error, trace):
        self.program.__exit__(kind, error, trace)

    def status(self):
        return json.loads(ask(str(self.program.pidfile), "json"))

    def meter(self, number=0):
        return self.status()["meters"][f"meter{number}"]

    def settle(self):
        """Return once no more pulses come."""
        before = None
        while before != (before := [meter["pulses"] for meter in self.status()["meters"].values()]):
            time.sleep(0.5)

    def stop(self):
        """Stop it as a user would; return what was kept."""
        status = self.status()
        done = self.program.run("--kill")
        assert done.returncode == 0, done.stderr
        return {"status": status, "journal": self.journal(), "file": self.file(), "log": self.log()}

    def journal(self):
        """By meter, its pulses: count, time (UTC, ns), interval (ns)."""
        with contextlib.closing(sqlite3.connect(self.program.data_dir / "journal.db")) as db:
            rows = db.execute("SELECT name, count, time_ns, interval_ns FROM pulses NATURAL JOIN meters").fetchall()
        found = {}
        for name, *row in sorted(rows, key=lambda row: row[:2]):
            found.setdefault(name, []).append(row)
        return found

    def file(self):
        """By meter, the lines of the file: time, power, energy, register."""
        found = {}
        for line in (self.program.data_dir / "power.csv").read_text().splitlines()[1:]:
            at, name, *numbers = line.split(",")
            found.setdefault(name, []).append([at, *numbers])
        return found

    def log(self):
        path = self.program.data_dir / "power.log"
        return path.read_text() if path.exists() else self.program.err.read_text()


def times(written, line):
    """When the flashes on *line* began: UTC in ns."""
    return [write.realtime_ns for write in written if write.line == line and not write.level]


def count(starts_ns, length_ns, *, library="gpiod", meter_count=1, options=None, daemon=False):
    """Flashes at *starts_ns* of each of some meters, a little apart: what was written, and what was kept."""
    watched = meters(meter_count, **(options or {}))
    lines = INPUTS[:meter_count]
    with Counting(settings(watched, library=library), lines=lines, daemon=daemon) as counting:
        trace = sorted(
            edge
            for turn, line in enumerate(lines)
            for edge in flashes(line, [start + turn * 137_000 for start in starts_ns], length_ns)
        )
        written = play(trace, counting.lines)
        counting.settle()
        kept = counting.stop()
    return {"written": {f"meter{n}": times(written, line) for n, line in enumerate(lines)}, **kept}


def steady(watts, impulses_per_kwh, pulses, *, library="gpiod"):
    """The powers shown for a load that never changes."""
    spacing_ns = 3.6e15 / (watts * impulses_per_kwh)
    starts = [round(n * spacing_ns) for n in range(1, pulses + 1)]
    return count(starts, 2_000_000, library=library, options={"impulses_per_kwh": impulses_per_kwh})


def stalled(seconds, per_s, *, library="gpiod", how="stop", options=None):
    """The program is stalled for *seconds* while flashes go on, as they do for 3 s before and after."""
    spacing_ns = NS_PER_S // per_s
    total = (seconds + 6) * per_s
    hold = Path("/run/job/hold")
    os.mkfifo(hold)
    env = {"PYTHONPATH": str(Path(__file__).parent / "hold"), "HOLD": str(hold)} if how == "hold" else {}
    with Counting(settings(meters(1, **(options or {})), library=library), env=env) as counting:
        if not (stopper := os.fork()):
            # A process of its own: the flashes must not wait for it.
            time.sleep(3)
            if how == "hold":
                hold.write_text(f"{seconds}\n")
            else:
                os.kill(counting.pid, signal.SIGSTOP)
                time.sleep(seconds)
                os.kill(counting.pid, signal.SIGCONT)
            os._exit(0)
        written = play(
            flashes(INPUTS[0], [n * spacing_ns for n in range(1, total + 1)], spacing_ns // 5), counting.lines
        )
        os.waitpid(stopper, 0)
        counting.settle()
        kept = counting.stop()
    return {"written": times(written, INPUTS[0]), **kept}


def start_again(starts, *, library):
    """Fresh starts, each with one flash: how many saw it, and what they left in their working directories."""
    seen, text = [], settings(meters(1), library=library)
    line = Line(INPUTS[0], high=True)
    for _ in range(starts):
        with Counting(text) as counting:
            line.low()
            time.sleep(0.01)
            line.high()
            with contextlib.suppress(AssertionError):
                wait_until(lambda counting=counting: counting.meter()["pulses"] == len([s for s in seen if s]) + 1, 5)
            seen.append(counting.meter()["pulses"] == len([s for s in seen if s]) + 1)
            assert counting.program.run("--kill").returncode == 0
    left = [str(path) for path in Path("/run/job").rglob("*") if ".lgd" in path.name]
    return {"seen": seen.count(True), "left": left}


def replay(path, *, library="gpiod", options=None, wait_s=0):
    """A trace from a file, offsets in us: what was kept, and how the meter was *wait_s* after it."""
    trace = []
    for line in Path(path).read_text().splitlines():
        if line and not line.startswith("#"):
            offset_us, level = line.split()
            trace.append((int(offset_us) * 1000, INPUTS[0], int(level)))
    options = options or {}
    rests_high = options.get("lit") != "high"
    with Counting(settings(meters(1, **options), library=library), rests_high=rests_high) as counting:
        written = play(trace, counting.lines)
        time.sleep(wait_s)
        counting.settle()
        kept = counting.stop()
    return {"written": [[w.realtime_ns, w.level] for w in written], **kept}


def contact(*, library, sensor, rest_s):
    """A contact that flashes, rests closed for *rest_s* and flashes again: what was reported then, and counted."""
    l2 = Line(L2)
    with Counting(settings(meters(1, sensor=sensor), library=library)) as counting:
        line = counting.lines[INPUTS[0]]
        pulses = flashes(INPUTS[0], [n * NS_PER_S for n in range(20)], 30_000_000)
        play(pulses, {INPUTS[0]: line})
        time.sleep(1)
        line.low()
        time.sleep(rest_s)
        closed = [counting.meter()["stuck"], [level for level, _ in levels(l2, 2)]]
        line.high()
        time.sleep(5)
        play(flashes(INPUTS[0], [n * NS_PER_S for n in range(19)], 30_000_000), {INPUTS[0]: line})
        counting.settle()
        return {"closed": closed, "pulses": counting.meter()["pulses"]}


def pulled(*, library, pull):
    """The level of an input that nobody drives, after it was low and after it was high, before and during a run."""
    seen = {"before": [], "while it runs": []}
    for level in (0, 1):
        with Line(INPUTS[0], high=level == 1) as line:
            if not level:
                line.low()
            seen["before"].append(line.value())
            program = Program(Path(f"/run/job/power{level}"), settings(meters(1, pull=pull), library=library), env=PI_4)
            with program:
                program.foreground()
                seen["while it runs"].append(line.value())
    return seen


def telegrams():
    """A port that sends 250 edges every second, 1 ms apart, for some minutes: whether it is noise, before and after."""
    noisy, l2 = [], Line(L2)
    with Counting(settings(meters(1))) as counting:
        play(flashes(INPUTS[0], [n * NS_PER_S for n in range(20)], 5_000_000), counting.lines)
        noisy.append(counting.meter()["noisy"])
        for _ in range(130):
            play(((n * 1_000_000, INPUTS[0], n % 2) for n in range(250)), counting.lines)
            time.sleep(0.75)
        noisy.append(counting.meter()["noisy"])
        lamp = levels(l2, 2)
        time.sleep(150)
        noisy.append(counting.meter()["noisy"])
        return {"noisy": noisy, "lamp": lamp, "log": counting.log()}


def levels(line, seconds, every_s=0.01):
    """How long, in s, *line* stayed at each level it had, in turn."""
    changes, end_s = [], time.monotonic() + seconds
    while time.monotonic() < end_s:
        level = line.value()
        if not changes or changes[-1][0] != level:
            changes.append([level, time.monotonic()])
        time.sleep(every_s)
    return [[level, later[1] - at] for (level, at), later in itertools.pairwise(changes)] + [
        [changes[-1][0], end_s - changes[-1][1]]
    ]


def lamps(*, library="gpiod"):
    """L1 and L2 as the device shows them, in each state."""
    seen, l1, l2, meter = {}, Line(L1), Line(L2), Line(INPUTS[0], high=True)

    def flash():
        meter.low()
        time.sleep(0.005)
        meter.high()

    with Counting(settings(meters(1, max_watts=200_000), library=library)) as counting:
        wait_until(l2.value)
        seen["well"] = levels(l2, 3)
        flash()
        seen["flash"] = levels(l1, 0.5)
        trace = flashes(INPUTS[0], [n * 25_000_000 for n in range(80)], 5_000_000)
        if not (player := os.fork()):
            play(trace, {INPUTS[0]: meter})
            os._exit(0)
        seen["train"] = levels(l1, 1.5)
        os.waitpid(player, 0)
    away = 'WRITERS = {"db": {"type": "influxdb", "host": "127.0.0.1", "port": 1, "update_period": 0}}'
    with Counting(settings(meters(1), library=library, more=away)) as counting:
        flash()
        wait_until(lambda: counting.status()["writers"]["db"]["state"] == "failing")
        seen["failing"] = levels(l2, 5)
    with Counting(settings(meters(1, silence_minutes=0.1), library=library)) as counting:
        wait_until(lambda: counting.meter()["silent"])
        seen["silent"] = levels(l2, 3)
        flash()
        wait_until(lambda: not counting.meter()["silent"])
        seen["flashes again"] = levels(l2, 2)
    return seen


def stuck():
    """The LED lights up and stays so for hours: status and L2 then, and after the next flash."""
    l2, meter, seen = Line(L2), Line(INPUTS[0], high=True), []

    def seen_now(counting):
        now = counting.meter()
        return [now["stuck"], now["watts"], now["watts_is_bound"], now["pulses"], levels(l2, 2)]

    with Counting(settings(meters(1))) as counting:
        for start in (0, 3_600_000_000):
            play(flashes(INPUTS[0], [start], 5_000_000), {INPUTS[0]: meter})
        time.sleep(3.6)
        meter.low()
        for seconds in (60, 900, 7200):
            time.sleep(seconds)
            seen.append(seen_now(counting))
        meter.high()
        time.sleep(60)
        play(flashes(INPUTS[0], [0], 5_000_000), {INPUTS[0]: meter})
        time.sleep(1)
        seen.append(seen_now(counting))
        kept = counting.stop()
    return {"seen": seen, **kept}


def day(seed, zone):
    """A day of a household from 22:00 on: what a meter's LED did, and what was kept."""
    os.environ["TZ"] = zone
    time.tzset()
    end_ns = 86_400 * NS_PER_S
    starts = []
    for at_ns in flashes_of(household(22 * 3600, seed), 1000, 0):
        if at_ns >= end_ns:
            break
        starts.append(at_ns)
    with Counting(settings(meters(1)), env={"TZ": zone}) as counting:
        written, status_at = [], []
        midnight = next(n for n, at_ns in enumerate(starts) if at_ns > 2 * 3600 * NS_PER_S)
        for part in (starts[:midnight], starts[midnight:]):
            first = part[0]
            time.sleep(1)
            written += play(flashes(INPUTS[0], [at_ns - first for at_ns in part], 10_000_000), counting.lines)
            counting.settle()
            status_at.append([time.localtime()[:6], counting.meter()])
        kept = counting.stop()
    return {"written": times(written, INPUTS[0]), "status_at": status_at, **kept}


def refused(how):
    """A start that must fail: its exit status and output, for each way of starting."""
    text, outputs = settings(meters(1), library="gpiod"), []
    Line(INPUTS[0], high=True)
    stack = contextlib.ExitStack()
    with stack:
        if how == "busy":
            import gpiod

            stack.enter_context(
                gpiod.request_lines("/dev/gpiochip0", {INPUTS[0]: gpiod.LineSettings()}, consumer="another")
            )
        elif how == "missing":
            text += "GPIO_CHIP = '/dev/gpiochip7'\n"
        elif how == "no chip":
            text += "GPIO_CHIP = '/dev/null'\n"

        def start():
            for flags in ([], ["--nodaemon"]):
                # Of each way a directory of its own: the user that runs it owns it.
                with Program(
                    Path(os.environ.get("HOME", "/run/job"), f"p{len(outputs)}{how}".replace(" ", "")), text
                ) as p:
                    done = p.run(*flags)
                    outputs.append([done.returncode, done.stdout, done.stderr])
            return outputs

        return inside.as_user(start) if how == "forbidden" else start()


def ordinary(group):
    """An ordinary user, in the chip's group or not, counts three flashes."""
    os.chown("/dev/gpiochip0", 0, group)
    os.chmod("/dev/gpiochip0", 0o660)
    lines = {INPUTS[0]: Line(INPUTS[0], high=True)}

    def work():
        with Program(Path(os.environ["HOME"], "power"), settings(meters(1))) as program:
            program.start()
            play(flashes(INPUTS[0], [n * NS_PER_S for n in range(3)], 5_000_000), lines)
            wait_until(lambda: program.status()["meters"]["meter0"]["pulses"] == 3)
            return [os.getuid(), program.run("--kill").returncode]

    return inside.as_user(work, groups=[group])
