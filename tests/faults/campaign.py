"""
The whole fault campaign, which measures what docs/reliability.rst reports.

    python tests/faults/campaign.py [--write] [--seed N] [--part P] [fault ...]     (make campaign: all, and written)

--write puts each fault's table into docs/reliability.rst, where it replaces the previous one.

Everything runs on loopback, with its data in a temporary directory (under $TMPDIR, else /var/tmp, which is a disk).
It ends with status 1 where something does not hold, and writes nothing of that.
"""

import argparse
import datetime as dt
import importlib
import inspect
import random
import signal
import sys
import time
import traceback

from rig import FAULTS, TOP, list_table, machine, run, sections_of, summary

sys.path.append(str(TOP / "tests" / "home_assistant"))

PAGE = TOP / "docs" / "reliability.rst"

#: Those of test_faults.py, and one of which make test-home-assistant runs a part, as it needs another Python.
ALL = (*FAULTS, "two_days")


def section(fault, seed):
    """Run *fault* whole; return its heading and its text: what is done and must hold, the table, how it was made."""
    started_s = time.monotonic()
    title, text, rows = run(fault, 1.0, seed)
    minutes = max(1, round((time.monotonic() - started_s) / 60))
    lines = [title, "-" * len(title), "", inspect.cleandoc(text), ""]
    lines += list_table([("what", "found", "must hold"), *rows])
    command = f"``.venv-test/bin/python tests/faults/campaign.py --write --seed {seed} {fault}``"
    today = dt.datetime.now(dt.UTC).date()
    lines += ["", f"Made on {today} in {minutes} min by {command} on: {machine()}."]
    return title, "\n".join(line.rstrip() for line in lines) + "\n"


HEAD = """\
Reliability
===========

.. Written by ``make campaign``: do not edit.

What was done to the program, what must hold, and what was found. The program is the real one, in its own processes, and
InfluxDB is real; where the power is cut, a real kernel writes to a real ext4 file system.

A tenth of it runs with every change (``make test-faults``). Where a row says what must hold, nothing is written unless
it does hold.

"""


def document(new, before):
    """docs/reliability.rst with the sections *new*, by title, in place of those that the text *before* has of them."""
    sections = sections_of(before) | new
    faults = [importlib.import_module(fault) for fault in ALL]
    promises = [(fault.PROMISE, fault.TITLE, fault.MEASURED) for fault in faults]
    return (
        HEAD + summary(promises, sections, goal=2) + "\n".join(sections[f.TITLE] for f in faults if f.TITLE in sections)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("faults", nargs="*", metavar="fault", help=f"of {', '.join(ALL)}; none: all")
    parser.add_argument("--write", action="store_true", help="put what was found into docs/reliability.rst")
    parser.add_argument("--seed", type=int, help="repeat the random moments of a run")
    parser.add_argument("--part", type=float, default=1.0, help="of the whole numbers; default: %(default)s")
    args = parser.parse_args()
    if unknown := [fault for fault in args.faults if fault not in ALL]:
        parser.error(f"no such fault: {', '.join(unknown)}")
    if args.write and args.part != 1.0:
        parser.error("--write goes with the whole numbers")
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Under nohup. What is ignored stays so in all that is started here, and what a SIGHUP does is tried, too.
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    print(machine())
    failed = []
    for fault in args.faults or ALL:
        try:
            if args.write:
                title, text = section(fault, seed)
                PAGE.write_text(document({title: text}, PAGE.read_text() if PAGE.exists() else ""))
            else:
                run(fault, args.part, seed)
        except Exception:  # noqa: BLE001 - reported; the other faults still run, and nothing is written of this one
            traceback.print_exc()
            failed.append(fault)
    print(f"\ndoes not hold: {', '.join(failed)}" if failed else "\nall holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
