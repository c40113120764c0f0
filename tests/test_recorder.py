"""The recorder on its thread, over a real keeper and journal: edges to pulses, silence, and what the lamps show."""

import contextlib
import logging
import sqlite3
import threading
import time

from program import PATIENCE_S, wait_until

from powermeter.journal import Journal
from powermeter.keeper import Keeper
from powermeter.lamps import TRAIN_S, Condition, Lamp, Lamps
from powermeter.meter import NS_PER_S, Meter, hold_off_ns
from powermeter.recorder import Recorder, WatchedMeter

#: At 24 kW and 1,000 impulses per kWh, as in the settings' defaults: 105 ms.
HOLD_OFF_NS = hold_off_ns(1000, 24000)

#: A commit interval that no test waits for.
NEVER_S = 3600


class DiskFullJournal(Journal):
    """A journal whose disk can be full: SQLite itself fails, as the file may not grow."""

    def __init__(self, path, *, full):
        super().__init__(path)
        self.full = full
        self.tries = 0

    def append(self, rows):
        self.tries += 1
        self._connection.execute(f"PRAGMA max_page_count = {1 if self.full else 2**30}")
        super().append(rows)


class Circuit:
    """Two lamps that remember, and let a test wait for what they show."""

    def __init__(self):
        self.seen = []
        self._changed = threading.Condition()

    def light(self, lamp, lit):
        with self._changed:
            self.seen.append((lamp, lit))
            self._changed.notify_all()

    def wait_for(self, lamp, lit, times=1):
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen.count((lamp, lit)) >= times, PATIENCE_S), self.seen


class Recording:
    """
    A recorder and a keeper that run over the journal in *directory*, and what they called; a context manager.

    *meters*: the names, each with its limit of silence in minutes; *waiting*:
    edges that are there before it runs; *full*: whether the disk is, at first.
    """

    def __init__(self, directory, commit_interval_s, *, meters=None, waiting=(), full=False):
        self.path = str(directory / "journal.db")
        self.journal = DiskFullJournal(self.path, full=full)
        watched = []
        for name, silence_minutes in (meters or {"house": None}).items():
            known = self.journal.meter(name, 1000)
            meter = Meter(name, known.constant, HOLD_OFF_NS, known.count)
            watched.append(WatchedMeter(meter, known.key, silence_minutes))
        #: Released for each commit, change of the disk's state, change of silence; and by which threads.
        self.commits, self.disk_states, self.silences = (threading.Semaphore(0) for _ in range(3))
        self.threads = {self.commits: set(), self.disk_states: set(), self.silences: set()}
        self.circuit = Circuit()
        self.lamps = Lamps(self.circuit.light)
        self.keeper = Keeper(
            self.journal,
            commit_interval_s,
            on_commit=self._noting(self.commits),
            on_state=self._noting(self.disk_states),
        )
        self.recorder = Recorder(watched, self.keeper, self.lamps, on_state=self._noting(self.silences))
        self.recording = threading.Thread(target=self.recorder.run)
        self.keeping = threading.Thread(target=self.keeper.run)
        for edge in waiting:
            self.recorder.put(edge)

    def _noting(self, called):
        def note():
            self.threads[called].add(threading.current_thread())
            called.release()

        return note

    @property
    def meter(self):
        return self.recorder.meters[0].meter

    def kept(self, name="house"):
        """The journal's pulses of *name*: count, time, interval; by a connection of its own."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(
                "SELECT count, time_ns, interval_ns FROM pulses NATURAL JOIN meters WHERE name = ? ORDER BY count",
                (name,),
            ).fetchall()

    def counts(self):
        """The counts of the journal's pulses."""
        return [count for count, _, _ in self.kept()]

    def stop(self):
        """As the program does it; may be called twice."""
        for part, thread in ((self.recorder, self.recording), (self.keeper, self.keeping)):
            part.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def __enter__(self):
        self.recording.start()
        self.keeping.start()
        return self

    def __exit__(self, kind, error, trace):
        self.stop()
        self.recorder.close()
        self.journal.close()


def seen(called, times=1):
    """Wait until *called* was released *times* more."""
    for _ in range(times):
        assert called.acquire(timeout=PATIENCE_S)


def in_a_row(count, index=0, spacing_ns=NS_PER_S):
    """Edges that came one after another until now."""
    now_ns = time.monotonic_ns()
    return [(index, now_ns - (count - n) * spacing_ns) for n in range(1, count + 1)]


