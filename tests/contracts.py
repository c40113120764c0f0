"""
What the ports ask of every adapter: a suite for boards and one for writers.

A test module runs a suite by a class of its own that inherits from it, with
the fixture that makes the adapter under test: ``made`` for boards, ``place``
for writers. So the program's adapters are held to it, and those of others.
"""

import inspect
import itertools
import select
import time

import pytest
from program import PATIENCE_S, wait_until

from powermeter.errors import DeliveryError, PowerError
from powermeter.lamps import Lamp
from powermeter.meter import Edge
from powermeter.writers import writer_type

# --- Boards


def readable(source):
    """Whether the descriptor of a board or a queue is readable now."""
    ready = select.poll()
    ready.register(source.fileno(), select.POLLIN)
    return bool(ready.poll(0))


def taken(source, count):
    """The next *count* edges, or more, slept for on the descriptor of a board or a queue, as the recorder does."""
    ready, edges = select.poll(), []
    ready.register(source.fileno(), select.POLLIN)
    while len(edges) < count:
        assert ready.poll(PATIENCE_S * 1000), f"{len(edges)} edges of {count} came"
        edges += source.take()
    return edges


class BoardContract:
    """
    What the rest of the program may rely on, whatever the board.

    ``made(order)`` makes the board under test, of two meters that flash in *order*, given by their places in the
    settings; after the test it closes it. It returns

    - ``board``: the board itself;
    - ``play(flashes)``: lets that many flashes come;
    - ``go_on()``: lets both meters flash, and returns once a board that watches would have those edges;
    - ``lit(lamp)``: whether that lamp shines;
    - ``given_back()``: whether the board holds nothing of the machine's.
    """

    def test_edges_come_in_order_with_their_meter_and_time(self, made):
        """Every edge comes once, in order, as the meter's place in the settings and its monotonic time in ns."""
        order = [0, 1, 1, 0, 0, 0, 1, 0, 1, 1] * 5
        before_ns = time.monotonic_ns()
        rig = made(order)
        rig.board.watch()
        rig.play(len(order))
        edges = taken(rig.board, len(order))
        assert [edge.meter for edge in edges] == order
        times_ns = [edge.at_ns for edge in edges]
        assert all(isinstance(at_ns, int) for at_ns in times_ns)
        assert times_ns == sorted(times_ns)
        assert before_ns <= times_ns[0]
        assert times_ns[-1] <= time.monotonic_ns()
        assert edges == [Edge(meter, at_ns) for meter, at_ns in zip(order, times_ns, strict=True)]
        rig.board.unwatch()
        assert rig.board.take() == []

    def test_the_descriptor_is_readable_while_edges_wait(self, made):
        """The descriptor is not readable before the first edge nor once all are taken, and take() never waits."""
        rig = made([0, 1, 1, 0])
        rig.board.watch()
        rig.play(4)
        edges = taken(rig.board, 4)
        assert not readable(rig.board) or rig.board.take() == []
        assert not readable(rig.board)
        assert rig.board.take() == []
        assert len(edges) == 4

    def test_no_edge_after_unwatch(self, made):
        """Once unwatch has returned one more take() gives what was left, and then no edge comes, whatever flashes."""
        rig = made(itertools.cycle([0, 1]))
        rig.board.watch()
        rig.play(6)
        taken(rig.board, 6)
        rig.board.unwatch()
        rig.board.take()
        rig.go_on()
        assert rig.board.take() == []

    def test_what_was_left_comes_after_unwatch(self, made):
        """Edges that nobody took before unwatch are not lost by it."""
        rig = made([0, 1, 1])
        rig.board.watch()
        rig.play(3)
        wait_until(lambda: readable(rig.board))
        rig.board.unwatch()
        edges = rig.board.take()
        assert edges
        assert [edge.meter for edge in edges] == [0, 1, 1][: len(edges)]

    def test_a_board_without_ends_gives_falling_edges_alone(self, made):
        """A board says whether it sees ends; these do not, and no input of theirs is lit at rest."""
        rig = made([0, 1, 1])
        rig.board.watch()
        rig.play(3)
        assert rig.board.sees_ends is False
        assert all(edge.falling for edge in taken(rig.board, 3))
        assert [rig.board.sees_light(meter) for meter in (0, 1)] == [False, False]

    def test_unwatch_and_close_may_be_called_twice(self, made):
        """The ends may be called twice, in the order in which a stop calls them, and without a watch before."""
        rig = made([0])
        rig.board.unwatch()
        rig.board.watch()
        for end in (rig.board.unwatch, rig.board.unwatch, rig.board.close, rig.board.close, rig.board.unwatch):
            end()
        assert rig.given_back()

    def test_lamps_are_lit_one_by_one(self, made):
        """Each lamp shows the state that was set last, and starts dark."""
        rig = made([])
        shown = [(rig.lit(Lamp.L1), rig.lit(Lamp.L2))]
        for lamp, lit in ((Lamp.L1, True), (Lamp.L2, True), (Lamp.L1, False), (Lamp.L1, False), (Lamp.L2, False)):
            rig.board.light(lamp, lit)
            shown.append((rig.lit(Lamp.L1), rig.lit(Lamp.L2)))
        assert shown == [
            (False, False),
            (True, False),
            (True, True),
            (False, True),
            (False, True),
            (False, False),
        ]

    def test_close_gives_the_pins_back(self, made):
        """Closing a watched board ends its edges and leaves nothing behind; setting a lamp later is no error."""
        rig = made(itertools.cycle([0, 1]))
        rig.board.watch()
        assert not rig.given_back()
        rig.board.close()
        assert rig.given_back()
        rig.board.light(Lamp.L1, True)


