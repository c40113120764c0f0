"""Deliveries for tests: pulses to deliver, and deliveries that run on a thread or step by step."""

import threading

import pytest
from program import PATIENCE_S

from powermeter.delivery import Delivery
from powermeter.journal.journal import Row
from powermeter.meter import NS_PER_S

#: 2026-11-23T07:13:20.123456789Z, as ns.
START_NS = 1_795_418_000_123_456_789
#: Later than every pulse here, so that each of their periods is over.
FAR_NS = 2**62


def add_pulses(journal, count, meter="house", *, start_ns=START_NS, spacing_ns=20 * NS_PER_S):
    """Append *count* pulses of *meter* after those that it has."""
    known = journal.enter(meter, 1000)
    numbers = range(known.count + 1, known.count + count + 1)
    rows = [
        Row(known.name, number, start_ns + number * spacing_ns, spacing_ns if number > 1 else None)
        for number in numbers
    ]
    journal.append(rows)


def driven(open_writer, cursor, complete_ns=lambda: FAR_NS, on_state=lambda: None):
    """A delivery that the test advances step by step."""
    return Delivery("driven", open_writer, cursor, complete_ns=complete_ns, on_state=on_state, on_damage=pytest.fail)


def begun(name, open_writer, cursor):
    """A delivery that runs on its own thread until :func:`end`."""
    delivery = Delivery(
        name, open_writer, cursor, complete_ns=lambda: FAR_NS, on_state=lambda: None, on_damage=pytest.fail
    )
    delivery.thread = threading.Thread(target=delivery.run)
    delivery.thread.start()
    return delivery


def end(delivery):
    """Stop *delivery* and wait until it has ended; may be called twice."""
    delivery.stop()
    delivery.thread.join(PATIENCE_S)
    assert not delivery.thread.is_alive()


def delivered_all(delivery, pulses):
    """Whether the cursor is after the last of *pulses*, which are all of one meter."""
    return pulses[-1].number in delivery.cursor.position.counts.values()
