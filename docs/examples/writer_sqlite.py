"""One row per pulse in a table of an SQLite database of the user's own."""

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Sequence

from powermeter.errors import UnreachableError
from powermeter.meter import Pulse
from powermeter.settings.schema import REQUIRED, Key, absolute_path, number
from powermeter.writers import Pace, Receipt

#: No library is needed beside Python's own.
LIBRARY = None

#: Its keys in the settings.
KEYS = {"path": Key(REQUIRED, absolute_path), "timeout": Key(10, number(0.1, 600))}

TABLE = """
    CREATE TABLE IF NOT EXISTS power (
        meter TEXT, number INTEGER, time_ns INTEGER, watts REAL, register_kwh REAL, PRIMARY KEY (meter, number)
    )
"""


class SqliteWriter:
    """Adds to the table ``power`` of the database *path*; its arguments are the keys of the settings."""

    def __init__(self, *, path: str, timeout: float) -> None:
        #: At most 1,000 pulses at once, and a transaction every 10 s at most: each is a flush of the card.
        self.pace = Pace(batch_size=1000, interval_s=10)
        self._path = path
        self._timeout = timeout

    def deliver(self, pulses: Sequence[Pulse], _place: str, /) -> Receipt:
        """Add *pulses* in one transaction: all of them, or none."""
        rows = [(p.meter, p.number, p.time_ns, p.watts, p.register_kwh) for p in pulses]
        try:
            # Not kept open: whoever wants to move the file away finds it closed.
            with contextlib.closing(sqlite3.connect(self._path, timeout=self._timeout)) as database, database:
                database.execute(TABLE)
                # OR REPLACE: after a crash pulses come again that are there already.
                database.executemany("INSERT OR REPLACE INTO power VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise UnreachableError(f"{self._path}: {error}") from error
        return Receipt(len(pulses))

    def check(self, _pulses: Sequence[Pulse] = (), /) -> str:
        """Whether the database could be written, or made; nothing is."""
        if not os.path.exists(self._path):
            directory = os.path.dirname(self._path)
            if not os.access(directory, os.W_OK):
                raise UnreachableError(f"{directory}: is missing, or can't be written by this user")
            return f"{self._path} can be made"
        try:
            address = f"file:{urllib.parse.quote(self._path)}?mode=rw"
            with contextlib.closing(sqlite3.connect(address, timeout=self._timeout, uri=True)) as database:
                database.execute("BEGIN IMMEDIATE")
                database.rollback()
        except sqlite3.Error as error:
            raise UnreachableError(f"{self._path}: {error}") from error
        return self._path

    def close(self) -> None:
        """Nothing is left open."""
