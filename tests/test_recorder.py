"""The recorder on its thread, over a real keeper and journal: edges to pulses, faulty inputs, what the lamps show."""

import itertools
import logging
import threading
import time

import pytest
from counting import HOLD_OFF_NS, NEVER_S, Recording, in_a_row, seen
from program import PATIENCE_S, wait_until

from powermeter import inputs, lamps
from powermeter.clock import NEAR_NS
from powermeter.inputs import LOST_AGAIN_NS
from powermeter.lamps import TRAIN_S, Condition, Lamp
from powermeter.meter import NS_PER_S, Edge
from powermeter.recorder import BURST


def test_first_pulse_has_no_interval(tmp_path):
    """The first pulse after a start has no interval, the others the exact one; the count goes on after a restart."""
    edges = [Edge(0, at_ns) for at_ns in (5_000_000_001, 6_000_000_002, 9_000_000_004)]
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
    edge = Edge(0, time.monotonic_ns() - late_ns)
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
    edges = [Edge(0, NS_PER_S + at_ns) for at_ns in [*flash, HOLD_OFF_NS, *(HOLD_OFF_NS + n for n in flash[1:])]]
    with Recording(tmp_path, NEVER_S, waiting=edges) as recording:
        pass
    assert [(count, interval) for count, _, interval in recording.kept()] == [(1, None), (2, HOLD_OFF_NS)]
    assert recording.meter.flash.rejected == 6
    assert recording.meter.count == 2


def test_bounce_alone_wakes_nobody(tmp_path):
    """Rejected edges make no flash of L1 and no commit."""
    with Recording(tmp_path, 0.05) as recording:
        recording.board.put(Edge(0, NS_PER_S))
        seen(recording.commits)
        recording.board.wait_for(Lamp.L1, True)
        recording.board.wait_for(Lamp.L1, False)
        for at_ns in range(1, 21):
            recording.board.put(Edge(0, NS_PER_S + at_ns))
        wait_until(lambda: recording.meter.flash.rejected == 20)
        recording.stop()
        assert not recording.commits.acquire(blocking=False)
        assert recording.board.seen.count((Lamp.L1, True)) == 1


def test_stop_drains(tmp_path):
    """A stop takes every edge that was put before it, and commits; those after it are not taken."""
    with Recording(tmp_path, NEVER_S) as recording:
        for edge in in_a_row(500):
            recording.board.put(edge)
        recording.stop()
        recording.board.put(Edge(0, time.monotonic_ns() + NS_PER_S))
    assert [count for count, _, _ in recording.kept()] == list(range(1, 501))
    assert recording.keeper.uncommitted == []


def test_stop_takes_what_the_board_still_has(tmp_path):
    """Edges that the board gives only once it is not watched any more are taken too: its end comes before the last."""
    with Recording(tmp_path, NEVER_S, waiting=in_a_row(3)) as recording:
        wait_until(lambda: recording.meter.count == 3)
        recording.board.left = [Edge(0, time.monotonic_ns() + turn * NS_PER_S) for turn in range(1, 501)]
        recording.stop()
        assert not recording.board.watched
    assert recording.counts() == list(range(1, 504))
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
        edges.append(Edge(0, at_ns))
    with Recording(tmp_path, NEVER_S, waiting=edges) as recording:
        pass
    kept = recording.kept()
    assert [interval for _, _, interval in kept] == [None, *spacings[1:]]
    # Where they get into the journal by two commits, the two clocks are read at two moments.
    between_ns = [kept[n][1] - kept[n - 1][1] for n in range(1, 1000)]
    assert max(abs(found - made) for found, made in zip(between_ns, spacings[1:], strict=True)) < 2 * NEAR_NS
    assert recording.meter.flash.rejected == 0


