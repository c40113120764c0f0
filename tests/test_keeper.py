"""The keeper: when it commits, by a clock of the test's own; and over a real journal on its thread, disks that fail."""

import functools
import logging
import sqlite3
import threading
import time
from operator import itemgetter

import pytest
from clocks import ScriptedClock
from counting import NEVER_S, Recording, hung_disk, in_a_row, seen
from hypothesis import given, settings
from hypothesis import strategies as st
from program import PATIENCE_S, wait_until

from powermeter import keeper
from powermeter.clock import REAL_CLOCK
from powermeter.journal.history import Energy, History, about
from powermeter.journal.journal import Journal, MeterRecord, Row
from powermeter.keeper import Keeper
from powermeter.lamps import Lamp
from powermeter.meter import NS_PER_S, Constant, Edge

# --- When it commits


class Scene:
    """
    A keeper by a clock of the test's own, a script of what the recorder does when, and a disk.

    Waiting passes time, up to the script's next line; so each commit has an
    exact time, in whole seconds. *down*: the times at which the disk fails.
    *synchronised*: whether the clock is, at first.
    """

    def __init__(self, commit_interval_s, down=range(0), *, clock_wait_s=0, synchronised=False):
        self._down = down
        self.clock = ScriptedClock()
        self.clock.is_synchronised = synchronised
        self._begin_s = self.clock.up_s
        #: Each try to write, and each commit: its time and the numbers in it.
        self.tries, self.commits = [], []
        #: When it was noted that a meter is counted, or is no more.
        self.covers = []
        self.keeper = Keeper(
            "scene",
            commit_interval_s,
            clock=self.clock,
            clock_wait_s=clock_wait_s,
            keep_days=400,
            on_commit=lambda: None,
            on_state=lambda: None,
            on_judged=lambda _judged: None,
            open_file=lambda *_args, **_options: self,
        )
        for name in ("house", "heat"):
            self.keeper.enter(name, 1000)
        self.keeper.open()

    @property
    def now_s(self):
        """The time since the scene began."""
        return self.clock.up_s - self._begin_s

    #: As the journal has these.
    is_in_place = True
    is_read_only = False

    def enter(self, name, impulses_per_kwh, _begin):
        return MeterRecord(name, 0, Constant(impulses_per_kwh))

    def can_be_written_anew(self):
        return False

    def thin(self, before_ns):
        return False

    def settle(self, ahead_ns):
        return 0

    def about(self):
        return {}

    def note(self, about):
        pass

    def begin_cover(self, name, count, since_ns):
        self.covers.append((self.now_s, name, "begin"))

    def end_cover(self, name, until_ns):
        self.covers.append((self.now_s, name, "end"))

    def append(self, rows, ahead_ns, *, settled, begins):
        """As the journal does."""
        assert settled
        assert begins == {"house": 0, "heat": 0}
        written = (self.now_s, [row.number for row in rows])
        self.tries.append(written)
        if self.now_s in self._down:
            raise sqlite3.OperationalError("disk I/O error")
        self.commits.append(written)
        return []

    def _pulse(self, number):
        self.keeper.keep(Row("house", number, 0, None))
        self.keeper.wake()

    def play(self, pulses_s, until_s, *others):
        """
        Run the keeper while pulses come at *pulses_s*, numbered from 1, and stop it at *until_s*.

        *others*: what else happens, each a time and what to call.
        """
        acts = [(at_s, functools.partial(self._pulse, number)) for number, at_s in enumerate(pulses_s, 1)]
        acts = sorted([*acts, (until_s, self.keeper.stop), *others], key=itemgetter(0))
        self.clock.script = [(self._begin_s + at_s, act) for at_s, act in acts]
        self.keeper.run()
        return self.commits


def test_pulses_apart_are_committed_at_once():
    """If nothing was written for the interval, a pulse is committed when it comes, and so is the first one."""
    assert Scene(5).play([0, 5, 11, 100], until_s=200) == [(0, [1]), (5, [2]), (11, [3]), (100, [4])]


