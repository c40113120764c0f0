"""
Jobs of the fault campaign in a guest: the program on a disk that can be cut off, filled, taken away.

The disk is an image, a file of the host's that the guest has as a loop device.
What the device has not flushed stays in the guest's memory, as in a card's own,
and a killed guest loses it. Reading and writing it takes no time of a clock
that jumps, where the kernel's own disk (ubd) would let it run on.
"""

import contextlib
import ctypes
import datetime as dt
import fcntl
import heapq
import itertools
import json
import os
import random
import sqlite3
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

from http_server import BEHAVIOURS, Answering, http_answer
from inside import NS_PER_S, Line, sleep_until
from program import Program, wait_until
from program_jobs import INPUTS, L2, Counting, levels, meters, settings

from powermeter.boards.simulated import flashes as flashes_of
from powermeter.boards.simulated import household
from powermeter.errors import PowerError
from powermeter.meter import Constant

#: Where the disk is mounted, and the program's directory on it.
DISK = Path("/run/disk")
DATA = DISK / "power"

#: A meter that may flash 20 times a second and more.
FAST = {"max_watts": 200_000}

#: How long a flash is, in ns.
FLASH_NS = 5_000_000

#: The patience for what the program does by itself, in s of the guest's clock: a writer that failed pauses for 300 s at
#: the most.
PATIENCE_S = 400

DAY_NS = 86_400 * NS_PER_S


def shell(*words):
    """Run a command, which must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"


def attach(image, number=0):
    """Have the host's file *image* as loop device *number*; return its path."""
    path, images, device = Path(image), Path("/run/images"), f"/dev/loop{number}"
    if not images.is_mount():
        images.mkdir(exist_ok=True)
        shell("mount", "-t", "hostfs", "-o", str(path.parent), "none", str(images))
    shell("losetup", device, str(images / path.name))
    return device


def mount(device):
    """Mount it as a Pi's card is."""
    DISK.mkdir(exist_ok=True)
    shell("mount", "-t", "ext4", "-o", "noatime,errors=remount-ro", device, str(DISK))


class OnDisk(Counting):
    """The program with its data on the disk."""

    def __init__(self, text, **options):
        super().__init__(f"{text}\nDATA_DIR = {str(DATA)!r}\n", **options)
        self.program.data_dir = DATA

    def status(self):
        """The program's status; it fails the job if the program has ended."""
        self.assert_runs()
        return super().status()

    def log(self):
        """The log, which is beside the disk, not on it."""
        path = self.program.directory / "power.log"
        return path.read_text() if path.exists() else self.program.err.read_text()

    def until(self, condition):
        """Wait until *condition* holds; return its answer, or show what the program said meanwhile."""
        try:
            return wait_until(condition, PATIENCE_S)
        except (AssertionError, PowerError) as error:
            raise AssertionError(f"{error}\n{self.log()}") from error

    def delivered(self):
        """Whether every writer has every pulse that was counted."""
        status = self.status()
        return not status["journal"]["uncommitted"] and all(w["waiting"] == 0 for w in status["writers"].values())

    def assert_runs(self):
        """It has not ended; else what it said fails the job."""
        for popen in self.program._foregrounds:
            assert popen.poll() is None, f"ended with {popen.returncode}: {self.log()}"


def say(**what):
    """Tell the host at once, as a line of JSON."""
    with open("/dev/ttyS0", "w") as serial:
        serial.write(json.dumps(what) + "\n")


def journal(path=DATA / "journal.db"):
    """What SQLite says of its integrity, and its rows: count, time, interval. None where it was never finished."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        integrity = [text for (text,) in db.execute("PRAGMA integrity_check")]
        if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return integrity, []
        return integrity, db.execute("SELECT count, time_ns, interval_ns FROM pulses ORDER BY count").fetchall()


def csv_rows(path=DATA / "power.csv"):
    """Its lines as (time in ns, register in kWh); each must be whole."""
    found = []
    with path.open(newline="") as file:
        assert next(file) == "time,meter,power_w,energy_wh,register_kwh\n"
        for line in file:
            assert line.endswith("\n"), f"torn: {line!r}"
            at, _, _, _, register = line.split(",")
            found.append((ns_of(at), float(register)))
    return found


def ns_of(text):
    """A time of the file as UTC in ns."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return round(dt.datetime.fromisoformat(whole + "+00:00").timestamp()) * NS_PER_S + int(fraction)


