"""
The fault campaign in its whole numbers: what docs/reliability.rst says is found by this.

    python tests/faults/campaign.py [--write] [--seed N] [--part P] [fault ...]     (make campaign: all, and written)

Everything runs on loopback, with its data in a temporary directory (under $TMPDIR, else /var/tmp, which is a disk).
It ends with status 1 and writes nothing where something does not hold.
"""

import argparse
import datetime as dt
import inspect
import os
import platform
import random
import signal
import sqlite3
import sys
import time
import traceback
from pathlib import Path

from rig import FAULTS, TOP, run

PAGE = TOP / "docs" / "reliability.rst"


def machine():
    """CPU, cores, kernel, Python and SQLite, in a line."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def section(title, text, rows):
    """A heading, what is done and what must hold, and the table."""
    lines = [title, "-" * len(title), "", inspect.cleandoc(text), ""]
    lines += [".. list-table::", "   :header-rows: 1", ""]
    for row in [("what", "found", "must hold"), *rows]:
        lines += [("   * - " if i == 0 else "     - ") + cell for i, cell in enumerate(row)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def document(sections, seed, seconds):
    """docs/reliability.rst."""
    head = f"""\
Reliability
===========

.. Written by ``make campaign``: do not edit.

What was done to the program, what must hold then, and what was found. The
program is the shipped one, in processes of its own; InfluxDB is a real one;
where power is cut, a real kernel with a real ext4 is.

Made on {dt.datetime.now(dt.UTC).date()} in {seconds / 60:.0f} minutes by::

    .venv-test/bin/python tests/faults/campaign.py --write --seed {seed}

on: {machine()}.

A tenth of it runs with every change (``make test-faults``). Where a row's last
cell says what must hold, the run ends without a page if it does not.

"""
    return head + "\n".join(sections)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("faults", nargs="*", metavar="fault", help=f"of {', '.join(FAULTS)}; none: all")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.rst; goes with all of all faults")
    parser.add_argument("--seed", type=int, help="repeat the random moments of a run")
    parser.add_argument("--part", type=float, default=1.0, help="of the whole numbers; default: %(default)s")
    args = parser.parse_args()
    if unknown := [fault for fault in args.faults if fault not in FAULTS]:
        parser.error(f"no such fault: {', '.join(unknown)}")
    if args.write and (args.faults or args.part != 1.0):
        parser.error("--write goes with all of all faults")
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Under nohup. What is ignored stays so in all that is started here, and what a SIGHUP does is tried, too.
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    print(machine())
    started_s = time.monotonic()
    sections, failed = [], []
    for fault in args.faults or FAULTS:
        try:
            sections.append(section(*run(fault, args.part, seed)))
        except Exception:  # noqa: BLE001 - the others' figures are wanted too; it is told, and nothing is written
            traceback.print_exc()
            failed.append(fault)
    seconds = time.monotonic() - started_s
    print(f"\ndoes not hold: {', '.join(failed)}" if failed else f"\nall holds; {seconds / 60:.0f} minutes")
    if args.write and not failed:
        PAGE.write_text(document(sections, seed, seconds))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