def test_pulses_close_together_share_a_commit():
    """After a commit, what comes within the interval is committed together, at the interval's end."""
    assert Scene(5).play([0, 1, 2, 4, 20], until_s=200) == [(0, [1]), (5, [2, 3, 4]), (20, [5])]


def test_a_steady_stream_is_committed_once_an_interval():
    """With a pulse every second there is one commit in each interval, and not one more."""
    commits = Scene(5).play(range(100), until_s=200)
    assert [at_s for at_s, _ in commits] == [0, *range(5, 101, 5)]
    assert [number for _, numbers in commits for number in numbers] == list(range(1, 101))


def test_a_stop_commits_at_once():
    """A stop does not wait for the interval."""
    assert Scene(5).play([0, 1, 2], until_s=3) == [(0, [1]), (3, [2, 3])]


def test_a_stop_in_time_with_the_first_pulse():
    """A stop that comes together with a pulse loses nothing, and commits once."""
    assert Scene(5).play([7], until_s=7) == [(7, [1])]


def test_a_disk_that_fails_is_tried_once_an_interval():
    """While the disk fails there is one try per interval, whatever comes; then all is committed at once, in order."""
    scene = Scene(5, down=range(12))
    assert scene.play([0, 1, 2, 3, 4, 9, 40], until_s=100) == [(15, [1, 2, 3, 4, 5, 6]), (40, [7])]
    assert [at_s for at_s, _ in scene.tries] == [0, 5, 10, 15, 40]


@given(st.integers(1, 10), st.lists(st.integers(0, 100), max_size=40).map(sorted), st.integers(0, 20))
def test_whenever_pulses_come(interval_s, pulses_s, stop_after_s):
    """Each pulse is committed once, in order, no later than the interval; at once where nothing was written so long."""
    stop_s = max(pulses_s, default=0) + stop_after_s
    commits = Scene(interval_s).play(pulses_s, stop_s)
    assert [number for _, numbers in commits for number in numbers] == list(range(1, len(pulses_s) + 1))
    before_s = -interval_s
    for at_s, numbers in commits:
        first_s = pulses_s[numbers[0] - 1]
        assert first_s <= at_s <= first_s + interval_s
        assert at_s - before_s >= interval_s or at_s == stop_s, "more often than once an interval"
        if first_s - before_s >= interval_s:
            assert at_s == first_s, "it waited, though nothing had been written for long"
        before_s = at_s


# --- On its thread, over a real journal


def test_commit_comes_by_itself(tmp_path):
    """A pulse is committed and reported without a further edge or a stop; so is each one in a later interval."""
    with Recording(tmp_path, 0.05) as recording:
        for number in (1, 2, 3):
            recording.board.put(Edge(0, number * NS_PER_S))
            seen(recording.commits)
            assert recording.counts() == list(range(1, number + 1))
            assert recording.keeper.uncommitted == []
    assert recording.threads[recording.commits] == {recording.keeping}


def test_one_commit_an_interval(tmp_path):
    """After a commit the next one waits for the interval: till then pulses are counted and in memory; or for a stop."""
    with Recording(tmp_path, NEVER_S) as recording:
        recording.board.put(Edge(0, 1 * NS_PER_S))
        seen(recording.commits)
        for number in (2, 3):
            recording.board.put(Edge(0, number * NS_PER_S))
        wait_until(lambda: len(recording.keeper.uncommitted) == 2)
        assert [row.number for row in recording.keeper.uncommitted] == [2, 3]
        assert recording.meter.count == 3
        assert recording.counts() == [1]
        recording.stop()
        seen(recording.commits)
        assert recording.counts() == [1, 2, 3]
        assert not recording.commits.acquire(blocking=False)


def test_stop_without_a_pulse(tmp_path):
    """If nothing came, a stop commits nothing."""
    with Recording(tmp_path, 0.05) as recording:
        pass
    assert recording.kept() == []
    assert recording.journal.tries == 0


# --- A disk that hangs