def test_first_pulse_has_no_interval(tmp_path):
    """The first pulse after a start has no interval, the others the exact one; the count goes on after a restart."""
    edges = [(0, at_ns) for at_ns in (5_000_000_001, 6_000_000_002, 9_000_000_004)]
    for _ in range(2):
        with Recording(tmp_path, NEVER_S, waiting=edges) as recording:
            pass
    assert [(count, interval) for count, _, interval in recording.kept()] == [
        (1, None),
        (2, 1_000_000_001),
        (3, 3_000_000_002),
        (4, None),
        (5, 1_000_000_001),
        (6, 3_000_000_002),
    ]


def test_time_is_the_edges_own(tmp_path):
    """A pulse's time is the wall clock's at its edge, not when it was taken."""
    late_ns = 3600 * NS_PER_S
    before_ns = time.time_ns()
    edge = (0, time.monotonic_ns() - late_ns)
    after_ns = time.time_ns()
    with Recording(tmp_path, NEVER_S, waiting=[edge]) as recording:
        pass
    ((_, time_ns, _),) = recording.kept()
    # A second: how far the two clocks may drift apart while this test runs.
    assert before_ns - NS_PER_S <= time_ns + late_ns <= after_ns + NS_PER_S


def test_bounce_is_rejected_and_counted(tmp_path):
    """Edges within the hold-off are counted as rejected and make no pulse; one at its end does."""
    ms = NS_PER_S // 1000
    flash = [0, 1, 2 * ms, HOLD_OFF_NS - 1]
    edges = [(0, NS_PER_S + at_ns) for at_ns in [*flash, HOLD_OFF_NS, *(HOLD_OFF_NS + n for n in flash[1:])]]
    with Recording(tmp_path, NEVER_S, waiting=edges) as recording:
        pass
    assert [(count, interval) for count, _, interval in recording.kept()] == [(1, None), (2, HOLD_OFF_NS)]
    assert recording.meter.rejected == 6
    assert recording.meter.count == 2


def test_bounce_alone_wakes_nobody(tmp_path):
    """Rejected edges make no flash of L1 and no commit."""
    with Recording(tmp_path, 0.05) as recording:
        recording.recorder.put((0, NS_PER_S))
        seen(recording.commits)
        recording.circuit.wait_for(Lamp.L1, True)
        recording.circuit.wait_for(Lamp.L1, False)
        for at_ns in range(1, 21):
            recording.recorder.put((0, NS_PER_S + at_ns))
        wait_until(lambda: recording.meter.rejected == 20)
        recording.stop()
        assert not recording.commits.acquire(blocking=False)
        assert recording.circuit.seen.count((Lamp.L1, True)) == 1


def test_stop_drains(tmp_path):
    """A stop takes every edge that was put before it, and commits; those after it are not taken."""
    with Recording(tmp_path, NEVER_S) as recording:
        for edge in in_a_row(500):
            recording.recorder.put(edge)
        recording.stop()
        recording.recorder.put((0, time.monotonic_ns() + NS_PER_S))
    assert [count for count, _, _ in recording.kept()] == list(range(1, 501))
    assert recording.keeper.uncommitted == []


def test_stop_without_a_pulse(tmp_path):
    """Where nothing came, a stop commits nothing."""
    with Recording(tmp_path, 0.05) as recording:
        pass
    assert recording.kept() == []
    assert recording.journal.tries == 0


def test_stall(tmp_path):
    """1,000 edges that a stalled library hands over at once, with their own stamps, are all pulses, exactly spaced."""
    spacings = [HOLD_OFF_NS + n * 1_000_003 for n in range(1000)]
    at_ns, edges = time.monotonic_ns() - sum(spacings), []
    for spacing_ns in spacings:
        at_ns += spacing_ns
        edges.append((0, at_ns))
    with Recording(tmp_path, NEVER_S, waiting=edges) as recording:
        pass
    kept = recording.kept()
    assert [interval for _, _, interval in kept] == [None, *spacings[1:]]
    assert [kept[n][1] - kept[n - 1][1] for n in range(1, 1000)] == spacings[1:]
    assert recording.meter.rejected == 0


