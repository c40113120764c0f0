"""A database of the user's own, and its rows: a place for the contract of all writers."""

import contextlib
import sqlite3


class SqlitePlace:
    """A database in the directory of a test."""

    kind = "sqlite"

    def __init__(self, request):
        self.path = request.getfixturevalue("tmp_path") / "power.sqlite"
        self.options = {"path": str(self.path)}
        self.unreachable = {"path": str(self.path.parent / "missing" / "power.sqlite")}

    def stored(self):
        """The rows, or None where there is no database yet."""
        if not self.path.exists():
            return None
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            return database.execute("SELECT * FROM power ORDER BY meter, number").fetchall()