def test_a_disk_that_hangs_holds_up_neither_counting_nor_lamps(tmp_path):
    """While a commit hangs every pulse is counted, and L1 shows it; all are written when the disk is back."""
    with Recording(tmp_path, 0.05) as recording:
        with hung_disk(recording.path):
            recording.board.put(Edge(0, NS_PER_S))
            wait_until(lambda: recording.journal.tries == 1)
            for number in range(2, 12):
                recording.board.put(Edge(0, number * NS_PER_S))
                recording.board.wait_for(Lamp.L1, True, times=number)
                recording.board.wait_for(Lamp.L1, False, times=number)
                assert recording.meter.count == number
            assert recording.journal.tries == 1, "the commit did not hang"
            assert recording.counts() == []
            assert [row.number for row in recording.keeper.uncommitted] == list(range(1, 12))
        wait_until(lambda: recording.counts() == list(range(1, 12)))
        wait_until(lambda: recording.keeper.uncommitted == [])
    assert recording.journal.tries == 2


def test_a_disk_that_hangs_does_not_hold_up_the_recorders_stop(tmp_path):
    """The recorder ends, having taken all edges and made the lamps dark, while a commit hangs."""
    with Recording(tmp_path, NEVER_S) as recording, hung_disk(recording.path):
        first, *others = in_a_row(501)
        recording.board.put(first)
        wait_until(lambda: recording.journal.tries == 1)
        for edge in others:
            recording.board.put(edge)
        recording.recorder.stop()
        wait_until(lambda: not recording.recording.is_alive())
        assert recording.keeping.is_alive()
        assert recording.meter.count == 501
        assert recording.board.seen[-2:] == [(Lamp.L1, False), (Lamp.L2, False)]


def test_a_stop_writes_what_came_during_the_last_commit(tmp_path):
    """What came while the last commit was under way is written too before the keeper ends."""
    with Recording(tmp_path, NEVER_S) as recording:
        with hung_disk(recording.path):
            first, *others = in_a_row(501)
            recording.board.put(first)
            wait_until(lambda: recording.journal.tries == 1)
            for edge in others:
                recording.board.put(edge)
            recording.recorder.stop()
            wait_until(lambda: not recording.recording.is_alive())
            recording.keeper.stop()
            assert recording.counts() == []
        recording.stop()
        assert recording.journal.tries == 2
        assert recording.keeper.uncommitted == []
    assert recording.counts() == list(range(1, 502))


# --- A disk that fails


def test_full_disk(tmp_path, caplog):
    """While the disk is full, pulses are kept in memory, which is logged once; all are written when it has room."""
    caplog.set_level(logging.INFO)
    with Recording(tmp_path, 0.02, waiting=in_a_row(1000), full=True) as recording:
        seen(recording.disk_states)
        assert recording.keeper.failing == "database or disk is full"
        tries = recording.journal.tries
        wait_until(lambda: recording.journal.tries > tries + 3)
        assert recording.kept() == []
        assert not recording.commits.acquire(blocking=False)
        recording.board.put(Edge(0, time.monotonic_ns() + NS_PER_S))
        wait_until(lambda: len(recording.keeper.uncommitted) == 1001)
        recording.journal.full = False
        seen(recording.disk_states)
        seen(recording.commits)
        assert recording.keeper.failing == ""
        assert recording.keeper.uncommitted == []
        assert recording.counts() == list(range(1, 1002))
    assert not recording.disk_states.acquire(blocking=False)
    assert recording.threads[recording.disk_states] == {recording.keeping}
    said = [(record.levelname, record.getMessage()) for record in caplog.records if "journal" in record.getMessage()]
    assert said == [
        ("ERROR", "journal: database or disk is full: counting goes on, pulses are kept in memory"),
        ("INFO", "journal: can be written again, 1001 pulses were kept in memory"),
    ]


