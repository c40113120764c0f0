"""The lamps: what L1 and L2 show, to the millisecond, by a clock of the test's own; and their one thread."""

import queue
import threading
import types

import pytest

from powermeter import lamps
from powermeter.lamps import Condition, Lamp, Lamps


class Scene:
    """
    A clock and a queue in place of the lamps' own, and a script of what other threads do when.

    Waiting on the queue passes time, up to the script's next line; so each
    change of a lamp has an exact time.
    """

    Empty = queue.Empty

    def __init__(self, monkeypatch):
        monkeypatch.setattr(lamps, "time", types.SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(lamps, "queue", types.SimpleNamespace(SimpleQueue=lambda: self, Empty=queue.Empty))
        self.now_s = 1000.0
        self._waiting = 0
        self.wakes = 0
        self._shown = []
        self.lamps = Lamps(lambda lamp, lit: self._shown.append((self._ms(), lamp, lit)))

    def _ms(self):
        return round((self.now_s - 1000) * 1000)

    def put(self, _item):
        self._waiting += 1

    def get(self, timeout=None):
        self.wakes += 1
        end_s = None if timeout is None else self.now_s + timeout
        while not self._waiting:
            if self._script and (end_s is None or self._script[0][0] <= end_s):
                at_s, action = self._script.pop(0)
                self.now_s = max(self.now_s, at_s)
                action()
            else:
                assert end_s is not None, "the lamps wait for ever, and nothing will come"
                self.now_s = end_s
                raise queue.Empty
        self._waiting -= 1

    def play(self, script, until_ms):
        """Run the lamps while *script*, pairs of a time in ms and what is done then, is played; stop at *until_ms*."""
        script = sorted([*script, (until_ms, self.lamps.stop)], key=lambda line: line[0])
        self._script = [(1000 + at_ms / 1000, action) for at_ms, action in script]
        self.lamps.run()

    def shown(self, lamp):
        """What *lamp* showed: pairs of a time in ms and whether it is lit, changes alone."""
        changes, lit = [], False
        for at_ms, which, now_lit in self._shown:
            if which is lamp and now_lit != lit:
                changes.append((at_ms, now_lit))
                lit = now_lit
        return changes


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


def flashes_at(scene, *times_ms):
    return [(at_ms, scene.lamps.flash) for at_ms in times_ms]


def test_one_pulse_lights_l1_for_100_ms(scene):
    """L1 is lit for 100 ms at a pulse, from the moment it came."""
    scene.play(flashes_at(scene, 500), until_ms=5000)
    assert scene.shown(Lamp.L1) == [(500, True), (600, False)]


def test_pulses_apart_light_l1_for_100_ms_each(scene):
    """Pulses slower than L1 can show have 100 ms each: at a household's loads one sees every one."""
    scene.play(flashes_at(scene, 0, 400, 800, 1200), until_ms=5000)
    lit = [at_ms for at_ms, lit in scene.shown(Lamp.L1) if lit]
    dark = [at_ms for at_ms, lit in scene.shown(Lamp.L1) if not lit]
    assert lit == [0, 400, 800, 1200]
    assert dark == [100, 500, 900, 1300]


@pytest.mark.parametrize("spacing_ms", [1, 10, 40])
def test_a_train_of_pulses_blinks_50_lit_50_dark(scene, spacing_ms):
    """Pulses faster than L1 can show make it blink, 50 ms lit and 50 ms dark, for as long as they come."""
    scene.play(flashes_at(scene, *range(0, 2000, spacing_ms)), until_ms=5000)
    changes = scene.shown(Lamp.L1)
    # The first flash is one of 100 ms: that a train comes can't be known yet.
    assert changes[:2] == [(0, True), (100, False)]
    assert changes[2:40] == [(150 + 50 * turn, turn % 2 == 0) for turn in range(38)]
    assert changes[-1][0] <= 2150, "it blinks on after the train"
    assert not changes[-1][1]


def test_a_pulse_while_l1_is_lit_is_shown_after_a_dark_phase(scene):
    """A pulse that comes while L1 is lit is not swallowed: it is shown next, and the two can be told apart."""
    scene.play(flashes_at(scene, 0, 60), until_ms=5000)
    assert scene.shown(Lamp.L1) == [(0, True), (100, False), (150, True), (200, False)]


@pytest.mark.parametrize("at_ms", [101, 120, 149])
def test_a_pulse_while_l1_is_dark_between_is_shown_when_that_ends(scene, at_ms):
    """A pulse in the dark phase after a flash waits for its end, and is then shown."""
    scene.play(flashes_at(scene, 0, at_ms), until_ms=5000)
    assert scene.shown(Lamp.L1) == [(0, True), (100, False), (150, True), (200, False)]


@pytest.mark.parametrize("last_ms", [*range(0, 301, 7)])
def test_the_last_pulse_of_a_train_is_shown(scene, last_ms):
    """Whenever the last pulse comes, L1 is lit at that time or afterwards: none is lost at the end of a train."""
    scene.play(flashes_at(scene, *range(0, last_ms, 20), last_ms), until_ms=5000)
    assert scene.shown(Lamp.L1)[-2:][0][0] >= last_ms
    assert not scene.shown(Lamp.L1)[-1][1]


def test_l2_is_steady_while_all_is_well(scene):
    """L2 is lit from the start, and steadily."""
    scene.play([], until_ms=10_000)
    assert scene.shown(Lamp.L2) == [(0, True), (10_000, False)]


@pytest.mark.parametrize(("condition", "half_ms"), [(Condition.FAILING, 500), (Condition.INPUT_FAULT, 100)])
def test_l2_blinks(scene, condition, half_ms):
    """L2 blinks at 1 Hz while a writer or the disk fails, at 5 Hz while the input is at fault; equally lit and dark."""
    scene.play([(1000, lambda: scene.lamps.show(condition))], until_ms=3900)
    turns = 2900 // half_ms
    blinks = [(1000 + half_ms * turn, turn % 2 == 0) for turn in range(1, turns + 1)]
    # Already lit at 1000: the first change is to dark.
    assert scene.shown(Lamp.L2)[: turns + 1] == [(0, True), *blinks]


def test_l2_follows_the_condition_at_once(scene):
    """A change of the condition is shown when it happens, not at the end of a phase; well again is steady again."""
    scene.play(
        [
            (1000, lambda: scene.lamps.show(Condition.FAILING)),
            (1730, lambda: scene.lamps.show(Condition.INPUT_FAULT)),
            (1850, lambda: scene.lamps.show(Condition.WELL)),
        ],
        until_ms=9000,
    )
    assert scene.shown(Lamp.L2) == [
        (0, True),
        (1500, False),
        (1730, True),
        (1830, False),
        (1850, True),
        (9000, False),
    ]


def test_showing_the_same_condition_again_disturbs_nothing(scene):
    """The same condition, shown again in the middle of a phase, does not start the blinking anew."""
    scene.play([(at_ms, lambda: scene.lamps.show(Condition.FAILING)) for at_ms in range(0, 3000, 130)], until_ms=3000)
    assert scene.shown(Lamp.L2) == [(turn * 500, turn % 2 == 0) for turn in range(6)]


def test_l1_and_l2_do_not_disturb_each_other(scene):
    """L1's flashes are the same while L2 blinks, and L2's blinking is the same while L1 flashes."""
    fault = [(0, lambda: scene.lamps.show(Condition.INPUT_FAULT))]
    scene.play([*fault, *flashes_at(scene, 30, 70, 500)], until_ms=1950)
    assert scene.shown(Lamp.L1) == [(30, True), (130, False), (180, True), (230, False), (500, True), (600, False)]
    assert scene.shown(Lamp.L2)[:20] == [(turn * 100, turn % 2 == 0) for turn in range(20)]


@pytest.mark.parametrize("until_ms", [0, 30, 120, 160, 5000])
def test_both_lamps_are_dark_when_it_has_ended(scene, until_ms):
    """Both lamps are dark when the lamps have ended, whatever they showed."""
    scene.play([(0, lambda: scene.lamps.show(Condition.FAILING)), *flashes_at(scene, 0, 10, 20)], until_ms)
    assert {lamp: lit for _, lamp, lit in scene._shown} == {Lamp.L1: False, Lamp.L2: False}


def test_no_wake_ups_while_nothing_changes(scene):
    """An hour with nothing to show is slept through."""
    scene.play([], until_ms=3_600_000)
    assert scene.wakes == 1


def test_a_train_wakes_for_the_lamp_alone(scene):
    """In a train of 10,000 pulses the thread wakes when L1 changes, not for each pulse."""
    scene.play(flashes_at(scene, *(0.1 * turn for turn in range(10_000))), until_ms=5000)
    assert scene.wakes < 60


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
            assert self._changed.wait_for(lambda: self.seen.count((lamp, lit)) >= times, 10), self.seen


def test_one_thread_however_many_pulses_come():
    """With the real clock and queue: L1 follows 10,000 pulses, both lamps end dark, and no pulse makes a thread."""
    circuit = Circuit()
    kept = Lamps(circuit.light)
    thread = threading.Thread(target=kept.run)
    before = set(threading.enumerate())
    thread.start()
    circuit.wait_for(Lamp.L2, True)
    for _ in range(10_000):
        kept.flash()
        assert set(threading.enumerate()) - before == {thread}
    circuit.wait_for(Lamp.L1, True)
    circuit.wait_for(Lamp.L1, False)
    kept.show(Condition.INPUT_FAULT)
    circuit.wait_for(Lamp.L2, False, times=2)
    kept.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert circuit.seen[-2:] == [(Lamp.L1, False), (Lamp.L2, False)]


def test_no_flash_is_lost_between_threads():
    """A flash that falls anywhere in the lamps' own steps is shown: after each of many, L1 lights again."""
    circuit = Circuit()
    kept = Lamps(circuit.light)
    thread = threading.Thread(target=kept.run)
    thread.start()
    for turn in range(1, 11):
        # At once when it is dark: just while the thread decides whether to sleep.
        kept.flash()
        circuit.wait_for(Lamp.L1, True, times=turn)
        circuit.wait_for(Lamp.L1, False, times=turn)
    kept.stop()
    thread.join(10)
    assert not thread.is_alive()