def disagreement(rows, lines, impulses_per_kwh=1000):
    """Where the file differs from the journal, of which it must have each pulse once, in order; "" where not."""
    constant = Constant(impulses_per_kwh)
    for number, (row, line) in enumerate(itertools.zip_longest(rows, lines), 1):
        if row is None or line is None or row[0] != number or line != (row[1], constant.register_at(number)):
            return f"pulse {number}: the journal has {row}, the file {line}; {len(rows)} rows, {len(lines)} lines"
    return ""


# --- Power cuts


def life(image, per_s, commit_s, flashing_s=None):
    """
    What the last power cut has left, then flashes until the next, each told to the host.

    With *flashing_s* they end, the program is stopped and the disk unmounted.
    """
    mount(attach(image))
    integrity, rows = journal() if (DATA / "journal.db").exists() else (["ok"], [])
    holes = [n for n, row in enumerate(rows, 1) if row[0] != n]
    say(found=len(rows), integrity=integrity, holes=holes[:3])
    watched = meters(1, **FAST)
    text = settings(watched, more=f"COMMIT_INTERVAL = {commit_s}")
    with OnDisk(text) as counting:
        # What the cut kept from the file comes now.
        counting.until(counting.delivered)
        lines = csv_rows() if (DATA / "power.csv").exists() else []
        say(counted=counting.meter()["pulses"], wrong=disagreement(rows, lines), lines=len(lines))
        made, start_ns = len(rows), time.monotonic_ns()
        line, spacing_ns = counting.lines[INPUTS[0]], round(NS_PER_S / per_s)
        for turn in itertools.count(1):
            if flashing_s is not None and turn * spacing_ns > flashing_s * NS_PER_S:
                break
            sleep_until(start_ns + turn * spacing_ns)
            at_ns = time.monotonic_ns()
            line.low()
            made += 1
            say(flash=made, at_ns=at_ns)
            counting.assert_runs()
            time.sleep(FLASH_NS / NS_PER_S)
            line.high()
        counting.settle()
        assert counting.program.run("--kill").returncode == 0
    integrity, rows = journal()
    say(kept=len(rows), integrity=integrity, wrong=disagreement(rows, csv_rows()))
    shell("umount", str(DISK))


# --- A stick

#: Where the stick is mounted, and the names of the writers' files there.
STICK = Path("/run/stick")
STICK_FILES = ("power.csv", "spare.csv")


def mount_stick(device, kind):
    """Mount the stick as a desktop does: for everyone, and without waiting for it."""
    STICK.mkdir(exist_ok=True)
    shell("mount", "-t", kind, "-o", "noatime", device, str(STICK))


def on_stick(name, rows):
    """What is wrong with the files of the writer of *name*; "" where each of *rows* is there exactly once."""
    lines = Counter(line for path in files_on_stick(name) for line in csv_rows(path))
    wanted = {(row[1], Constant(1000).register_at(row[0])) for row in rows}
    twice, missing = [line for line, count in lines.items() if count > 1], sorted(wanted - set(lines))
    if set(lines) == wanted and not twice:
        return ""
    files = [(path.name, path.stat().st_size, *ends(csv_rows(path))) for path in files_on_stick(name)]
    return (
        f"{name}: {len(rows)} pulses, {sum(lines.values())} lines; twice: {twice[:3]}; missing: {missing[:3]}; of no "
        f"pulse: {sorted(set(lines) - wanted)[:3]}; files (name, size, first and last register): {files}"
    )


def ends(rows):
    """The first and the last register of a file."""
    return [rows[0][1], rows[-1][1]] if rows else []


def files_on_stick(name):
    return [path for path in STICK.glob(f"{name}*") if path.stat().st_size]