# --- Writers


def deliver(writer, pulses, note=""):
    """Deliver all *pulses* as the delivery does; return the last note of how far."""
    for _ in range(4):
        receipt = writer.deliver(pulses, note)
        assert 0 <= receipt.taken <= len(pulses)
        assert receipt.refused == 0
        note, pulses = receipt.place, pulses[receipt.taken :]
        if not pulses:
            return note
    raise AssertionError("the writer takes nothing")


class WriterContract:
    """
    What the delivery may rely on, whatever the writer.

    ``place`` is where its pulses go. It has

    - ``kind``: its type in the settings;
    - ``options``, ``unreachable``: the settings of a writer to it, and of one to where nothing is;
    - ``stored()``: what is stored there now, to be compared; its text grows with it.
    """

    def test_every_key_is_an_argument(self, place):
        """A writer is made from its options in the settings: the keys of its type, and nothing else that is needed."""
        kind = writer_type(place.kind)
        arguments = inspect.signature(kind.writer).parameters.values()
        assert set(kind.keys) == {argument.name for argument in arguments if argument.default is argument.empty}

    def test_pulses_arrive(self, place, writer_of, pulses):
        """Delivered pulses are stored: more pulses, more there."""
        writer = writer_of(place.kind, **place.options)
        before = place.stored()
        note = deliver(writer, pulses(50))
        first = place.stored()
        assert first != before
        deliver(writer, pulses(50, first=51, start_ns=pulses(50)[-1].time_ns + 10**11), note)
        assert len(str(place.stored())) > len(str(first))

    def test_making_a_writer_touches_nothing(self, place, writer_of):
        """A writer is made without touching disk or network, so that a dead service can't hinder a start."""
        before = place.stored()
        writer_of(place.kind, **place.unreachable)
        writer_of(place.kind, **place.options)
        assert place.stored() == before

    def test_delivering_again_changes_nothing(self, place, writer_of, pulses):
        """The same pulses from the same place, as after a crash before the cursor was noted, change nothing."""
        sent = pulses(100)
        first, second = writer_of(place.kind, **place.options), writer_of(place.kind, **place.options)
        note = deliver(first, sent[:1])
        deliver(first, sent, note)
        stored = place.stored()
        first.close()
        deliver(second, sent, note)
        assert place.stored() == stored

    def test_close_twice(self, place, writer_of, pulses):
        """Closing twice is allowed, also where nothing was ever opened."""
        writer = writer_of(place.kind, **place.options)
        writer.close()
        writer.close()
        used = writer_of(place.kind, **place.options)
        deliver(used, pulses(3))
        used.close()
        used.close()

    def test_check_leaves_no_trace(self, place, writer_of, pulses):
        """A check says what answered and changes nothing, before the first pulse and after it."""
        writer = writer_of(place.kind, **place.options)
        before = place.stored()
        assert writer.check()
        assert place.stored() == before
        deliver(writer, pulses(10))
        stored = place.stored()
        assert writer.check()
        assert place.stored() == stored

    def test_unreachable(self, place, writer_of, pulses):
        """What can't be reached is an error of delivery on one line, for a check as for deliveries."""
        writer = writer_of(place.kind, **place.unreachable)
        for ask in (writer.check, lambda: writer.deliver(pulses(3), ""), lambda: writer.deliver(pulses(3), "")):
            with pytest.raises(DeliveryError) as caught:
                ask()
            assert isinstance(caught.value, PowerError)
            assert "\n" not in str(caught.value)
