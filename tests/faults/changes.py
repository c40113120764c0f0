"""
The program is killed by SIGKILL while the number of impulses per kWh changes.

It counts 20 pulses per second. Again and again the settings get another constant, SIGHUP makes the program read them,
and a random moment later it is killed: before the change takes effect, while it is written, or after it. A change and
the pulses before it are one transaction. So, after each kill, every constant in the journal begins at an existing
pulse, with the register that the pulses before it add up to, and the next start continues from that register.
"""

import contextlib
import itertools
import os
import signal
import sqlite3
import time

from program import PATIENCE_S, Program, wait_until
from rig import Row, times

TITLE = "SIGKILL around a change"
PROMISE = "A change of the constant and the register never disagree, whenever the program is killed"
MEASURED = "starts after a kill that continued from that register"

KILLS = 200

#: Of the register, in kWh: the order in which floats are added.
NEAR_KWH = 1e-9

SETTINGS = """
COMMIT_INTERVAL = 0.1
METERS = {{"house": {{"pin": 18, "impulses_per_kwh": {impulses}, "max_watts": 500000}}}}
"""


def run(part, rig):
    """Do it in *part*."""
    kills = times(KILLS, part)
    changed = 0
    with Program(rig.directory / "power", SETTINGS.format(impulses=1000)) as program:
        journal = program.data_dir / "simulated" / "journal.db"
        kwh = 0.0
        for impulses in itertools.islice(itertools.cycle([800, 3200, 1000]), kills):
            pid = program.start("--simulate", "72000")
            now = program.status()["meters"]["house"]
            assert now["register_kwh"] >= kwh - NEAR_KWH, (now, kwh)
            program.set(SETTINGS.format(impulses=impulses))
            os.kill(pid, signal.SIGHUP)
            time.sleep(rig.random.uniform(0, 0.4))
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not _lives(pid), PATIENCE_S)
            constants, last = _read(journal)
            changed = len(constants)
            kwh = register(constants, last)
    return [
        Row("kills", f"{kills:,}", ""),
        Row(
            f"constants in the journal in the end, {changed:,}: begin at a pulse that is there, with the register that "
            "the pulses before it make",
            "all",
            "all",
        ),
        Row("starts after a kill that continued from that register", f"{kills - 1:,} of {kills - 1:,}", "all"),
    ]


def _lives(pid):
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


def _read(path):
    """The constants (from which count, impulses per kWh, register there) and the last count, read with SQLite only."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        constants = connection.execute(
            "SELECT from_count, impulses_per_kwh, register_kwh FROM constants ORDER BY from_count"
        ).fetchall()
        (last,) = connection.execute("SELECT coalesce(max(count), 0) FROM pulses").fetchone()
    return constants, last


def register(constants, last):
    """The register after pulse *last*; asserts that each constant begins where the pulses before it end."""
    kwh = 0.0
    for (count, impulses, begins_kwh), (behind, _, _) in itertools.pairwise([*constants, (last, 0, 0)]):
        assert abs(begins_kwh - kwh) < NEAR_KWH, (constants, last)
        assert count <= last, (constants, last)
        kwh += (behind - count) / impulses
    return kwh