def life_with_stick(image, stick, kind, seed, taken_out, last):
    """
    What the last power cut has left on the stick, then flashes until the next, each told to the host.

    *taken_out*: the stick is unmounted for a while and mounted again. The *last* life is stopped in order.
    """
    chance = random.Random(seed)
    mount(attach(image))
    device = attach(stick, 1)
    mount_stick(device, kind)
    places = {name: {"type": "file", "path": str(STICK / name)} for name in STICK_FILES}
    text = settings(meters(1, **FAST), more=f"COMMIT_INTERVAL = 1\nWRITERS = {named(places)!r}")
    with OnDisk(text) as counting:
        counting.until(counting.delivered)
        _, rows = journal() if (DATA / "journal.db").exists() else ([], [])
        wrong = [said for name in STICK_FILES if (said := on_stick(name, rows))] if rows else []
        found = [len(csv_rows(path)) for name in STICK_FILES for path in files_on_stick(name)]
        say(wrong=wrong, lines=sum(found), files=len(found))
        line, start_ns = counting.lines[INPUTS[0]], time.monotonic_ns()
        for turn in range(400 if last else 10**6):
            sleep_until(start_ns + turn * NS_PER_S)
            line.low()
            say(flash=turn)
            counting.assert_runs()
            time.sleep(FLASH_NS / NS_PER_S)
            line.high()
            if chance.random() < 0.02:
                name = chance.choice(STICK_FILES)
                if STICK.is_mount() and (STICK / name).exists():
                    # A number of its own: the clock of every life begins at the same time.
                    (STICK / name).rename(STICK / f"{name}.{chance.randrange(2**60)}")
                    # A FAT may lose a file whose renaming is not on the disk when the power goes; that is not ours.
                    os.sync()
            if taken_out and turn in (50, 150):
                take_out_or_put_back(device, kind)
        counting.settle()
        counting.until(counting.delivered)
        assert counting.program.run("--kill").returncode == 0
    _, rows = journal()
    found = [len(csv_rows(path)) for name in STICK_FILES for path in files_on_stick(name)]
    say(wrong=[said for name in STICK_FILES if (said := on_stick(name, rows))], lines=sum(found), files=len(found))


def named(places):
    """WRITERS of the files in *places*, by names that the settings allow."""
    return {name.partition(".")[0]: place for name, place in places.items()}


def take_out_or_put_back(device, kind):
    """As a hand does: without asking the program, whose files stay open."""
    if STICK.is_mount():
        shell("umount", "-l", str(STICK))
    else:
        mount_stick(device, kind)


# --- Wear


def written(device):
    """Bytes written to the disk so far, in how many writes, with how many flushes."""
    fields = [int(word) for word in Path("/sys/block", Path(device).name, "stat").read_text().split()]
    return [fields[6] * 512, fields[4], fields[15]]


def wear(image, per_s, commit_s, pulses, with_file):
    """What *pulses* cost the disk: bytes, writes and flushes, from the first's commit to the last's."""
    device = attach(image)
    mount(device)
    writers = "" if with_file else "WRITERS = {}"
    text = settings(meters(1, **FAST), more=f"COMMIT_INTERVAL = {commit_s}\n{writers}")
    with OnDisk(text) as counting:
        line, spacing_s = counting.lines[INPUTS[0]], 1 / per_s

        def flash_on(count):
            start_ns = time.monotonic_ns()
            for turn in range(count):
                sleep_until(start_ns + round(turn * spacing_s * NS_PER_S))
                line.low()
                time.sleep(FLASH_NS / NS_PER_S)
                line.high()
            # The last commit, the last lines of the file, and what ext4 writes 5 s later.
            time.sleep(commit_s + 60)
            os.sync()

        flash_on(1)
        before = written(device)
        flash_on(pulses)
        after = written(device)
        assert counting.meter()["pulses"] == 1 + pulses
        assert counting.program.run("--kill").returncode == 0
    assert len(journal()[1]) == 1 + pulses
    return [now - then for now, then in zip(after, before, strict=True)]


# --- A month


class Influx:
    """What stands for an InfluxDB: keeps the time and the register of each point it has answered; can be away."""

    #: How it is away, by name: what it does with a request. None: it refuses connections.
    AWAY = {name: BEHAVIOURS[name] for name in ("hung", "reset", "503 close", "500")} | {"refused": None}

    def __init__(self):
        self._server = Answering(self._take)
        self.port = self._server.port
        self.points = []
        self._listens = True

    def _take(self, request):
        self._server.requests.clear()
        for line in request.body.decode().splitlines():
            fields, at = line.split(" ")[1:]
            self.points.append((int(at), float(dict(field.split("=") for field in fields.split(","))["register"])))
        return http_answer(204)

    def go(self, how):
        """Be away, in one of the ways of AWAY."""
        self._server.script = self.AWAY[how]
        if self._server.script is None:
            self._server.stop_listening()
            self._listens = False

    def come(self):
        """Be there again."""
        self._server.script = self._take
        self._server.hang_up()
        if not self._listens:
            self._server.listen()
            self._listens = True

    def close(self):
        """End it."""
        self._server.close()


