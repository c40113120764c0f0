"""
The past of a simulated household: a new journal begins with some weeks of pulses, so that there is something to show.

The journal is made beside its place and moved there once it is whole, so that a kill leaves nothing half made. That
takes seconds, on a slow machine a minute: it is work for the keeper's thread.
"""

import contextlib
import itertools
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from powermeter.boards.simulated import PAST_DAYS, flashes, past
from powermeter.errors import JournalError, StoppedError
from powermeter.journal import salvage
from powermeter.journal.journal import Journal, Row
from powermeter.journal.tables import BESIDE, Stopped
from powermeter.meter import NS_PER_S

log = logging.getLogger(__name__)

#: So many pulses are written at a time: between two of these a stop is noticed, on a slow card after a second.
AT_ONCE = 5000


def is_new(path: str) -> bool:
    """Whether there is no journal at *path* yet, nor one that was salvaged and waits for its place."""
    return not any(os.path.exists(path + suffix) for suffix in ("", salvage.NEW))


def open_journal(until_s: float, path: str, meters: Mapping[str, float], *, stopped: Stopped, suspect: bool) -> Journal:
    """
    The journal at *path*; where it is new, with the pulses that a household's meters gave before *until_s*.

    *until_s* is in s since 1970 (UTC), *meters* gives the impulses per kWh of each meter by its name. The rest is as
    for :func:`powermeter.journal.salvage.open_journal`, and so are the errors.
    """
    if is_new(path):
        making = path + ".making"
        _remove(making)  # what a kill has left
        try:
            _make(making, until_s, meters, stopped)
            os.rename(making, path)
        except (OSError, sqlite3.Error) as error:
            _remove(making)
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"{path}: its past can't be made: {error}") from error
        log.info("journal: it begins with %d days of an invented household", PAST_DAYS)
    return salvage.open_journal(path, meters, suspect=suspect, stopped=stopped)


def _make(making: str, until_s: float, meters: Mapping[str, float], stopped: Stopped) -> None:
    with Journal(making, stopped=stopped) as journal:
        for name, impulses_per_kwh in meters.items():
            journal.enter(name, impulses_per_kwh)
            begin_s, load = past(until_s, name)
            journal.begin_cover(name, 0, begin_s * NS_PER_S)
            rows = _rows(name, flashes(load, impulses_per_kwh, begin_s * NS_PER_S))
            while some := list(itertools.islice(rows, AT_ONCE)):
                if stopped():
                    raise StoppedError(f"{making}: stopped before it was complete: the next start makes it again")
                # Their times are those of the wall clock already.
                journal.append(some)
            journal.end_cover(name, round(until_s * NS_PER_S))


def _rows(name: str, times_ns: Iterable[int]) -> Iterator[Row]:
    """The pulses of the meter *name* at *times_ns*, counted from 1."""
    before_ns = None
    for number, at_ns in enumerate(times_ns, 1):
        yield Row(name, number, at_ns, None if before_ns is None else at_ns - before_ns)
        before_ns = at_ns


def _remove(making: str) -> None:
    for name in (making, *(making + suffix for suffix in BESIDE)):
        with contextlib.suppress(OSError):
            os.unlink(name)
