"""What the journal says about spans of time, against a slow and obvious reference that goes pulse by pulse."""

import collections
import contextlib
import datetime as dt
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import house
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from program import PATIENCE_S, SOURCE

from powermeter.errors import JournalError
from powermeter.journal import tables
from powermeter.journal.history import Energy, Gap, History, Peak, Reading
from powermeter.journal.journal import Face, Journal, Row
from powermeter.meter import NS_PER_S

MINUTE_NS = 60 * NS_PER_S
QUARTER_NS = 15 * MINUTE_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS

#: 2008-10-24T00:00:00Z, two days before Berlin's clocks are set back; also within a fortnight of New York's and Lord
#: Howe's changes. A multiple of a day.
START_NS = 1_224_806_400 * NS_PER_S

#: By rules, which need no data of the system. Lord Howe's clocks are set by half an hour.
ZONES = {
    "Berlin": "CET-1CEST,M3.5.0,M10.5.0/3",
    "New York": "EST5EDT,M3.2.0,M11.1.0",
    "Kolkata": "IST-5:30",
    "Lord Howe": "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
}


@contextlib.contextmanager
def in_zone(zone):
    """Local times are those of *zone*."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", ZONES[zone])
        time.tzset()
        try:
            yield
        finally:
            patch.undo()
            time.tzset()


def begins(step, first_ns, last_ns):
    """When local hours (4), days (3) or months (2) begin (ns), from that of *first_ns* to the one after *last_ns*."""
    fields = [*time.localtime(first_ns // NS_PER_S)[:step], 1, 0][: max(3, step)]
    at, times = dt.datetime(*fields), []
    while not times or times[-1] <= last_ns:
        times.append(round(at.timestamp()) * NS_PER_S)
        if step == 2:
            at = (at + dt.timedelta(days=31)).replace(day=1)
        else:
            at += dt.timedelta(hours=1) if step == 4 else dt.timedelta(days=1)
    return times


def assert_energy(history, meter, pulses):
    """Each local hour's, day's and month's energy of *meter* is that of its *pulses*: (time, Wh) of each."""
    counted = collections.defaultdict(lambda: [0, 0.0])
    for time_ns, watt_hours in pulses:
        local = time.localtime(time_ns // NS_PER_S)
        for step in (4, 3, 2):
            period = counted[local[:step]]
            period[0] += 1
            period[1] += watt_hours
    first_ns, last_ns = min(pulses)[0], max(pulses)[0]
    for step in (4, 3, 2):
        times_ns = begins(step, first_ns, last_ns)
        found = history.energy(meter, times_ns)
        for (begin_ns, end_ns), energy in zip(itertools.pairwise(times_ns), found, strict=True):
            if begin_ns == end_ns:  # an hour that the clocks skip
                assert energy == Energy(0, 0.0, False)
                continue
            number, watt_hours = counted.get(time.localtime(begin_ns // NS_PER_S)[:step], (0, 0.0))
            assert energy == Energy(number, pytest.approx(watt_hours / 1000, rel=1e-9, abs=1e-12), False)
        assert sum(energy.pulses for energy in found) == len(pulses)


def assert_peaks(history, meter, pulses, times_ns):
    """The peak in each span is that of its *pulses*, quarter by quarter."""
    watt_hours = collections.Counter()
    for time_ns, of_pulse in pulses:
        watt_hours[time_ns // QUARTER_NS] += of_pulse
    for (begin_ns, end_ns), peak in zip(itertools.pairwise(times_ns), history.peaks(meter, times_ns), strict=True):
        within = {
            quarter: of
            for quarter, of in watt_hours.items()
            if begin_ns <= quarter * QUARTER_NS and (quarter + 1) * QUARTER_NS <= end_ns
        }
        if not within:
            assert peak is None
            continue
        assert peak.watts == pytest.approx(4 * max(within.values()), rel=1e-9)
        assert within[peak.from_ns // QUARTER_NS] == pytest.approx(max(within.values()), rel=1e-9)


class Counting:
    """Pulses into a real journal, and into a list that is the reference."""

    def __init__(self, path):
        self.path = str(path)
        self.pulses = collections.defaultdict(list)
        self.constants = {}
        self.entries = []
        self.journal = Journal(self.path)

    def meter(self, name, impulses_per_kwh):
        """Count *name* with *impulses_per_kwh* from now on."""
        self.write()
        self.constants[name] = impulses_per_kwh
        self.journal.enter(name, impulses_per_kwh)

    def pulse(self, name, time_ns):
        self.pulses[name].append((time_ns, 1000 / self.constants[name]))
        self.entries.append(Row(name, len(self.pulses[name]), time_ns, None))

    def read(self, name, register_kwh):
        """A reading of the face, which sets the register."""
        number = len(self.pulses[name])
        self.entries.append(Face(name, number, START_NS + number, register_kwh, 1, max_watts=0, force=True))

    def write(self):
        self.journal.append(self.entries)
        self.entries = []

    def restart(self):
        """End in order, and begin again."""
        self.write()
        self.journal.close()
        self.journal = Journal(self.path)
        for name, impulses_per_kwh in self.constants.items():
            self.journal.enter(name, impulses_per_kwh)

    def thin(self, before_ns):
        self.write()
        while self.journal.thin(before_ns):
            pass

    def close(self):
        self.write()
        self.journal.close()


# --- A real house


@pytest.fixture(scope="module")
def year(tmp_path_factory):
    """
    A year of a real house: its journal, and its pulses.

    With a meter that is replaced, a reading each month, a restart each week, a day that was missed, the clock set
    back now and then by up to two hours, and nine months thinned.
    """
    if not house.house_path().exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no data of a house: make house")
    chance = random.Random(1)
    counting = Counting(tmp_path_factory.mktemp("house") / "journal.db")
    # Only for speed: what is written does not depend on when it is synced.
    counting.journal._connection.execute("PRAGMA synchronous = OFF")
    counting.meter("house", 75)
    to_flash_wh, behind_ns = 0.0, 0
    for number, (begin_s, watts) in enumerate(house.minutes(2008)):
        if number == 200 * 1440:
            counting.meter("house", 120)
        if number % (30 * 1440) == 700:
            counting.read("house", 10_000.0 + number)
        if number % (7 * 1440) == 0:
            counting.restart()
            counting.journal._connection.execute("PRAGMA synchronous = OFF")
        if chance.random() < 1 / 2000:
            behind_ns = chance.randrange(2 * HOUR_NS)
        if 100 * 1440 <= number < 101 * 1440:
            continue
        while to_flash_wh < watts / 60:
            counting.pulse("house", round(begin_s * NS_PER_S + to_flash_wh / watts * HOUR_NS) - behind_ns)
            to_flash_wh += 1000 / counting.constants["house"]
        to_flash_wh -= watts / 60
    counting.thin(counting.pulses["house"][0][0] + 274 * DAY_NS)
    counting.close()
    return counting


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_a_real_house(year, zone):
    """Each hour's, day's and month's energy is that of its pulses, in zones whose clocks change in different ways."""
    with in_zone(zone), History(year.path) as history:
        assert_energy(history, "house", year.pulses["house"])


def test_peaks_of_a_real_house(year):
    """Each day's peak is that of its pulses."""
    pulses = year.pulses["house"]
    with in_zone("Kolkata"), History(year.path) as history:
        assert_peaks(history, "house", pulses, begins(3, pulses[0][0], pulses[-1][0]))


# --- Any house


def count(it, loads, events):
    """Count *loads*, (watts, minutes) of each, with two meters; *events* have the number of the pulse before them."""
    it.meter("house", 400)
    it.meter("pump", 30)
    due = collections.defaultdict(list)
    for number, event in events:
        due[number].append(event)
    time_ns, numbers = START_NS + 30 * HOUR_NS, itertools.count(1)
    for watts, minutes in loads:
        flashes = watts * minutes * it.constants["house"] // 60_000
        if not flashes:
            time_ns += minutes * MINUTE_NS
        for number in itertools.islice(numbers, flashes):
            time_ns += minutes * MINUTE_NS // flashes
            it.pulse("house", time_ns)
            if number % 13 == 0:
                it.pulse("pump", time_ns + 1)
            for event in due[number]:
                time_ns = happens(it, event, number, time_ns)


def happens(it, event, number, time_ns):
    """What the time is after *event*, which comes behind pulse *number*."""
    match event:
        case "set back":
            return time_ns - 7 * MINUTE_NS * number
        case "set ahead":
            return time_ns + 11 * MINUTE_NS * number
        case "away":
            return time_ns + 3 * DAY_NS
        case "read":
            it.read("house", 7.0 * number)
        case "other constant":
            it.meter("house", 1400 - it.constants["house"])
        case "restart":
            it.restart()
        case "thin":
            it.thin(time_ns - HOUR_NS)
    return time_ns


EVENTS = ["set back", "set ahead", "away", "read", "other constant", "restart", "thin"]


@given(
    zone=st.sampled_from(sorted(ZONES)),
    loads=st.lists(st.tuples(st.sampled_from([0, 8, 90, 400, 3000, 20_000]), st.integers(1, 200)), max_size=12),
    events=st.lists(st.tuples(st.integers(0, 1500), st.sampled_from(EVENTS)), max_size=8),
    cut=st.floats(0, 1),
)
@settings(max_examples=60)
def test_energy_equals_counting(zone, loads, events, cut):
    """Whatever loads, zones, clocks, readings, constants, restarts and thinning do: each period has its pulses."""
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Counting(Path(directory, "journal.db"))) as it:
        count(it, loads, events)
        assume(it.pulses)
        times_ns = [time_ns for time_ns, _ in it.pulses["house"]]
        it.thin(round(min(times_ns) + cut * (max(times_ns) - min(times_ns))))
        with in_zone(zone), History(it.path) as history:
            for name, pulses in it.pulses.items():
                assert_energy(history, name, pulses)
                assert_peaks(history, name, pulses, begins(3, min(pulses)[0], max(pulses)[0]))


# --- What was thinned to one per hour


@pytest.fixture
def hourly(tmp_path):
    """
    The path of a journal of the second version, of a meter of 1,000 imp/kWh, thinned to one per hour up to 06:00.

    A pulse a minute until 08:00; the first is at 00:00:30.
    """
    path = str(tmp_path / "journal.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("".join(tables.SCHEMAS[:2]))
        connection.execute("PRAGMA user_version = 2")
        connection.execute("INSERT INTO meters VALUES (1, 'house')")
        connection.execute("INSERT INTO constants VALUES (1, 0, 1000, 0)")
        kept = [n for n in range(1, 481) if n > 360 or n % 60 == 0]
        times = [(1, n, START_NS + n * MINUTE_NS - 30 * NS_PER_S, MINUTE_NS) for n in kept]
        connection.executemany("INSERT INTO pulses VALUES (?, ?, ?, ?)", times)
        connection.execute("INSERT INTO thinned VALUES (1, 359)")
        connection.commit()
    Journal(path).close()
    return path


def test_hours_that_were_thinned(hourly):
    """Between full hours energy is exact; an end within one makes it an estimate, marked as such, with even spacing."""
    with History(hourly) as history:
        hours = [START_NS + hour * HOUR_NS for hour in range(-1, 10)]
        assert history.energy("house", hours) == [
            Energy(pulses, pytest.approx(pulses / 1000), False) for pulses in (0, *[60] * 8, 0)
        ]
        quarters = [START_NS + quarter * QUARTER_NS for quarter in range(33)]
        for number, energy in enumerate(history.energy("house", quarters)):
            assert energy.pulses == pytest.approx(15, abs=1)
            assert energy.kwh == pytest.approx(energy.pulses / 1000)
            assert energy.approximate == (number < 24)
        assert sum(energy.pulses for energy in history.energy("house", quarters)) == 480
        # The pulse that was kept is not before its own time.
        assert history.span("house", START_NS, START_NS + HOUR_NS - 30 * NS_PER_S) == Energy(59, 0.059, True)


def test_an_hour_with_two_rows(hourly):
    """Pulses behind a row that was kept came behind it, not in all of their hour."""
    twenty_to = START_NS + HOUR_NS + 40 * MINUTE_NS
    with contextlib.closing(sqlite3.connect(hourly)) as connection:
        connection.execute("UPDATE pulses SET time_ns = ? WHERE count = 60", (twenty_to,))
        connection.commit()
    times_ns = [START_NS + HOUR_NS, twenty_to - 20 * MINUTE_NS, twenty_to + 1, twenty_to + 10 * MINUTE_NS]
    with History(hourly) as history:
        found = [energy.pulses for energy in history.energy("house", [*times_ns, START_NS + 2 * HOUR_NS])]
    # The second row is at 01:59:30.
    assert found == [pytest.approx(30, abs=1), pytest.approx(30, abs=1), pytest.approx(30.8, abs=1), 60 - found[2]]
    assert found[0] + found[1] == 60


def test_thinning_goes_on_by_quarters(hourly):
    """What was thinned to an hour stays as it is, the rest keeps one per quarter; between full hours all is exact."""
    with Journal(hourly) as journal, History(hourly) as history:
        while journal.thin(START_NS + 8 * HOUR_NS):
            pass
        with contextlib.closing(sqlite3.connect(hourly)) as connection:
            kept = [count for (count,) in connection.execute("SELECT count FROM pulses")]
        assert kept == [60, 120, 180, 240, 300, 360, *range(375, 481, 15)]
        hours = [START_NS + hour * HOUR_NS for hour in range(9)]
        assert [energy.pulses for energy in history.energy("house", hours)] == [60] * 8
        quarters = [START_NS + 6 * HOUR_NS + quarter * QUARTER_NS for quarter in range(9)]
        assert history.energy("house", quarters) == [Energy(15, pytest.approx(0.015), False)] * 8
        within = history.span("house", START_NS + 6 * HOUR_NS, START_NS + 6 * HOUR_NS + 5 * MINUTE_NS)
        assert within == Energy(5, pytest.approx(0.005), True)
        assert history.peaks("house", [START_NS, START_NS + DAY_NS]) == [
            Peak(pytest.approx(60.0), pytest.approx(START_NS, abs=8 * HOUR_NS))
        ]


# --- Readings


def test_a_thinned_pulse_across_a_reading(tmp_path):
    """A pulse that stands for others has exactly their energy, even if a reading set the register between them."""
    with contextlib.closing(Counting(tmp_path / "journal.db")) as it:
        it.journal.add_cursor("away").close()
        it.meter("house", 1000)
        for number in range(10):
            if number == 5:
                it.read("house", 12_345.6)
            it.pulse("house", START_NS + number * MINUTE_NS)
        it.thin(START_NS + DAY_NS)
        with contextlib.closing(it.journal.add_cursor("away")) as away:
            (pulse,) = away.read(10)
        assert (pulse.number, pulse.watt_hours) == (10, pytest.approx(10.0))
        assert pulse.register_kwh == pytest.approx(12_345.605)
        with History(it.path) as history:
            assert history.span("house", START_NS, START_NS + HOUR_NS) == Energy(10, pytest.approx(0.01), False)


def written(path, *statements):
    """Execute *statements* in the journal at *path*, as its keeper would."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement, *values in statements:
            connection.execute(statement, values)
        connection.commit()


def test_readings(tmp_path):
    """The last ones of all meters, the newest first."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        for name in ("house", "flat"):
            journal.enter(name, 1000)
    add = "INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)"
    written(path, (add, 1, 1, 5, 10.5, 1, 0.005, 1), (add, 2, 2, 7, 20.25, 2, 1.0, 0), (add, 1, 3, 9, 11.0, 0, 10.6, 0))
    with History(path) as history:
        assert history.meters() == ["house", "flat"]
        assert history.readings(2) == [
            Reading("house", 3, 9, 11.0, 0, 10.6, False),
            Reading("flat", 2, 7, 20.25, 2, 1.0, False),
        ]
        assert history.readings(9)[2:] == [Reading("house", 1, 5, 10.5, 1, 0.005, True)]


# --- Gaps


@pytest.fixture
def gaps(tmp_path):
    """The path of a journal whose meter has a pulse at 1,000 and is counted since 100."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        for name in ("house", "flat"):
            journal.enter(name, 1000)
        journal.append([Row("house", 1, 1000, None)])
    written(path, ("INSERT INTO covered VALUES (1, 100, NULL)",))
    return path


def test_gaps(gaps):
    """They are cut to the span and do not overlap; of a meter that was never covered none are known."""
    add = "INSERT INTO gaps VALUES (1, ?, ?, ?)"
    written(
        gaps,
        (add, 200, 300, "not running"),
        (add, 250, 400, "input at fault"),
        (add, 260, 270, "crashed"),
        (add, 500, 600, "crashed"),
        (add, 600, 650, "crashed"),
        (add, 700, 800, "not running"),
    )
    with History(gaps) as history:
        assert history.gaps("house", 0, 2000, 2000, running=True) == (
            100,
            [
                Gap(200, 300, "not running"),
                Gap(300, 400, "input at fault"),
                Gap(500, 650, "crashed"),
                Gap(700, 800, "not running"),
            ],
        )
        assert history.gaps("house", 280, 520, 2000, running=True) == (
            100,
            [Gap(280, 300, "not running"), Gap(300, 400, "input at fault"), Gap(500, 520, "crashed")],
        )
        assert history.gaps("house", 400, 500, 2000, running=True) == (100, [])
        assert history.gaps("flat", 0, 2000, 2000, running=False) == (None, [])
        assert history.gaps("pump", 0, 2000, 2000, running=False) == (None, [])


def test_the_open_gap(gaps):
    """What has not ended yet lasts until now: since the end of counting, or after a crash since the last pulse."""
    with History(gaps) as history:
        assert history.gaps("house", 0, 5000, 1500, running=True) == (100, [])
        assert history.gaps("house", 0, 5000, 1500, running=False) == (100, [Gap(1000, 1500, "crashed")])
        assert history.gaps("house", 1200, 1300, 1500, running=False) == (100, [Gap(1200, 1300, "crashed")])
        assert history.gaps("house", 0, 900, 1500, running=False) == (100, [])
        written(gaps, ("UPDATE covered SET until_ns = 1100",))
        assert history.gaps("house", 0, 5000, 1500, running=False) == (100, [Gap(1100, 1500, "not running")])
        written(gaps, ("UPDATE covered SET until_ns = NULL",), ("DELETE FROM pulses",))
        assert history.gaps("house", 0, 5000, 1500, running=False) == (100, [Gap(100, 1500, "crashed")])


def test_when_a_record_begins(gaps):
    """With the first pulse, or before it, when counting began; never without both."""
    with History(gaps) as history:
        assert [history.begins_ns(name) for name in ("house", "flat", "pump")] == [100, None, None]
        written(gaps, ("UPDATE covered SET since_ns = 2000",))
        assert history.begins_ns("house") == 1000
        written(gaps, ("DELETE FROM pulses",))
        assert history.begins_ns("house") == 2000


# --- The file, and those who have it open


def files_of(path):
    """The files beside the journal at *path* and itself, with their content."""
    return {name.name: name.read_bytes() for name in Path(path).parent.iterdir()}


def test_a_journal_that_was_closed(tmp_path):
    """It is read without a trace: no file beside it is made, and itself is as it was."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        journal.enter("house", 1000)
        journal.append([Row("house", 1, START_NS, None)])
    before = files_of(path)
    assert list(before) == ["journal.db"]
    with History(path) as history:
        assert history.span("house", START_NS, START_NS + 1).pulses == 1
        assert files_of(path) == before
    assert files_of(path) == before


def test_a_journal_that_is_opened_and_closed(tmp_path):
    """Each answer is of what is there then: while a program counts, after it has ended, and after another has begun."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        journal.enter("house", 1000)
    with History(path) as history:
        assert history.last("house") == 0
        for number in range(1, 7, 2):
            with Journal(path) as journal:
                journal.enter("house", 1000)
                for n in (number, number + 1):
                    journal.append([Row("house", n, START_NS + n, None)])
                    assert history.last("house") == n
            assert history.last("house") == number + 1


def test_a_journal_that_is_opened_meanwhile(tmp_path):
    """An answer during which a program opens the journal is begun again; a snapshot ends with an error."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        journal.enter("house", 1000)
    numbers = itertools.count(1)

    def count_one():
        with Journal(path) as journal:
            journal.append([Row("house", next(numbers), START_NS, None)])

    with History(path) as history:
        history._connection.set_trace_callback(lambda _: count_one())
        assert history.last("house") == 3  # one with each statement of the first try
        with pytest.raises(sqlite3.OperationalError, match="changed while it was read"), history.snapshot():
            count_one()
        assert history.last("house") == 4


def test_another_file_at_the_path(tmp_path):
    """A journal that another one has taken the place of is not answered from any more."""
    path, other = str(tmp_path / "journal.db"), str(tmp_path / "other.db")
    for name in (path, other):
        with Journal(name) as journal:
            journal.enter("flat" if name == other else "house", 1000)
    with Journal(path), History(path) as history:
        assert history.meters() == ["house"]
        os.rename(other, path)
        for suffix in ("-wal", "-shm"):
            os.unlink(path + suffix)
        assert history.meters() == ["flat"]


#: Counts pulses into the journal that it is given, and is killed.
KILLED = """
import os, signal, sys; sys.path.insert(0, sys.argv[1])
from powermeter.journal.journal import Journal, Row
journal = Journal(sys.argv[2])
journal.enter("house", 1000)
for number in range(1, 6):
    journal.append([Row("house", number, number, None)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_journal_after_a_kill(tmp_path):
    """Pulses that are only in its log are read, and the log is left for the next start."""
    path = str(tmp_path / "journal.db")
    done = subprocess.run([sys.executable, "-c", KILLED, SOURCE, path], timeout=PATIENCE_S, check=False)
    assert done.returncode == -signal.SIGKILL
    log = Path(path + "-wal").read_bytes()
    assert log
    with History(path) as history:
        assert history.last("house") == 5
        assert history.span("house", 2, 5).pulses == 3
    assert Path(path + "-wal").read_bytes() == log
    with Journal(path) as journal:
        assert journal.enter("house", 1000).count == 5


#: Begins and ends again and again, with a pulse more each time, until the file that it is given exists.
COMES_AND_GOES = """
import os, sys; sys.path.insert(0, sys.argv[1])
from powermeter.journal.journal import Journal, Row
number = 0
while not os.path.exists(sys.argv[3]):
    with Journal(sys.argv[2]) as journal:
        journal.enter("house", 1000)
        for number in range(number + 1, number + 4):
            journal.append([Row("house", number, number, None)])
"""


def test_a_program_that_comes_and_goes(tmp_path):
    """No answer is wrong, and none fails, whenever a program opens the journal or closes it."""
    path, end = str(tmp_path / "journal.db"), tmp_path / "end"
    Journal(path).close()
    with (
        subprocess.Popen([sys.executable, "-c", COMES_AND_GOES, SOURCE, path, end]) as program,
        History(path) as history,
    ):
        try:
            before = 0
            while before < 300:
                found = history.span("house", 0, 2**62).pulses
                assert before <= found <= history.last("house")
                assert program.poll() is None
                before = found
        finally:
            end.touch()
        assert program.wait(PATIENCE_S) == 0


def test_between_answers_nothing_is_held(tmp_path):
    """The log can be written to the journal and emptied, and within a snapshot pulses can be appended all the same."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal, History(path) as history:
        journal.enter("house", 1000)
        journal.append([Row("house", 1, 1, None)])
        with history.snapshot():
            assert history.last("house") == 1
            journal.append([Row("house", 2, 2, None)])
            assert history.last("house") == 1
        assert history.last("house") == 2
        assert history.peaks("house", [0, HOUR_NS]) == [Peak(pytest.approx(8.0), 0)]
        assert journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        assert history.last("house") == 2


def test_the_log_after_a_long_reader(tmp_path):
    """It grows while somebody reads for long, and is small again once it was written to the journal."""
    path = str(tmp_path / "journal.db")
    log, numbers = Path(path + "-wal"), itertools.count(1)

    def append(batches):
        for _ in range(batches):
            journal.append([Row("house", number, number, None) for number in itertools.islice(numbers, 5000)])

    with Journal(path) as journal, History(path) as history:
        journal.enter("house", 1000)
        append(1)
        with history.snapshot():
            assert history.last("house") == 5000
            append(100)
            assert log.stat().st_size > 2 * tables.LOG_BYTES
        append(3)
        assert 0 < log.stat().st_size <= tables.LOG_BYTES


def test_what_is_no_journal(tmp_path):
    """A file of another version, or another program's, is refused by a sentence; one that is missing is not made."""
    path = str(tmp_path / "journal.db")
    with pytest.raises(sqlite3.OperationalError):
        History(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("".join(tables.SCHEMAS[:2]) + "PRAGMA user_version = 2;")
    with pytest.raises(JournalError, match="one of an older version: start power once"):
        History(path)
    Path(path).write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        History(path)
    assert os.listdir(tmp_path) == ["journal.db"]


@pytest.mark.parametrize("inner", [False, True])
def test_a_damaged_page(tmp_path, inner):
    """Spans with pulses that can't be read raise damage, and others answer, wherever a search for them looks."""
    path, chance = str(tmp_path / "journal.db"), random.Random(1)
    # Some come fast and some slowly, so that a search has to look about.
    spacings = itertools.chain.from_iterable([chance.choice([2, 60, 200]) * NS_PER_S] * 500 for _ in range(400))
    times_ns = list(itertools.accumulate(spacings))
    with Journal(path) as journal:
        journal.enter("house", 1000)
        journal.append([Row("house", n, time_ns, None) for n, time_ns in enumerate(times_ns, 1)])
    content = bytearray(Path(path).read_bytes())
    pages = range(0, len(content), 4096)
    # An inner page of a table whose key is its content, not the topmost; or a leaf in the middle.
    of_kind = [at for at in pages[1:] if content[at] == (2 if inner else 10)]
    at = of_kind[len(of_kind) // 2]
    content[at : at + 4096] = bytes(4096)
    Path(path).write_bytes(content)
    unreadable = []
    with History(path) as history:
        hours = [hour * HOUR_NS for hour in range(times_ns[-1] // HOUR_NS)]
        counted = collections.Counter(time_ns // HOUR_NS for time_ns in times_ns)
        with pytest.raises(sqlite3.DatabaseError) as raised:
            history.energy("house", hours)
        assert tables.is_damage(raised.value)
        for number, (begin_ns, end_ns) in enumerate(itertools.pairwise(hours)):
            try:
                energy = history.span("house", begin_ns, end_ns)
            except sqlite3.DatabaseError:
                unreadable.append(number)
            else:
                assert energy == Energy(counted[number], pytest.approx(counted[number] / 1000), False)
    # A leaf has some 200 pulses, and an inner page some 200 leaves.
    damaged_ns = times_ns[100_000 + (25_000 if inner else 500)] - times_ns[100_000 - (25_000 if inner else 500)]
    assert len(unreadable) <= damaged_ns // HOUR_NS + 2
    assert unreadable == list(range(unreadable[0], unreadable[-1] + 1))