def test_what_the_memory_has_no_place_for_is_counted(tmp_path, monkeypatch, caplog):
    """Beyond the bound pulses are only counted: once the disk has room the register is right, and that is logged."""
    monkeypatch.setattr(keeper, "MAX_UNCOMMITTED", 800)
    with Recording(tmp_path, 0.02, waiting=in_a_row(1000), full=True) as recording:
        seen(recording.disk_states)
        assert (len(recording.keeper.uncommitted), recording.keeper.dropped) == (800, 199)
        assert recording.meter.count == 1000
        recording.journal.full = False
        seen(recording.commits)
        # At once, before another pulse comes: the program may be stopped before one does.
        assert recording.counts() == [*range(1, 801), 1000]
        recording.board.put(Edge(0, time.monotonic_ns() + NS_PER_S))
        seen(recording.commits)
        assert recording.counts() == [*range(1, 801), 1000, 1001]
        with History(recording.journal.path) as history:
            assert history.span("house", 0, 2**62) == Energy(1001, pytest.approx(1.001), False)
    assert [r.getMessage() for r in caplog.records if "fit into memory" in r.getMessage()] == [
        "journal: 199 pulses did not fit into memory: they are counted, but have neither time nor power"
    ]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_whatever_comes_while_what_was_too_much_is_written(data):
    """Pulses before, during and after commits that may fail: no newest one is lost, and dropped ones are reported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "MAX_UNCOMMITTED", 5)
        scene, dropped = Scene(1), []
        count, written = {"house": 0, "heat": 0}, {"house": [], "heat": []}
        patch.setattr(keeper.log, "warning", lambda _, pulses: dropped.append(pulses))

        def pulses():
            for meter in data.draw(st.lists(st.sampled_from(["house", "heat"]), max_size=8)):
                count[meter] += 1
                scene.keeper.keep(Row(meter, count[meter], 0, None))

        def append(rows, _ahead_ns, *, settled, begins):
            assert settled
            assert begins
            pulses()
            if data.draw(st.booleans()):
                raise sqlite3.OperationalError("database or disk is full")
            for row in rows:
                written[row.meter].append(row.number)
            return []

        scene.append = append
        for _ in range(6):
            pulses()
            scene.keeper.save()
        scene.append = lambda rows, *_, **__: [written[row.meter].append(row.number) for row in rows][:0]
        while scene.keeper.waiting():
            scene.keeper.save()
        for meter, numbers in written.items():
            assert numbers == sorted(set(numbers))
            assert numbers[-1:] == ([count[meter]] if count[meter] else [])
        assert sum(dropped) == sum(count.values()) - sum(map(len, written.values()))


def test_stop_on_a_full_disk(tmp_path):
    """A stop on a full disk ends, says that it is failing, and tells by what it holds how many pulses are lost."""
    with Recording(tmp_path, NEVER_S, waiting=in_a_row(1000), full=True) as recording:
        recording.stop()
        assert recording.keeper.failing == "database or disk is full"
        assert len(recording.keeper.uncommitted) == 1000
        assert recording.kept() == []


def test_full_disk_that_has_room_at_the_stop(tmp_path):
    """What was kept in memory is written by the last commit of a stop, if the disk has room again."""
    with Recording(tmp_path, NEVER_S, waiting=in_a_row(1000), full=True) as recording:
        seen(recording.disk_states)
        recording.journal.full = False
        recording.stop()
        assert recording.keeper.failing == ""
    assert len(recording.kept()) == 1000


def test_room_between_the_last_failure_and_the_end(tmp_path):
    """Also where the stop comes just while a commit fails: it is tried once more."""
    recording = Recording(tmp_path, NEVER_S, waiting=in_a_row(1000), full=True)
    failed = threading.Event()

    def room_and_stop():
        if not failed.is_set():
            failed.set()
            # As the program stops: the keeper once no pulse comes any more. The commit that failed may have had a part.
            recording.recorder.stop()
            recording.recording.join(PATIENCE_S)
            recording.journal.full = False
            recording.keeper.stop()

    recording.keeper._on_state = room_and_stop
    with recording:
        assert failed.wait(PATIENCE_S)
        recording.stop()
        assert recording.keeper.failing == ""
    assert len(recording.kept()) == 1000


class FullBut(Scene):
    """A disk that is full, but takes pulses: where *thinned* old ones are thinned, else they are given their time."""

    def __init__(self, *, thinned):
        self.thinned, self.tried_s = thinned, []
        # With the clock waited for at first, nothing is settled when it begins.
        super().__init__(5, clock_wait_s=3600, synchronised=thinned)
        self.clock.is_synchronised = True

    def _full(self):
        self.tried_s.append(self.now_s)
        raise sqlite3.OperationalError("database or disk is full")

    def thin(self, before_ns):
        return self._full() if self.thinned else False

    def settle(self, ahead_ns):
        return 0 if self.thinned else self._full()

    def append(self, rows, ahead_ns, *, settled, begins):
        return super().append(rows, ahead_ns, settled=True, begins=begins)


@pytest.mark.parametrize("thinned", [True, False])
def test_a_disk_that_takes_pulses_alone(thinned, caplog):
    """Work that can wait does so, and is logged once per try; the journal does not fail, and no pulse waits longer."""
    scene = FullBut(thinned=thinned)
    assert scene.play([0, 1, 20], until_s=29) == [(0, [1]), (5, [2]), (20, [3])]
    assert scene.keeper.failing == ""
    assert scene.tried_s == [0]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# --- A clock that is waited for


def test_once_believed_a_clock_stays_so():
    """Pulses get their time from the first moment that the clock is right, also once nobody synchronises it again."""
    scene = Scene(5, clock_wait_s=3600)
    assert (scene.keeper.settled, scene.keeper.waits_s) == (False, 3540)
    scene.clock.is_synchronised = True
    assert scene.play([0, 1], until_s=20) == [(0, [1]), (5, [2])]
    scene.clock.is_synchronised = False
    scene.keeper.clock_wait_s = 7200
    assert (scene.keeper.settled, scene.keeper.waits_s) == (True, 0)


@pytest.mark.parametrize(("right_s", "settled_s"), [(30, 30), (1000, 40)])
def test_a_clock_is_waited_for(right_s, settled_s):
    """Pulses are written at once, and get their time once the clock is right, or the wait since the boot is over."""
    scene = Scene(5, clock_wait_s=100)
    written, settled_at_s = [], []
    scene.settle = lambda _ahead_ns: settled_at_s.append(scene.now_s) or 0
    scene.append = lambda rows, _ahead_ns, *, settled, begins: written.append((scene.now_s, settled)) or []
    scene.play([0, 60], 70, (right_s, lambda: setattr(scene.clock, "is_synchronised", True)))
    assert written == [(0, False), (60, True)]
    assert settled_at_s == [settled_s]


# --- What the journal knows of itself


def test_what_is_noted_outlives_the_file(tmp_path):
    """The id is the first file's, and what is noted is soon in it; another file that takes its place has both."""
    path, other = tmp_path / "journal.db", tmp_path / "other.db"
    with Journal(str(other)) as another:
        another.note({"mqtt offset house": "5"})
    kept = Keeper(
        str(path),
        0.01,
        clock=REAL_CLOCK,
        clock_wait_s=0,
        keep_days=400,
        on_commit=lambda: None,
        on_state=lambda: None,
        on_judged=lambda _judged: None,
    )
    kept.enter("house", 1000)
    kept.open()
    own_id = kept.about["id"]
    keeping = threading.Thread(target=kept.run)
    keeping.start()
    kept.note("mqtt topics", "[]")
    wait_until(lambda: about(str(path)) == {"id": own_id, "mqtt topics": "[]"})
    other.rename(path)
    kept.note("mqtt topics", "[1]")
    wait_until(lambda: about(str(path)) == {"id": own_id, "mqtt topics": "[1]", "mqtt offset house": "5"})
    assert kept.about["id"] == own_id
    kept.stop()
    keeping.join()
    kept.close()
