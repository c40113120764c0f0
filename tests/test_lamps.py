"""The lamps: what L1 and L2 show, to the millisecond, by the times that they are stepped at."""

import itertools

import pytest

from powermeter.lamps import Condition, Lamp, Lamps


class Scene:
    """
    Lamps that are stepped as the recorder does it, by a clock of the test's own, and a script of what is done when.

    They are stepped when they want to be and at each line of the script; so
    each change of a lamp has an exact time.
    """

    def __init__(self):
        self.now_s = 1000.0
        self.steps = 0
        self._shown = []
        self.lamps = Lamps(lambda lamp, lit: self._shown.append((self._ms(), lamp, lit)))

    def _ms(self):
        return round((self.now_s - 1000) * 1000)

    def _step(self):
        self.steps += 1
        return self.lamps.step(self.now_s)

    def play(self, script, until_ms):
        """Step the lamps while *script*, pairs of a time in ms and what is done then, is played; dark at *until_ms*."""
        lines = sorted(
            [(at_ms, n, action) for n, (at_ms, action) in enumerate(script)] + [(until_ms, len(script), None)]
        )
        step_s = self._step()
        while lines:
            at_s = 1000 + lines[0][0] / 1000
            if step_s is not None and step_s < at_s:
                assert step_s > self.now_s, "the lamps want to be stepped without end"
                self.now_s = step_s
            else:
                self.now_s = at_s
                _, _, action = lines.pop(0)
                if action is None:
                    break
                action()
            step_s = self._step()
        self.lamps.dark()

    def shown(self, lamp):
        """What *lamp* showed: pairs of a time in ms and whether it is lit, only the changes."""
        changes, lit = [], False
        for at_ms, which, now_lit in self._shown:
            if which is lamp and now_lit != lit:
                changes.append((at_ms, now_lit))
                lit = now_lit
        return changes


@pytest.fixture
def scene():
    return Scene()


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


def test_a_train_of_pulses_blinks_50_lit_50_dark(scene):
    """Pulses too fast for L1, reported in groups as by the recorder, make it blink: 50 ms lit, 50 ms dark."""
    scene.play(flashes_at(scene, *range(0, 2000, 50)), until_ms=5000)
    changes = scene.shown(Lamp.L1)
    # The first flash is one of 100 ms: that a train comes can't be known yet.
    assert changes[:2] == [(0, True), (100, False)]
    assert changes[2:40] == [(150 + 50 * turn, turn % 2 == 0) for turn in range(38)]
    assert changes[-1][0] <= 2150, "it blinks on after the train"
    assert not changes[-1][1]


@pytest.mark.parametrize("spacing_ms", [1, 7, 10, 23, 40, 45, 48])
def test_a_train_of_any_spacing_blinks(scene, spacing_ms):
    """Whenever pulses are reported, no phase is longer than 50 ms, or shorter by more than the slack of 10 ms."""
    scene.play(flashes_at(scene, *range(0, 2000, spacing_ms)), until_ms=5000)
    times_ms = [at_ms for at_ms, _ in scene.shown(Lamp.L1)]
    phases_ms = [end_ms - at_ms for at_ms, end_ms in itertools.pairwise(times_ms)]
    assert 90 <= phases_ms[0] <= 100
    assert {phase_ms for phase_ms in phases_ms[1:] if not 40 <= phase_ms <= 50} == set()
    assert 1950 <= times_ms[-1] <= 2150
    assert len(times_ms) % 2 == 0


def test_a_pulse_while_l1_is_lit_is_shown_after_a_dark_phase(scene):
    """A pulse that comes while L1 is lit is not swallowed: it is shown next, and the two can be distinguished."""
    scene.play(flashes_at(scene, 0, 60), until_ms=5000)
    assert scene.shown(Lamp.L1) == [(0, True), (100, False), (150, True), (200, False)]


@pytest.mark.parametrize("at_ms", [101, 120, 139])
def test_a_pulse_while_l1_is_dark_between_is_shown_when_that_ends(scene, at_ms):
    """A pulse in the dark phase after a flash waits for its end, and is then shown."""
    scene.play(flashes_at(scene, 0, at_ms), until_ms=5000)
    assert scene.shown(Lamp.L1) == [(0, True), (100, False), (150, True), (200, False)]


@pytest.mark.parametrize("at_ms", [141, 149])
def test_a_phase_that_is_all_but_over_ends_with_a_pulse(scene, at_ms):
    """A pulse in the last 10 ms of the dark phase is shown as it comes: that saves a wake-up."""
    scene.play(flashes_at(scene, 0, at_ms), until_ms=5000)
    assert scene.shown(Lamp.L1) == [(0, True), (100, False), (at_ms, True), (at_ms + 100, False)]
    assert scene.steps == 5


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
    """The same condition, shown again in the middle of a phase, does not restart the blinking."""
    scene.play([(at_ms, lambda: scene.lamps.show(Condition.FAILING)) for at_ms in range(0, 2900, 130)], until_ms=2900)
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
    """With nothing to show the lamps want no step, and after a flash none once L1 is dark."""
    scene.play([], until_ms=3_600_000)
    assert scene.steps == 1
    scene.play(flashes_at(scene, 3_700_000), until_ms=7_200_000)
    assert scene.steps == 4  # as it starts, for the pulse, for the end of the flash


def test_blinking_wakes_for_the_lamp_alone(scene):
    """While L2 blinks at 1 Hz the lamps want two steps a second, and no more."""
    scene.play([(0, lambda: scene.lamps.show(Condition.FAILING))], until_ms=60_250)
    assert scene.steps == 1 + 1 + 120


def test_light_is_called_for_changes_alone(scene):
    """Steps that change nothing touch no pin, however many come."""
    scene.play([(at_ms, lambda: None) for at_ms in range(1000)] + flashes_at(scene, 300), until_ms=1000)
    assert len(scene._shown) == 3 + 2  # L2 lit, L1 lit and dark; both dark in the end


def test_a_lamp_that_can_not_be_lit(caplog):
    """It is logged once per lamp, and the thread that steps them goes on."""

    def refused(_lamp, _lit):
        raise OSError("no such line")

    lamps = Lamps(refused)
    for at_s in range(5):
        lamps.flash()
        lamps.step(1000.0 + at_s)
    lamps.dark()
    assert sorted(caplog.messages) == ["L1 can't be lit: no such line", "L2 can't be lit: no such line"]
