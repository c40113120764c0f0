"""
Journals of two meters, damaged: changed bytes, pages of zeros, pages of noise, a missing end.

Each is opened as the program opens it. It must open, the damaged file must be kept beside it byte for byte under a
dated name, the register must not be one that never was, and new pulses must be accepted. Where only pages of pulses are
damaged, the register must be unchanged.
"""

import contextlib
import shutil
import sqlite3

from rig import NS_PER_S, Journal, JournalRow, Row

from powermeter.journal import salvage

TITLE = "A damaged journal"
PROMISE = "A damaged journal opens again, and the damaged file is kept"
MEASURED = "opened, intact again, and accepted pulses"

TRIES, PULSES, WAITING = 400, 30_000, 2000
METERS = {"house": 1000, "pump": 800}
PAGE = 4096
#: The pages of the tables that tell names, constants and cursors come first.
PAGES_OF_TABLES = 16


def run(part, rig):
    tries = round(TRIES * part)
    whole = rig.directory / "whole.db"
    _make(whole)
    opened, aside, exact, saved, waiting = 0, 0, 0, [], []
    for number in range(tries):
        path = rig.directory / str(number) / "journal.db"
        path.parent.mkdir()
        shutil.copy(whole, path)
        kind, of_pulses = _damage(path, number, rig.random)
        content = path.read_bytes()
        with salvage.open_journal(str(path), METERS, suspect=True) as journal:
            known = {name: journal.enter(name, impulses) for name, impulses in METERS.items()}
            counts = {name: found.count for name, found in known.items()}
            assert max(counts.values()) <= PULSES, f"{kind}, seed {rig.seed}: {counts}, more than there ever were"
            for found in known.values():
                journal.append([JournalRow(found.name, found.count + 1, 2**60, None)])
            opened += 1
        set_aside = list(path.parent.glob("journal.db.damaged-*"))
        if set_aside:
            assert [name.read_bytes() for name in set_aside] == [content], f"{kind}: what was set aside is another file"
            aside += 1
        if of_pulses:
            assert set(counts.values()) == {PULSES}, f"{kind}, seed {rig.seed}: the register went back: {counts}"
            exact += 1
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), kind
            saved.append(connection.execute("SELECT count(*) FROM pulses").fetchone()[0] - len(METERS))
        waiting.append(sum(counts.values()) / 2 / PULSES)
        shutil.rmtree(path.parent)
    assert aside > tries // 2, "too few were damaged where it is noticed"
    return [
        Row("journals damaged", f"{tries}"),
        Row("opened, intact again, and accepted pulses", f"{opened}", "all"),
        Row("set aside, byte for byte; the others were readable without repair", f"{aside}"),
        Row("damaged only in pages of pulses: registers unchanged", f"{exact}", "all of these"),
        Row("register of all, as a share of what it was, on average", f"{100 * sum(waiting) / tries:.1f} %"),
        Row(
            "pulses saved, as a share of what there were, on average",
            f"{100 * sum(saved) / tries / len(METERS) / PULSES:.1f} %",
        ),
    ]


def _make(path):
    with Journal(str(path)) as journal:
        keys = [journal.enter(name, impulses).name for name, impulses in METERS.items()]
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            for first in range(1, PULSES, 1000):
                journal.append(
                    [
                        JournalRow(key, number, number * NS_PER_S, NS_PER_S)
                        for number in range(first, first + 1000)
                        for key in keys
                    ]
                )
                if first + 1000 <= PULSES - WAITING:
                    cursor.advance(cursor.read(10_000), "1 2")
                    cursor.commit()


def _damage(path, number, chance):
    """Damage the file; return how, and whether only pages of pulses but the last are."""
    content = bytearray(path.read_bytes())
    kind = ("bytes", "zeros", "noise", "cut off")[number % 4]
    if kind == "cut off":
        del content[chance.randrange(len(content)) :]
        path.write_bytes(content)
        return kind, False
    of_pulses = number % 8 < 4
    pages = len(content) // PAGE
    for _ in range(chance.choice([1, 3, 20])):
        # The end of each meter's pulses is damaged only where the register may go back.
        page = chance.randrange(PAGES_OF_TABLES, pages * 9 // 10) if of_pulses else chance.randrange(pages)
        if kind == "bytes":
            for _ in range(20):
                content[page * PAGE + chance.randrange(PAGE)] = chance.randrange(256)
        else:
            content[page * PAGE : (page + 1) * PAGE] = bytes(PAGE) if kind == "zeros" else chance.randbytes(PAGE)
    path.write_bytes(content)
    return kind, of_pulses