def test_edges_from_several_threads(tmp_path):
    """Edges that several threads put at the same time are all counted, for their own meter each."""
    names = {f"meter{index}": None for index in range(6)}
    together = threading.Barrier(len(names))
    with Recording(tmp_path, 0.02, meters=names) as recording:

        def put(index):
            together.wait()
            for edge in in_a_row(400 + index, index):
                recording.board.put(edge)

        threads = [threading.Thread(target=put, args=(index,)) for index in range(len(names))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    for index, name in enumerate(names):
        kept = recording.kept(name)
        assert [count for count, _, _ in kept] == list(range(1, 401 + index))
        assert [interval for _, _, interval in kept] == [None] + [NS_PER_S] * (399 + index)


def test_every_pulse_of_an_edge_is_kept(tmp_path):
    """Where one edge tells of several pulses each gets a row: those made up without an interval, evenly spaced."""
    flash = [Edge(0, 10 * NS_PER_S), Edge(0, 10 * NS_PER_S + 1, falling=False)]
    with Recording(tmp_path, 0.05, waiting=flash) as recording:
        seen(recording.commits)
        recording.board.put(Edge(0, 18 * NS_PER_S, falling=False, lost=5))
        # That edge by itself makes the pulses committed and shown.
        seen(recording.commits)
        recording.board.wait_for(Lamp.L1, True, times=2)
        assert recording.meter.made_up == 3
        recording.board.put(Edge(0, 20 * NS_PER_S))
        recording.board.put(Edge(0, 20 * NS_PER_S + 1, falling=False))
        recording.board.put(Edge(0, 23 * NS_PER_S))
    kept = recording.kept()
    assert [(count, interval) for count, _, interval in kept] == [
        (1, None),
        (2, None),
        (3, None),
        (4, None),
        (5, None),
        (6, 3 * NS_PER_S),
    ]
    # Evenly but for the wall clock, which each take() reads again.
    spacings_s = [(after - before) / NS_PER_S for (_, before, _), (_, after, _) in itertools.pairwise(kept)]
    assert spacings_s == pytest.approx([2, 2, 2, 4, 3], abs=0.5)


def test_lost_edges_before_the_first_pulse(tmp_path):
    """What was lost before the first pulse since the start counts too: the meter knows since when it is watched."""
    with Recording(tmp_path, NEVER_S) as recording:
        recording.board.put(Edge(0, time.monotonic_ns() + 10 * NS_PER_S, lost=4))
        wait_until(lambda: recording.meter.count == 3)
        assert recording.meter.made_up == 2
    assert recording.counts() == [1, 2, 3]


def lost_after(*seconds):
    """Edges, each with 2 lost before it, at these times."""
    return [Edge(0, at_s * NS_PER_S, lost=2) for at_s in seconds]


def test_lost_edges_are_logged_once_a_minute(tmp_path, caplog):
    """Lost edges are logged when the first is lost, with their number, and once a minute while more are lost."""
    quiet_s = LOST_AGAIN_NS // NS_PER_S
    assert quiet_s == 60
    first, again = lost_after(100, 101, 130, 190, 250), lost_after(250 + quiet_s + 1, 250 + quiet_s + 2)
    with Recording(tmp_path, NEVER_S, waiting=[Edge(0, NS_PER_S), *first, *again]) as recording:
        pass
    words = "edges came too fast and were lost; the flashes that they may have been are counted"
    assert [message for message in caplog.messages if "lost" in message] == [
        f"house: 2 {words} without power, 1 so far",
        f"house: 2 {words} without power, 4 so far",
        f"house: 2 {words} without power, 6 so far",
    ]
    assert recording.meter.made_up == 7


def test_lost_edges_of_one_meter(tmp_path, caplog):
    """Lost edges of one meter do not keep those of another from being logged."""
    edges = [Edge(0, 5 * NS_PER_S, lost=2), Edge(1, 6 * NS_PER_S, lost=2)]
    with Recording(tmp_path, NEVER_S, meters={"house": None, "heat": None}, waiting=edges):
        pass
    assert [message.split(":")[0] for message in caplog.messages] == ["house", "heat"]


# --- Silence


#: A tenth of a second, in minutes.
SOON = 0.1 / 60


def test_silence(tmp_path, caplog):
    """A meter with no flash for longer than allowed is silent; that is logged once, and so is the next flash."""
    caplog.set_level(logging.INFO)
    with Recording(tmp_path, NEVER_S, meters={"house": SOON}) as recording:
        seen(recording.faults)
        assert recording.recorder.faulty
        # Ahead of the clock, so that a busy machine does not let it be silent again at once.
        recording.board.put(Edge(0, time.monotonic_ns() + NEVER_S * NS_PER_S))
        seen(recording.faults)
        assert not recording.recorder.faulty
    assert not recording.faults.acquire(blocking=False)
    assert recording.threads[recording.faults] == {recording.recording}
    assert [record.getMessage() for record in caplog.records] == [
        "house: no flash for 0.00166667 minutes",
        "house: flashes again",
    ]


def test_silence_after_a_flash(tmp_path):
    """A meter that has flashed becomes silent too, without an edge that would wake the recorder."""
    with Recording(tmp_path, NEVER_S, meters={"house": SOON}, waiting=in_a_row(1)) as recording:
        seen(recording.commits)
        seen(recording.faults)
        assert recording.recorder.faulty
        assert recording.recorder.meters[0].silent


def test_no_limit_of_silence(tmp_path):
    """A meter without a limit is never silent, whatever the time since its last flash."""
    with Recording(tmp_path, 0.02, waiting=[Edge(0, time.monotonic_ns() - 10**6 * NS_PER_S)]) as recording:
        seen(recording.commits)
        assert not recording.recorder.faulty
    assert not recording.faults.acquire(blocking=False)


def test_silence_of_one_meter(tmp_path):
    """One silent meter of three makes the input silent, whatever the others do and may."""
    with Recording(tmp_path, NEVER_S, meters={"house": 60, "pump": SOON, "car": None}) as recording:
        seen(recording.faults)
        assert [watched.silent for watched in recording.recorder.meters] == [False, True, False]
        assert recording.recorder.faulty


# --- An input that stays lit


@pytest.fixture
def soon_stuck(monkeypatch):
    """An input that stays lit is stuck after a twentieth of a second, not ten minutes."""
    monkeypatch.setattr(inputs, "STUCK_NS", NS_PER_S // 20)


def test_stuck(tmp_path, caplog, soon_stuck):
    """An input lit for too long without an edge is at fault; that is logged once, and so is the next edge."""
    caplog.set_level(logging.INFO)
    with Recording(tmp_path, NEVER_S, lit=[0]) as recording:
        seen(recording.faults)
        assert recording.recorder.faulty
        assert recording.recorder.meters[0].stuck
        assert not recording.recorder.meters[0].silent
        looks = recording.board.looks[0]
        wait_until(lambda: recording.board.looks[0] >= looks + 3)
        assert not recording.faults.acquire(blocking=False)
        # Ahead of the clock, so that a busy machine does not let it be stuck again at once. It is lit as before.
        recording.board.put(Edge(0, time.monotonic_ns() + NEVER_S * NS_PER_S, falling=False))
        seen(recording.faults)
        assert not recording.recorder.faulty
        assert not recording.recorder.meters[0].stuck
    assert not recording.faults.acquire(blocking=False)
    assert recording.threads[recording.faults] == {recording.recording}
    assert caplog.messages == ["house: lit for 0.000833333 minutes without a flash", "house: no longer lit"]


def test_stuck_ends_at_once(tmp_path, soon_stuck):
    """The edge that ends it has the input judged, whenever that would have been due."""
    with Recording(tmp_path, NEVER_S, lit=[0]) as recording:
        seen(recording.faults)
        recording.recorder._judge_at_ns = time.monotonic_ns() + NEVER_S * NS_PER_S
        recording.board.put(Edge(0, time.monotonic_ns() + NEVER_S * NS_PER_S))
        seen(recording.faults)
        assert not recording.recorder.faulty


def test_stuck_after_a_flash(tmp_path, soon_stuck):
    """A meter that has flashed can be stuck too, with no edge that would wake the recorder."""
    with Recording(tmp_path, NEVER_S, waiting=in_a_row(1), lit=[0]) as recording:
        seen(recording.commits)
        seen(recording.faults)
        assert recording.recorder.meters[0].stuck


def test_stuck_ends_in_the_dark(tmp_path, soon_stuck):
    """An input that becomes dark is no longer stuck, even with a board that reports no rising edges."""
    with Recording(tmp_path, NEVER_S, lit=[0]) as recording:
        seen(recording.faults)
        recording.board.lit.clear()
        seen(recording.faults)
        assert not recording.recorder.faulty


def test_a_dark_input_is_never_stuck(tmp_path, caplog, soon_stuck):
    """Whatever the time without an edge, an input that is dark is no fault: that is a meter without a load."""
    with Recording(tmp_path, NEVER_S, waiting=[Edge(0, NS_PER_S)]) as recording:
        wait_until(lambda: recording.board.looks.get(0, 0) >= 3)
        assert not recording.recorder.faulty
    assert not recording.faults.acquire(blocking=False)
    assert caplog.messages == []


def test_one_stuck_input(tmp_path, soon_stuck):
    """Of three inputs one is stuck: it is at fault, and the others are not."""
    with Recording(tmp_path, NEVER_S, meters={"house": None, "pump": 60, "car": None}, lit=[1]) as recording:
        seen(recording.faults)
        assert [watched.stuck for watched in recording.recorder.meters] == [False, True, False]
        assert recording.recorder.faulty


def test_silent_and_stuck(tmp_path, soon_stuck):
    """An input that is silent and stuck is one fault: it ends when both have ended, which one edge does."""
    with Recording(tmp_path, NEVER_S, meters={"house": SOON}, lit=[0]) as recording:
        wait_until(lambda: recording.recorder.meters[0].silent and recording.recorder.meters[0].stuck)
        seen(recording.faults)
        assert not recording.faults.acquire(blocking=False)
        recording.board.put(Edge(0, time.monotonic_ns() + NEVER_S * NS_PER_S))
        seen(recording.faults)
        assert not recording.recorder.faulty


def test_a_stuck_led_after_a_dark_hour(tmp_path, monkeypatch):
    """An LED that lights up long after the last flash is noticed, even if the limit of silence is far away."""
    monkeypatch.setattr(inputs, "STUCK_NS", NS_PER_S // 20)
    with Recording(tmp_path, NEVER_S, meters={"house": 1440}) as recording:
        wait_until(lambda: recording.board.looks.get(0, 0) >= 3)
        assert not recording.recorder.faulty
        recording.board.lit.add(0)  # its edge was seen by nobody
        seen(recording.faults)
        assert recording.recorder.meters[0].stuck


def test_light_that_flickers_is_a_fault(tmp_path, caplog):
    """An input that is never dark for a minute is at fault, which is logged once; a flash after some rest ends it."""
    caplog.set_level(logging.INFO)
    ms, start_ns = NS_PER_S // 1000, time.monotonic_ns()
    with Recording(tmp_path, NEVER_S) as recording:
        board = recording.board
        for turn in range(6100):
            board.put(Edge(0, start_ns + turn * 10 * ms))
            board.put(Edge(0, start_ns + turn * 10 * ms + 6 * ms, falling=False))
        seen(recording.faults)
        assert recording.recorder.meters[0].flickers
        board.put(Edge(0, start_ns + 100 * NS_PER_S))
        seen(recording.faults)
        assert not recording.recorder.faulty
    assert [record.getMessage() for record in caplog.records] == [
        "house: never dark for 60 s: flashes can't be recognised",
        "house: no longer flickers",
    ]
    assert recording.meter.count == 2


def test_a_contact_may_rest_closed(tmp_path, caplog, soon_stuck):
    """A contact that stays closed is not at fault, whatever else is judged; its pulses count like those of an LED."""
    with Recording(
        tmp_path, NEVER_S, meters={"gas": SOON}, waiting=in_a_row(3), lit=[0], contacts=["gas"]
    ) as recording:
        wait_until(lambda: recording.recorder.meters[0].silent)
        time.sleep(0.2)
        assert not recording.recorder.meters[0].stuck
        assert 0 not in recording.board.looks
        assert recording.meter.count == 3
    assert not [message for message in caplog.messages if "lit for" in message]


def telegram(begun_ns, edges=250):
    """The *edges* of a port that sends data, a ms apart, from *begun_ns* on."""
    return [Edge(0, begun_ns + n * NS_PER_S // 1000, falling=n % 2 == 0) for n in range(edges)]


def test_far_more_edges_than_pulses_are_noise(tmp_path, caplog, monkeypatch):
    """Endless edges with few pulses are a fault, which is logged once it has lasted; it ends with the last of them."""
    monkeypatch.setattr(inputs, "NOISE_NS", NS_PER_S // 4)
    caplog.set_level(logging.INFO)
    with Recording(tmp_path, NEVER_S) as recording:
        for edge in itertools.chain.from_iterable(telegram(time.monotonic_ns() + n * NS_PER_S) for n in range(10)):
            recording.board.put(edge)
        seen(recording.faults)
        assert recording.recorder.meters[0].noisy
        seen(recording.faults)
        assert not recording.recorder.faulty
        wait_until(lambda: recording.recorder.meters[0].noise is None)
    assert recording.meter.flash.rejected > 50 * recording.meter.count
    first, last = caplog.messages
    assert first.endswith(" edges rejected in a minute, far more than pulses")
    assert last == "house: no longer noisy: few edges are rejected"


def test_bounce_is_no_noise(tmp_path, caplog, monkeypatch):
    """Flashes with all the bounce of slowly fading light are not noise, and neither are a few edges without a pulse."""
    monkeypatch.setattr(inputs, "NOISE_NS", NS_PER_S // 4)
    with Recording(tmp_path, NEVER_S) as recording:
        start_ns = time.monotonic_ns()
        for edge in itertools.chain.from_iterable(telegram(start_ns + n * NS_PER_S, edges=32) for n in range(50)):
            recording.board.put(edge)
        wait_until(lambda: recording.meter.count == 50)
        assert recording.meter.flash.rejected >= inputs.NOISY_EDGES
        wait_until(lambda: recording.recorder.meters[0].noise is None)
    assert not recording.faults.acquire(blocking=False)
    assert caplog.messages == []


def test_what_is_complete(tmp_path):
    """The time of an edge that waits on the board, or of a flash not judged yet, is not complete: a pulse may come."""
    waiting = Recording(tmp_path, NEVER_S)
    waiting.board.watch()
    before_ns = time.monotonic_ns()
    waiting.board.put(Edge(0, before_ns - NS_PER_S))
    assert waiting.recorder.complete_ns() < before_ns
    with waiting as recording:
        wait_until(lambda: recording.recorder.complete_ns() > before_ns)
        recording.meter.flash.min_flash_ns = NS_PER_S  # not before: the first flash would be waited for to end
        lit_ns = time.monotonic_ns()
        recording.board.put(Edge(0, lit_ns))
        wait_until(lambda: recording.meter.flash.waits_since_ns == lit_ns)
        assert recording.recorder.complete_ns() == lit_ns
        recording.board.put(Edge(0, lit_ns + 2 * NS_PER_S, falling=False))
        wait_until(lambda: recording.meter.count == 2)
        assert recording.recorder.complete_ns() > lit_ns


def test_what_is_complete_while_edges_always_wait(tmp_path):
    """The time before edges were last taken is complete, whatever waits on the board now."""
    recording = Recording(tmp_path, NEVER_S)
    recording.board.watch()
    for _ in range(3):
        recording.board.put(Edge(0, time.monotonic_ns()))
        before_ns = time.monotonic_ns()
        recording.recorder._take()
        recording.board.put(Edge(0, time.monotonic_ns()))
        assert before_ns <= recording.recorder.complete_ns() < time.monotonic_ns()
    recording.recorder.close()
    recording.journal.close()


# --- The lamps, stepped by the recorder, with the real clock


def test_l1_shows_each_of_pulses_apart(tmp_path):
    """After each of ten pulses L1 is lit and dark again, with no further edge; both lamps are dark in the end."""
    with Recording(tmp_path, NEVER_S) as recording:
        for turn in range(1, 11):
            # At once when it is dark: just while the recorder decides how long to wait.
            recording.board.put(Edge(0, turn * NS_PER_S))
            recording.board.wait_for(Lamp.L1, True, times=turn)
            recording.board.wait_for(Lamp.L1, False, times=turn)
        recording.board.wait_for(Lamp.L2, True)
    assert recording.board.seen[-2:] == [(Lamp.L1, False), (Lamp.L2, False)]


def test_a_look_shows_the_condition_with_no_edge(tmp_path):
    """A condition set by another thread is shown when that thread wakes the recorder, and L2 goes on blinking."""
    with Recording(tmp_path, NEVER_S) as recording:
        recording.board.wait_for(Lamp.L2, True)
        recording.lamps.show(Condition.INPUT_FAULT)
        recording.recorder.wake()
        recording.board.wait_for(Lamp.L2, False, times=3)


def test_a_train_of_edges_is_taken_in_groups(tmp_path):
    """While 1,000 edges come one after another, the recorder wakes some 20 times per second, not once for each."""
    with Recording(tmp_path, NEVER_S) as recording:
        steps, step = [], recording.lamps.step
        recording.lamps.step = lambda now_s: steps.append(now_s) or step(now_s)
        never, start_s = threading.Event(), time.monotonic()
        for number in range(1000):
            never.wait(start_s + number / 1000 - time.monotonic())  # the rhythm, not a result
            recording.board.put(Edge(0, number * NS_PER_S))
        wait_until(lambda: recording.meter.count == 1000)
        took_s = steps[-1] - start_s
        # At most two wake-ups a phase of L1, whatever the machine does.
        assert len(steps) <= 2 * (took_s / TRAIN_S + 2)
    assert recording.meter.flash.rejected == 0
    assert recording.counts() == list(range(1, 1001))


def test_a_burst_is_taken_while_l1_is_lit(tmp_path, monkeypatch):
    """After a burst the next edges are taken at once, whatever L1 shows: the kernel keeps no more than some."""
    monkeypatch.setattr(lamps, "FLASH_S", PATIENCE_S / 2)
    with Recording(tmp_path, NEVER_S) as recording:
        for burst in range(1, 4):
            recording.board.put_at_once(
                Edge(0, number * NS_PER_S) for number in range(burst * (BURST + 1), (burst + 1) * (BURST + 1))
            )
            wait_until(lambda burst=burst: recording.meter.count == burst * (BURST + 1))
        assert recording.board.seen.count((Lamp.L1, True)) == 1
        assert (Lamp.L1, False) not in recording.board.seen


def test_a_limit_of_silence_of_months(tmp_path):
    """The recorder can wait for the longest silence in the settings, some 69 days, which poll() itself would refuse."""
    with Recording(tmp_path, 1, meters={"house": 100_000}) as recording:
        recording.board.wait_for(Lamp.L2, True)
        recording.board.put(Edge(0, NS_PER_S))
        wait_until(lambda: recording.meter.count == 1)
    assert recording.recording.ident is not None
    assert recording.counts() == [1]


def test_both_lamps_are_dark_when_it_has_ended_by_an_error(tmp_path, monkeypatch):
    """L2 does not go on showing that all is well when the board gives no more edges."""
    errors = []
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    with Recording(tmp_path, NEVER_S) as recording:
        recording.board.wait_for(Lamp.L2, lit=True)
        monkeypatch.setattr(recording.board, "take", lambda: 1 / 0)
        recording.board.flash()
        recording.recording.join(PATIENCE_S)
        assert [type(error) for error in errors] == [ZeroDivisionError]
        assert recording.board.seen[-2:] == [(Lamp.L1, False), (Lamp.L2, False)]