def upsets(days, seed):
    """Outages and steps of the clock, some a day, at random: (at_ns, what, how), in order."""
    chance, found = random.Random(seed), []
    for day in range(days):
        day_ns = day * DAY_NS
        at_ns = day_ns + chance.randrange(DAY_NS // 2)
        found.append((at_ns, "go", chance.choice(sorted(Influx.AWAY))))
        found.append((at_ns + chance.randrange(60, 12 * 3600) * NS_PER_S, "come", None))
        # A clock that is wrong for some hours: the least step is one that NTP would make.
        at_ns = day_ns + chance.randrange(DAY_NS // 2)
        step_s = chance.choice((-1, 1)) * chance.choice((0.2, 30, 3600, 86400 * 3))
        found.append((at_ns, "step", step_s))
        found.append((at_ns + chance.randrange(60, 6 * 3600) * NS_PER_S, "step", -step_s))
    return sorted(found, key=lambda upset: upset[0])


def soak(days, seed):
    """Days of a household, with :func:`upsets`: what was made, what was kept, and what the program used meanwhile."""
    server = Influx()
    writers = {
        "file": {"type": "file", "path": "power.csv"},
        "db": {"type": "influxdb", "host": "127.0.0.1", "port": server.port, "update_period": 60},
    }
    starts = itertools.takewhile(lambda at_ns: at_ns < days * DAY_NS, flashes_of(household(0, seed), 1000, 0))
    uses = [(n * DAY_NS // 4, "use", None) for n in range(1, 4 * days + 1)]
    trace = heapq.merge(
        ((at_ns, "flash", None) for at_ns in starts), upsets(days, seed), uses, key=lambda what: what[0]
    )
    made, used = 0, []
    text = settings(meters(1), more=f"COMMIT_INTERVAL = 5\nWRITERS = {writers!r}")
    with Counting(text) as counting:
        line, start_ns = counting.lines[INPUTS[0]], time.monotonic_ns()
        for at_ns, what, how in trace:
            sleep_until(start_ns + at_ns)
            if what == "flash":
                line.low()
                made += 1
                time.sleep(FLASH_NS / NS_PER_S)
                line.high()
            elif what == "step":
                time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + round(how * NS_PER_S))
            elif what == "use":
                used.append(use_of(counting.pid))
            elif what == "go":
                server.go(how)
            else:
                server.come()
        wait_until(lambda: all(w["waiting"] == 0 for w in counting.status()["writers"].values()), 3600)
        status = counting.status()
        assert counting.program.run("--kill").returncode == 0
        _, kept = journal(counting.program.data_dir / "journal.db")
        lines = csv_rows(counting.program.data_dir / "power.csv")
    server.close()
    constant = Constant(1000)
    return {
        "made": made,
        "counted": status["meters"]["meter0"]["pulses"],
        "kept": len(kept),
        "holes": [row for n, row in enumerate(kept, 1) if row[0] != n][:3],
        "file": disagreement(kept, lines),
        "server": sorted(set(server.points)) == sorted((at_ns, constant.register_at(n)) for n, at_ns, _ in kept),
        "used": used,
    }


def use_of(pid):
    """A process's memory (RSS, KiB), open files and threads now."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return [int(fields["VmRSS"].split()[0]), files, int(fields["Threads"])]


# --- Wrong clocks

#: Of <sys/timex.h>.
ADJ_MAXERROR, ADJ_STATUS, STA_UNSYNC = 0x0004, 0x0010, 0x0040

#: When these jobs say that it is, UTC in ns: 2026-11-24.
RIGHT_NS = 1_795_478_400 * NS_PER_S

#: The load while the clock is wrong: a flash every 3.6 s is 1,000 W at 1,000 imp/kWh.
WATTS, SPACING_NS = 1000, 3_600_000_000


def set_synchronised(by="timesyncd"):
    """
    Tell the kernel that the clock is synchronised, as the NTP client *by* does.

    systemd-timesyncd clears the flag and sets the error to 0 (timesyncd-manager.c); chrony without rtcsync, its
    default, leaves the flag set and says how large the error can be (sys_timex.c).
    """
    error_us, status = {"timesyncd": (0, 0), "chrony": (9776, STA_UNSYNC)}[by]
    timex = ctypes.create_string_buffer(512)
    struct.pack_into("@Illlli", timex, 0, ADJ_STATUS | ADJ_MAXERROR, 0, 0, error_us, 0, status)
    assert ctypes.CDLL(None, use_errno=True).adjtimex(timex) >= 0, os.strerror(ctypes.get_errno())


def set_clock(utc_ns):
    """Set the wall clock; the kernel then holds it to be unsynchronised."""
    time.clock_settime_ns(time.CLOCK_REALTIME, utc_ns)


class Watching:
    """A load of :data:`WATTS` on the program's line, and what is seen of it meanwhile; a context manager."""

    def __init__(self, clock_wait_s, *, server):
        writers = {
            "file": {"type": "file", "path": "power.csv"},
            "db": {"type": "influxdb", "host": "127.0.0.1", "port": server.port, "update_period": 0},
        }
        self._text = settings(meters(1), more=f"CLOCK_WAIT = {clock_wait_s}\nWRITERS = {writers!r}")
        self._server = server
        self.counting = Counting(self._text)
        #: When each flash was made, by the monotonic clock, in ns.
        self.made = []
        #: How far the powers that the status showed were from those of the flashes as they were made, as shares.
        self.shown_off = []
        #: The points that the server had at each look.
        self._seen = 0

    def __enter__(self):
        self.counting.__enter__()
        return self

    def __exit__(self, *error):
        self.counting.__exit__(*error)

    def restart(self):
        """Stop the program and start it again."""
        assert self.counting.program.run("--kill").returncode == 0
        self.counting.program.foreground()
        self.counting.pid = self.counting.program.pid

    def flash(self, count):
        """So many flashes; after each the power that is shown. Returns the last status."""
        line = self.counting.lines[INPUTS[0]]
        for _ in range(count):
            last_ns = self.made[-1] if self.made else time.monotonic_ns()
            sleep_until(max(last_ns + SPACING_NS, time.monotonic_ns()))
            self.made.append(time.monotonic_ns())
            line.low()
            time.sleep(FLASH_NS / NS_PER_S)
            line.high()
            time.sleep(0.1)
            status = self.counting.status()
            watts = status["meters"]["meter0"]["watts"]
            if watts is not None and len(self.made) > 1:
                self.shown_off.append(abs(watts / self._power(len(self.made) - 1) - 1))
        return status

    def _power(self, number):
        """The power in W between two flashes that were made, the second of them given by its place."""
        return 3.6e12 / (self.made[number] - self.made[number - 1])

    def delivered(self):
        """How many pulses the writers have: the file, the server."""
        path = self.counting.program.data_dir / "power.csv"
        return [len(csv_rows(path)) if path.exists() else 0, len(self._server.points)]

    def settle(self):
        """Return once every writer has what was made."""
        wait_until(lambda: self.delivered() == [len(self.made)] * 2, PATIENCE_S)

    def judge(self, expected_ns):
        """
        The journal, the file and the server have each pulse once, in order, the time that is expected, and its power.

        *expected_ns*: the UTC of each flash. Returns how far a time is off at most, in ms.
        """
        self.settle()
        assert self.counting.program.run("--kill").returncode == 0
        rows = self.counting.journal()["meter0"]
        assert [count for count, _, _ in rows] == list(range(1, len(self.made) + 1))
        lines = csv_rows(self.counting.program.data_dir / "power.csv")
        assert not (found := disagreement(rows, lines)), found
        assert [at_ns for at_ns, _ in self._server.points] == [at_ns for _, at_ns, _ in rows]
        off_ns = [abs(at_ns - want_ns) for (_, at_ns, _), want_ns in zip(rows, expected_ns, strict=True)]
        powers = [line[1] for line in self.counting.file()["meter0"]]
        # None where the program was not there for the flash before.
        filed_off = [abs(float(watts) / self._power(n) - 1) for n, watts in enumerate(powers) if watts]
        return {
            "pulses": len(rows),
            "off_ms": max(off_ns) / 1e6,
            "powers": len(filed_off),
            "filed_off": max(filed_off),
            "shown_off": max(self.shown_off),
        }


def watching(clock_wait_s=600):
    """A server, and what watches the program with it."""
    stack = contextlib.ExitStack()
    server = Influx()
    stack.callback(server.close)
    return stack, stack.enter_context(Watching(clock_wait_s, server=server))


def ahead():
    """How far the wall clock is ahead of the monotonic one, in ns."""
    return time.time_ns() - time.monotonic_ns()


def starts_in_2020(restarts=False, by="timesyncd"):
    """The machine boots with a clock of 2020, and after 5 minutes NTP sets it; the program may be restarted before."""
    stack, watched = watching()
    with stack:
        status = watched.flash(40)
        assert status["clock"]["waiting"], status["clock"]
        if restarts:
            watched.restart()
        # A clock that says it is right and is years off is not believed.
        set_synchronised(by)
        assert watched.flash(40)["clock"]["waiting"]
        assert watched.delivered() == [0, 0]
        set_clock(RIGHT_NS + time.monotonic_ns())
        assert watched.flash(1)["clock"]["waiting"], "set, and not synchronised yet"
        set_synchronised(by)
        time.sleep(2)
        status = watched.flash(40)
        assert not status["clock"]["waiting"], status["clock"]
        ahead_ns = ahead()
        return watched.judge([at_ns + ahead_ns for at_ns in watched.made])


def never_synchronised():
    """Nobody sets the clock for CLOCK_WAIT s: it is taken as it is; and what then has a time keeps it."""
    stack, watched = watching(600)
    with stack:
        wrong_ns = ahead()
        while (left_s := 600 - time.clock_gettime(time.CLOCK_BOOTTIME)) > 5:
            status = watched.flash(1)
            assert status["clock"]["waiting"]
            assert abs(status["clock"]["waits_s"] + 3.7 - left_s) < 2, (status["clock"], left_s)
        assert watched.delivered() == [0, 0]
        assert not watched.flash(4)["clock"]["waiting"]
        watched.settle()
        expected = [at_ns + wrong_ns for at_ns in watched.made]
        set_clock(RIGHT_NS + time.monotonic_ns())
        set_synchronised()
        watched.flash(20)
        return watched.judge(expected + [at_ns + ahead() for at_ns in watched.made[len(expected) :]])


def is_set_while_running(steps_s):
    """A clock that was right is set, again and again, by so many s; the flag of synchronisation comes and goes."""
    set_synchronised()
    stack, watched = watching()
    expected = []
    with stack:
        for step_s in (0, *steps_s):
            set_clock(time.time_ns() + step_s * NS_PER_S)
            before = len(watched.made)
            assert not watched.flash(30)["clock"]["waiting"]
            set_synchronised()
            watched.flash(1)
            # The pulses that are not in the journal yet get the time as it is when they come there.
            time.sleep(3)
            expected += [at_ns + ahead() for at_ns in watched.made[before:]]
        return watched.judge(expected)


def is_set_by_hardware():
    """A hardware clock has set the time, as /sys says: nothing waits. The kernel here has none: the file is made up."""
    shell("mount", "-t", "tmpfs", "tmpfs", "/sys/class")
    clock = Path("/sys/class/rtc/rtc0")
    clock.mkdir(parents=True)
    (clock / "hctosys").write_text("1\n")
    # It stands still, as a file does: the program looks at it as soon as it counts.
    (clock / "since_epoch").write_text(f"{int(time.time())}\n")
    stack, watched = watching()
    with stack:
        assert not watched.flash(10)["clock"]["waiting"]
        return watched.judge([at_ns + ahead() for at_ns in watched.made])


def simulated():
    """With --simulate no clock is waited for."""
    with Program(Path("/run/job/power"), "CLOCK_WAIT = 600\n") as program:
        program.foreground("--simulate", "18000")
        wait_until(lambda: program.status()["writers"]["file"]["waiting"] == 0, PATIENCE_S)
        time.sleep(60)
        status = program.status()
        assert not status["clock"]["waiting"]
        assert time.clock_gettime(time.CLOCK_BOOTTIME) < 300
        lines = csv_rows(next(program.directory.rglob("*.csv")))
        assert program.run("--kill").returncode == 0
    return {"pulses": status["meters"]["house"]["pulses"], "lines": len(lines)}


# --- Disks that fail

#: A flash in so long while the disk fails, in ns: 1,200 W at 1,000 imp/kWh.
FAILING_SPACING_NS = 3 * NS_PER_S

#: Linux, include/uapi/linux/loop.h: to read and set what a loop device shows of its file (struct loop_info64).
LOOP_GET_STATUS64, LOOP_SET_STATUS64, LOOP_INFO64_BYTES, SIZELIMIT_AT = 0x4C05, 0x4C04, 232, 32


def take_away(device):
    """Have the loop device fail from here on: nothing of its file is left to it."""
    with open(device, "rb", buffering=0) as file:
        info = bytearray(LOOP_INFO64_BYTES)
        fcntl.ioctl(file, LOOP_GET_STATUS64, info)
        struct.pack_into("@Q", info, SIZELIMIT_AT, 512)
        fcntl.ioctl(file, LOOP_SET_STATUS64, info)


def fill():
    """Write to the disk until it is full to the last block, as root may."""
    with open(DISK / "filler", "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        os.fsync(file.fileno())


def full(_image, _device):
    """The disk is full; an hour later somebody makes room."""
    fill()
    yield
    yield
    (DISK / "filler").unlink()


def read_only(image, device):
    """An error has the kernel make the disk read-only; after the hour it is unmounted, mended and mounted again."""
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")
    yield
    yield
    shell("umount", "-l", str(DISK))
    again = attach(image, 1)
    subprocess.run(["/sbin/e2fsck", "-p", again], capture_output=True, check=False)
    mount(again)


def forced_read_only(_image, _device):
    """Somebody forces it read-only (sysrq u); after the hour it may be written again."""
    Path("/proc/sysrq-trigger").write_text("u")
    wait_until(lambda: os.statvfs(DISK).f_flag & os.ST_RDONLY)
    yield
    yield
    shell("mount", "-o", "remount,rw", str(DISK))


def gone(image, device):
    """The disk is pulled; half an hour later it is unmounted, and after the hour it is there again, by another name."""
    take_away(device)
    yield
    shell("umount", "-l", str(DISK))
    yield
    mount(attach(image, 1))


WAYS = {"full": full, "read_only": read_only, "forced_read_only": forced_read_only, "gone": gone}


def failing_disk(image, way, minutes=60):
    """The disk fails for so long while pulses come: what was seen, and what is kept once it is back."""
    device = attach(image)
    mount(device)
    server = Influx()
    writers = {
        "file": {"type": "file", "path": "power.csv"},
        "db": {"type": "influxdb", "host": "127.0.0.1", "port": server.port, "update_period": 0},
    }
    made, l2 = [], Line(L2)
    text = settings(meters(1), more=f"WRITERS = {writers!r}\nLOG_FILE = '/run/job/power/power.log'")
    with contextlib.closing(l2), OnDisk(text) as counting:
        line = counting.lines[INPUTS[0]]

        def flash(count):
            for _ in range(count):
                sleep_until(made[-1] + FAILING_SPACING_NS if made else 0)
                made.append(time.monotonic_ns())
                line.low()
                time.sleep(FLASH_NS / NS_PER_S)
                line.high()

        flash(20)
        step = WAYS[way](image, device)
        next(step)
        flash(10)
        status = counting.until(lambda: (now := counting.status())["journal"]["failing"] and now)
        blinks = levels(l2, 5)
        said = counting.program.run("--status").stdout
        for _ in range(2):
            flash(round(minutes * 60 * NS_PER_S / FAILING_SPACING_NS / 2))
            in_between = counting.status()
            assert in_between["meters"]["meter0"]["pulses"] == len(made), in_between
            in_memory = in_between["journal"]["uncommitted"]
            next(step, None)
        flash(10)
        counting.until(lambda: not counting.status()["journal"]["failing"] and counting.delivered())
        flash(10)
        counting.until(counting.delivered)
        after = levels(l2, 3)
        ahead_ns = ahead()
        counted = counting.meter()["pulses"]
        assert counting.program.run("--kill").returncode == 0
    server.close()
    integrity, rows = journal()
    lines = csv_rows()
    shell("umount", str(DISK))
    return {
        "made": len(made),
        "counted": counted,
        "failing": status["journal"]["failing"],
        "said": said,
        "blinks": blinks,
        "after": after,
        "in_memory": in_memory,
        "integrity": integrity,
        "kept": len(rows),
        "off_ms": max(abs(at_ns + ahead_ns - row[1]) for at_ns, row in zip(made, rows, strict=False)) / 1e6,
        "file": disagreement(rows, lines),
        # In the order of their first coming, each once.
        "server": list(dict.fromkeys(at_ns for at_ns, _ in server.points)) == [row[1] for row in rows],
        "sent_again": len(server.points) - len(rows),
    }
