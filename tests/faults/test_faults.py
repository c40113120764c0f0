"""The fault campaign, a tenth of it: ``make test-faults``. The whole numbers: campaign.py."""

import os
from pathlib import Path

import pytest
from rig import FAULTS, run

PART = 0.1


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault):
    """What the module's docstring says holds. FAULT_SEED repeats the random moments of a run."""
    seed = os.environ.get("FAULT_SEED")
    run(fault, PART, None if seed is None else int(seed))


def test_every_fault_is_run():
    """No module of a fault is left out."""
    here = Path(__file__).parent
    assert {path.stem for path in here.glob("*.py") if "\nTITLE = " in path.read_text()} == set(FAULTS)