def test_edges_from_several_threads(tmp_path):
    """Edges that several threads put at the same time are all counted, for their own meter each."""
    names = {f"meter{index}": None for index in range(6)}
    together = threading.Barrier(len(names))
    with Recording(tmp_path, 0.02, meters=names) as recording:

        def put(index):
            together.wait()
            for edge in in_a_row(400 + index, index):
                recording.recorder.put(edge)

        threads = [threading.Thread(target=put, args=(index,)) for index in range(len(names))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    for index, name in enumerate(names):
        kept = recording.kept(name)
        assert [count for count, _, _ in kept] == list(range(1, 401 + index))
        assert [interval for _, _, interval in kept] == [None] + [NS_PER_S] * (399 + index)


# --- Silence


#: A tenth of a second, in minutes.
SOON = 0.1 / 60


def test_silence(tmp_path, caplog):
    """A meter without a flash for longer than it may be is silent, said once; the next flash ends that, said too."""
    caplog.set_level(logging.INFO)
    with Recording(tmp_path, NEVER_S, meters={"house": SOON}) as recording:
        seen(recording.silences)
        assert recording.recorder.silent
        # Ahead of the clock, so that a busy machine does not let it be silent again at once.
        recording.recorder.put((0, time.monotonic_ns() + NEVER_S * NS_PER_S))
        seen(recording.silences)
        assert not recording.recorder.silent
    assert not recording.silences.acquire(blocking=False)
    assert recording.threads[recording.silences] == {recording.recording}
    assert [record.getMessage() for record in caplog.records] == [
        "house: no flash for 0.00166667 minutes",
        "house: flashes again",
    ]


def test_silence_after_a_flash(tmp_path):
    """A meter that has flashed gets silent too, with no edge that would wake the recorder."""
    with Recording(tmp_path, NEVER_S, meters={"house": SOON}, waiting=in_a_row(1)) as recording:
        seen(recording.commits)
        seen(recording.silences)
        assert recording.recorder.silent


def test_no_limit_of_silence(tmp_path):
    """A meter without a limit is never silent, whatever the time since its last flash."""
    with Recording(tmp_path, 0.02, waiting=[(0, time.monotonic_ns() - 10**6 * NS_PER_S)]) as recording:
        seen(recording.commits)
        assert not recording.recorder.silent
    assert not recording.silences.acquire(blocking=False)


def test_silence_of_one_meter(tmp_path):
    """One silent meter of three makes the input silent, whatever the others do and may."""
    with Recording(tmp_path, NEVER_S, meters={"house": 60, "pump": SOON, "car": None}) as recording:
        seen(recording.silences)
        assert [watched.silent for watched in recording.recorder.meters] == [False, True, False]
        assert recording.recorder.silent


# --- The lamps, stepped by the recorder, with the real clock


def test_l1_shows_each_of_pulses_apart(tmp_path):
    """After each of ten pulses L1 is lit and dark again, with no further edge; both lamps are dark in the end."""
    with Recording(tmp_path, NEVER_S) as recording:
        for turn in range(1, 11):
            # At once when it is dark: just while the recorder decides how long to wait.
            recording.recorder.put((0, turn * NS_PER_S))
            recording.circuit.wait_for(Lamp.L1, True, times=turn)
            recording.circuit.wait_for(Lamp.L1, False, times=turn)
        recording.circuit.wait_for(Lamp.L2, True)
    assert recording.circuit.seen[-2:] == [(Lamp.L1, False), (Lamp.L2, False)]


def test_a_look_shows_the_condition_with_no_edge(tmp_path):
    """A condition that another thread tells is shown when it has the lamps looked at, and L2 blinks on."""
    with Recording(tmp_path, NEVER_S) as recording:
        recording.circuit.wait_for(Lamp.L2, True)
        recording.lamps.show(Condition.INPUT_FAULT)
        recording.recorder.look()
        recording.circuit.wait_for(Lamp.L2, False, times=3)


def test_a_train_of_edges_is_taken_in_groups(tmp_path):
    """While 1,000 edges come one after another the recorder wakes some 20 times a second, not once for each."""
    with Recording(tmp_path, NEVER_S) as recording:
        steps, step = [], recording.lamps.step
        recording.lamps.step = lambda now_s: steps.append(now_s) or step(now_s)
        never, start_s = threading.Event(), time.monotonic()
        for number in range(1000):
            never.wait(start_s + number / 1000 - time.monotonic())  # the rhythm, not a result
            recording.recorder.put((0, number * NS_PER_S))
        wait_until(lambda: recording.meter.count == 1000)
        took_s = steps[-1] - start_s
        # At most two wake-ups a phase of L1, whatever the machine does.
        assert len(steps) <= 2 * (took_s / TRAIN_S + 2)
    assert recording.meter.rejected == 0
    assert recording.counts() == list(range(1, 1001))


def test_a_limit_of_silence_of_months(tmp_path):
    """The longest silence that the settings allow, some 69 days, is waited for; poll() alone would refuse it."""
    with Recording(tmp_path, 1, meters={"house": 100_000}) as recording:
        recording.circuit.wait_for(Lamp.L2, True)
        recording.recorder.put((0, NS_PER_S))
        wait_until(lambda: recording.meter.count == 1)
    assert recording.recording.ident is not None
    assert recording.counts() == [1]
