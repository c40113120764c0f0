"""
Home Assistant lives through two days of its clock with everything that can go wrong, again and again.

A real one finds a simulated meter over a real mosquitto. In each six hours there are an outage of the broker, which
forgets everything, a restart of Home Assistant, one of the program, a SIGKILL, a reading, another label, a card that
is put back from a backup, and a restart of the broker. The program and the broker keep the world's time.

The energy must never fall, and in the end the total must be the same in ``--report`` (with what was added to it after
each card), at the broker, in Home Assistant and on its energy dashboard in a browser; Home Assistant's log must have
no warning and no error about the meter. ``make test-home-assistant`` has six hours of it with every change.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "faults"))

from home_assistant import PYTHON
from rig import Row, times
from troubles import ROUND_HOURS, live_through

TITLE = "Two days in Home Assistant"
PROMISE = "Home Assistant's energy is what was counted, and never falls"
MEASURED = "kWh in Home Assistant"

ROUNDS, RATE = 8, 240


def run(part, rig):
    """Do it; return what was found."""
    assert PYTHON.exists(), "run: make test-home-assistant"
    rounds = times(ROUNDS, part)
    found = live_through(Path(rig.directory), rounds, RATE)
    total = round(found.reported + found.added, 6)
    assert found.published == found.shown == total, found
    assert found.falls == 0, found
    assert found.added > 0, found
    assert found.hours >= rounds * ROUND_HOURS - 1, found
    assert not found.issues, found.issues
    assert not found.complaints, found.complaints
    return [
        Row("hours of Home Assistant's clock, as many times as fast as the world's", f"{rounds * ROUND_HOURS}, {RATE}"),
        Row("times that each trouble came", f"{rounds}"),
        Row("states that were published", f"{found.states:,}"),
        Row("of them with less energy than the one before", f"{found.falls}", "0"),
        Row("kWh in --report", f"{found.reported:.3f}"),
        Row("kWh that were added to it after cards were put back", f"{found.added:.3f}"),
        Row("kWh at the broker", f"{found.published:.3f}", f"{total:.3f}"),
        Row("kWh in Home Assistant", f"{found.shown:.3f}", f"{total:.3f}"),
        Row("hours in its statistics", f"{found.hours}"),
        Row("issues that its energy dashboard has with the meter", f"{len(found.issues)}", "0"),
        Row("warnings and errors about the meter in its log", f"{len(found.complaints)}", "0"),
    ]
