"""
What the modules of the fault campaign share: a place on a disk, servers, a kernel, a seed.

Each fault is a module beside this one with a docstring (what is done, and what must hold) and

- ``TITLE``: the heading in docs/reliability.rst;
- ``PROMISE``, ``MEASURED``: what users are promised, and the beginning of the row that shows it, for the summary there;
- ``run(part, rig)``: does it, 1.0 of the whole numbers or less, and returns a list of :class:`Row`.

What does not hold raises AssertionError with the evidence: no row says that something was missed.
"""

import contextlib
import functools
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path[:0] = [
    str(TOP / path) for path in ("src", "tests", "tests/kernel", "tools") if str(TOP / path) not in sys.path
]

from guest import kernel_path  # noqa: E402 - found by the line before, as is what follows
from hardware import machine  # noqa: E402, F401 - for campaign.py
from influxd import Influxd, influxd_path  # noqa: E402
from results import list_table, sections_of, summary  # noqa: E402, F401 - for campaign.py

from powermeter.journal.history import History  # noqa: E402, F401
from powermeter.journal.journal import Journal  # noqa: E402
from powermeter.journal.journal import Row as JournalRow  # noqa: E402
from powermeter.meter import NS_PER_S  # noqa: E402

#: The modules, in the order of docs/reliability.rst.
FAULTS = (
    "kills",
    "changes",
    "powercut",
    "stick",
    "wear",
    "outage",
    "servers",
    "clock",
    "disk",
    "damage",
    "years",
    "bugs",
    "hostile",
    "soak",
)


class Row(NamedTuple):
    """A row of a fault's table: what was measured, what was found, what must hold ("" for a plain figure)."""

    what: str
    found: str
    bound: str = ""


class Rig:
    """
    What one run of a fault gets; a context manager.

    The directory is new, and on a disk: under $TMPDIR, else /var/tmp. It is
    removed at the end, and left after a failure.
    """

    def __init__(self, name, seed=None):
        self.name = name
        #: With the same seed the same random moments are chosen.
        self.seed = random.SystemRandom().randrange(10**6) if seed is None else seed
        self.random = random.Random(f"{name} {self.seed}")
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        place = os.environ.get("TMPDIR") or "/var/tmp"
        self.directory = Path(tempfile.mkdtemp(prefix=f"power-{self.name}-", dir=place))
        print(f"{self.name}: seed {self.seed}, in {self.directory}", flush=True)
        return self

    def __exit__(self, kind, error, trace):
        self._stack.close()
        if kind is None:
            shutil.rmtree(self.directory)

    @functools.cached_property
    def influxd(self):
        """A real InfluxDB, started when it is asked for."""
        assert influxd_path().exists(), "run: make servers"
        return self._stack.enter_context(Influxd(self.directory / "influxd"))

    @functools.cached_property
    def kernel(self):
        """The path of the guest's kernel (tests/kernel)."""
        path = kernel_path()
        assert path.exists(), "run: make test-kernel"
        return path


def times(whole, part, least=1):
    """*whole* times *part* in whole numbers, and never fewer than *least*."""
    return max(least, round(whole * part))


def differences(found, wanted):
    """Where two lists differ: what is missing, what is there that should not be, or is out of its order."""
    if found == wanted:
        return []
    missing, surplus = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
    return [
        *(("missing", one) for one in missing.elements()),
        *(("surplus", one) for one in surplus.elements()),
    ] or [("out of order", pair) for pair in zip(found, wanted, strict=True) if pair[0] != pair[1]]


def fill(data_dir, writers, pulses, per_s):
    """
    Write a journal with *pulses* pulses of "house", 1,000 impulses per kWh, that wait for each of *writers*.

    They came evenly, *per_s* a second, up to now. It is as if the program had run that long with all services away.
    """
    data_dir.mkdir(parents=True)
    spacing_ns = NS_PER_S // per_s
    start_ns = time.time_ns() - (pulses + per_s) * spacing_ns
    with Journal(str(data_dir / "journal.db")) as journal:
        meter = journal.enter("house", 1000)
        for writer in writers:
            journal.add_cursor(writer).close()
        for first in range(1, pulses + 1, 5000):
            numbers = range(first, min(first + 5000, pulses + 1))
            journal.append(
                [JournalRow(meter.name, n, start_ns + n * spacing_ns, spacing_ns if n > 1 else None) for n in numbers]
            )


def run(name, part, seed=None):
    """The title, docstring and rows of the fault *name*, done in *part*."""
    fault = importlib.import_module(name)
    with Rig(name, seed) as rig:
        rows = fault.run(part, rig)
    assert rows, f"{name}: found nothing"
    for row in rows:
        print(f"  {row.what}: {row.found}" + (f" ({row.bound})" if row.bound else ""), flush=True)
    return fault.TITLE, fault.__doc__, rows
