"""
The real Home Assistant: it finds the meter, and its energy is ours after six hours of its clock with every trouble.

Its clock runs 120 times as fast as the world, so that its statistics of hours can be seen.
"""

import pytest
from home_assistant import PYTHON
from troubles import live_through

RATE = 120


@pytest.fixture(scope="module", autouse=True)
def built():
    if not PYTHON.exists():
        pytest.fail("run: make test-home-assistant", pytrace=False)


def test_six_hours(tmp_path):
    """
    It finds the meter, with the right units and classes; and after all the troubles its total is the report's.

    An outage of the broker, a restart of Home Assistant, of the broker and of the program, a SIGKILL, a reading,
    another label, and a card put back from a backup: the energy never falls, and Home Assistant's log says nothing
    about the meter. Its energy dashboard shows the same total in a browser.
    """
    found = live_through(tmp_path, 1, RATE)
    assert found.hours == 6
    assert found.falls == 0
    assert found.added > 0
    assert found.published == found.shown == round(found.reported + found.added, 6)
    assert found.issues == []
    assert found.complaints == []
