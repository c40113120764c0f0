"""
Pulses into the journal, on a thread of its own: a disk that hangs holds up nothing but itself.

Owns the tail of the journal and when it is written.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable

from powermeter.journal import Journal, Row

log = logging.getLogger(__name__)


class Keeper:
    """
    Keeps the pulses that stand in :attr:`uncommitted`, until :meth:`stop`.

    A pulse is in *journal* at most *commit_interval_s* after it came: at once
    if that long nothing was written, else together with all that come within
    it. *on_commit* is called after a commit, *on_state* when :attr:`failing`
    changes; both on the keeper's thread.
    """

    def __init__(
        self,
        journal: Journal,
        commit_interval_s: float,
        *,
        on_commit: Callable[[], None],
        on_state: Callable[[], None],
    ) -> None:
        #: Pulses that are not in the journal yet. The recorder appends, the keeper cuts off what is written; each in
        #: one step of the interpreter, so that a copy of it is whole at any time.
        self.uncommitted: list[Row] = []
        #: Why the journal can't be written; "" while it can.
        self.failing = ""
        self._journal = journal
        self._commit_interval_s = commit_interval_s
        self._on_commit, self._on_state = on_commit, on_state
        self._pulses = threading.Event()
        self._stopping = threading.Event()

    def wake(self) -> None:
        """Tell that there are pulses; from the recorder's thread."""
        if not self._pulses.is_set():
            self._pulses.set()

    def stop(self) -> None:
        """Let :meth:`run` end once all is written, or could not be; no pulse may come after this."""
        self._stopping.set()
        self._pulses.set()

    def run(self) -> None:
        """Write until stopped."""
        while not self._stopping.is_set():
            self._pulses.wait()
            self._pulses.clear()
            while self.uncommitted and not self._stopping.is_set():
                self._commit()
                # Not woken by what comes meanwhile: in a steady flow that is one wake-up a commit.
                self._stopping.wait(self._commit_interval_s)
        # What came while the last commit was under way.
        if self.uncommitted:
            self._commit()

    def _commit(self) -> None:
        """Write what is uncommitted; where the disk fails it stays, and is tried again after the interval."""
        rows = self.uncommitted.copy()
        try:
            self._journal.append(rows)
        except sqlite3.Error as error:
            if not self.failing:
                log.error("journal: %s: counting goes on, pulses are kept in memory", error)
            self._set_failing(str(error))
        else:
            del self.uncommitted[: len(rows)]
            if self.failing:
                log.info("journal: written again, %d pulses were kept in memory", len(rows))
            self._set_failing("")
            self._on_commit()

    def _set_failing(self, reason: str) -> None:
        changed = bool(reason) != bool(self.failing)
        self.failing = reason
        if changed:
            self._on_state()
