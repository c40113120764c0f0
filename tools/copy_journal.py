"""
Copies the journal while the program runs: copy_journal.py JOURNAL COPY.

It needs nothing but Python. An earlier copy is replaced only once the new one is complete and was found undamaged.
"""

import os
import sqlite3
import sys


def copy_journal(source: str, copy: str) -> str:
    """Copy the journal *source* to *copy*; return a line that says what came of it, or raise what went wrong."""
    # Opened for reading and writing, but not created: a path with a typing error makes no empty journal.
    reading = sqlite3.connect(f"file:{source}?mode=rw", uri=True, timeout=60)
    writing = sqlite3.connect(f"{copy}.new")
    reading.backup(writing)
    (found,) = writing.execute("PRAGMA integrity_check").fetchone()
    (pulses,) = writing.execute("SELECT count(*) FROM pulses").fetchone()
    # One file, without others beside it that would have to go with it.
    writing.execute("PRAGMA journal_mode = DELETE")
    writing.close()
    if found != "ok":
        raise ValueError(f"the copy is damaged ({found})")
    os.replace(f"{copy}.new", copy)
    return f"{copy}: ok, {pulses:,} pulses"


def main(words: list[str]) -> None:
    """Copy what *words* name, or end with one line that says why not."""
    if len(words) != 2:
        sys.exit("usage: copy_journal.py JOURNAL COPY")
    # The copy is for its owner only: the journal shows when somebody is at home.
    os.umask(0o077)
    try:
        sys.stdout.write(f"{copy_journal(*words)}\n")
    except (sqlite3.Error, OSError, ValueError) as error:
        sys.exit(f"{words[0]}: not copied to {words[1]}: {error}; an earlier copy is unchanged")


if __name__ == "__main__":
    main(sys.argv[1:])
