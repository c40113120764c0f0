"""
Pulses into the journal, on a thread of its own: a disk that hangs holds up nothing but itself.

Owns the tail of the journal and when it is written; when its pulses get their
time, and when they are thinned.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter

from powermeter.clock import Clock, ahead_ns
from powermeter.errors import PowerError
from powermeter.journal import Journal, Row, is_damage, is_of_the_disk
from powermeter.meter import NS_PER_S

log = logging.getLogger(__name__)

#: The most pulses that are kept in memory while the journal can't be written. Of what comes then each meter's newest is
#: kept, for the count that it has: the register stays right, and the others have neither time nor power of their own.
MOST_UNCOMMITTED = 100_000

#: How often the clock is looked at while it is waited for, in s.
CLOCK_S = 1.0

#: How often it is tried to open the journal anew, in s: what is damaged is read whole for that.
TRY_S = 30.0

#: How often old pulses are looked for, in s.
THIN_S = 3600.0

DAY_NS = 86400 * NS_PER_S


class Keeper:
    """
    Keeps the pulses that :meth:`keep` is given, until :meth:`stop`.

    A pulse is in *journal* at most *commit_interval_s* after it came: at once
    if that long nothing was written, else together with all that come within
    it. Their times are not settled while *clock* is waited for. Pulses older
    than *keep_days* are thinned. *unwritten*: pulses that another keeper could
    not write, and *dropped* how many found no place there. With *unopened*,
    *journal* only stands in for the one that can't be opened, for that reason;
    in *try_in_s* it is tried. On the keeper's thread, *on_commit* is called after a commit,
    *on_state* when :attr:`failing` changes, and *on_lost* once the journal has
    to be opened anew, which *try_anew* has tried before where it was not open
    or another file is there; nothing more is written after that. Raises
    :exc:`sqlite3.Error` where the journal can't be written at once.
    """

    def __init__(
        self,
        journal: Journal,
        commit_interval_s: float,
        *,
        clock: Clock,
        keep_days: float,
        unwritten: Iterable[Row] = (),
        dropped: int = 0,
        unopened: str = "",
        try_in_s: float = 0.0,
        on_commit: Callable[[], None],
        on_state: Callable[[], None],
        on_lost: Callable[[], None],
        try_anew: Callable[[], None],
    ) -> None:
        #: Pulses that are not in the journal yet. The recorder appends, the keeper cuts off what is written; each in
        #: one step of the interpreter, so that a copy of it is whole at any time.
        self.uncommitted: list[Row] = list(unwritten)
        #: Each meter's newest of those that found no place there; and how many had to go.
        self._newest: dict[str, Row] = {}
        self.dropped = dropped
        #: Why the journal can't be written; "" while it can.
        self.failing = unopened
        #: Why there is no journal yet; "" where there is.
        self.unopened = unopened
        #: Whether the journal has to be opened anew, whether damage was met in it, and whether what is at its path is
        #: looked over just now.
        self.lost = False
        self.damaged = False
        self.opening = False
        self._journal = journal
        self._commit_interval_s = commit_interval_s
        self._clock = clock
        self._keep_ns = round(keep_days * DAY_NS)
        self._thin_at_s = self._settle_at_s = time.monotonic()
        self._try_at_s = time.monotonic() + try_in_s
        self._on_commit, self._on_state = on_commit, on_state
        self._on_lost, self._try_anew = on_lost, try_anew
        self._pulses = threading.Event()
        self._stopping = threading.Event()
        #: Whether pulses get the time that they keep; those of an earlier run of the program too, now.
        self.settled = False
        if not clock.waits_s:
            self._give_times()

    def keep(self, row: Row) -> None:
        """Take a pulse; from the recorder's thread."""
        if len(self.uncommitted) < MOST_UNCOMMITTED:
            self.uncommitted.append(row)
        else:
            # Each takes the place of the one before it.
            self.dropped += row.meter in self._newest
            self._newest[row.meter] = row

    def waiting(self) -> list[Row]:
        """All that is not in the journal yet, each meter's in the order of its count; from any thread."""
        return _in_order(self.uncommitted.copy(), self._newest.copy())

    def wake(self) -> None:
        """Tell that there are pulses; from the recorder's thread."""
        if not self._pulses.is_set():
            self._pulses.set()

    def stop(self) -> None:
        """Let :meth:`run` end once all is written, or could not be; no pulse may come after this."""
        self._stopping.set()
        self._pulses.set()

    def suspect(self, reason: str) -> None:
        """Tell that damage was met in the journal, by another's reading; from any thread."""
        if not self.damaged:
            log.error("journal: %s", reason)
            self.damaged = True
            self._pulses.set()

    def run(self) -> None:
        """Write until stopped."""
        if self.failing:
            self._say_failing()
            self._on_state()
        while not self._stopping.is_set():
            self._settle()
            if self.lost or not self._has_work:
                self._pulses.wait(None if self.settled else CLOCK_S)
            self._pulses.clear()
            while self._has_work and not self._stopping.is_set() and not self.lost:
                began_s = time.monotonic()
                self._commit()
                self._thin()
                # Not woken by what comes meanwhile: in a steady flow that is one wake-up a commit. A try that fails may
                # take longer than the interval: then there is one between two tries.
                took_s = 0.0 if self.failing else time.monotonic() - began_s
                self._stopping.wait(max(0.0, self._commit_interval_s - took_s))
                self._settle()
        # What came while the last commit was under way.
        self.save()

    @property
    def _has_work(self) -> bool:
        # A journal that fails is tried without a pulse too, so that lamp and status tell when it does no more.
        return bool(self.uncommitted or self._newest or self.damaged or self.failing)

    def save(self) -> None:
        """Write what is uncommitted now; on the keeper's thread, or once that has ended."""
        if (self.uncommitted or self._newest) and not self.lost:
            self._commit()

    def _commit(self) -> None:
        """Write what is uncommitted; where the disk fails it stays, and is tried again after the interval."""
        kept, newest = self.uncommitted.copy(), self._newest.copy()
        try:
            if self.unopened:
                self._try("it can be opened")
                return
            if not self._journal.is_in_place:
                self._look_at_path()
                return
            if self.damaged:
                self._look_at_damage()
                return
            if self._journal.is_read_only:
                self._fail("its disk is read-only")
                return
            self._journal.append(_in_order(kept, newest), ahead_ns(), settled=self.settled)
        except sqlite3.Error as error:
            if self.lost:
                return  # left behind in this commit: another writes what it could not
            if self.failing and is_of_the_disk(error) and self._journal.can_be_written_anew():
                # The disk came back, and what was open on it is of no use any more.
                self._lose("it can be written again")
            else:
                self._failed(error)
        else:
            self._committed(kept, newest)

    def _committed(self, kept: list[Row], newest: Mapping[str, Row]) -> None:
        del self.uncommitted[: len(kept)]
        written = 0
        for meter, row in newest.items():
            # One that came meanwhile stays; it took the place of one that was written, and so did not have to go.
            if (last := self._newest.pop(meter)) is not row:
                self._newest.setdefault(meter, last)
                written += 1
        if self.failing:
            log.info("journal: written again, %d pulses were kept in memory", len(kept))
        if self.dropped > written:
            log.warning(
                "journal: %d pulses were too many for the memory: counted, with neither time nor power",
                self.dropped - written,
            )
        self.dropped = 0
        self._set_failing("")
        self._on_commit()

    def _look_at_damage(self) -> None:
        """Have it opened anew where the file can be read; else it is the disk that fails."""
        if self._journal.can_be_read():
            self._lose("damage was met in it")
        else:
            self._fail("it can't be read")

    def _look_at_path(self) -> None:
        """Decide what to do where the file is not at its path any more."""
        if self._journal.is_elsewhere:
            self._fail(f"{self._journal.path} is not there: is its disk mounted?")
        elif not self._journal.is_deleted:
            self._try("another file has taken its place")
        else:
            try:
                self._journal.write_again()
            except (OSError, sqlite3.Error) as error:
                self._fail(f"{self._journal.path} was deleted, and can't be written again: {error}")
            else:
                self._try("it was deleted, and has been written again")

    def _try(self, reason: str) -> None:
        """Have what is at the path opened, if it can be."""
        if time.monotonic() < self._try_at_s:
            return
        self.opening = True
        try:
            self._try_anew()
        except PowerError as error:
            self._try_at_s = time.monotonic() + TRY_S
            self._fail(str(error))
        else:
            self._lose(reason)
        finally:
            self.opening = False

    def _lose(self, reason: str) -> None:
        log.warning("journal: %s: it is opened anew", reason)
        self.lost = True
        self._on_lost()

    def _failed(self, error: sqlite3.Error) -> None:
        if is_damage(error):
            self.suspect(str(error))
            self._look_at_damage()
        else:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        before = self.failing
        self._set_failing(reason)
        if not before:
            self._say_failing()

    def _say_failing(self) -> None:
        log.error("journal: %s: counting goes on, pulses are kept in memory", self.failing)

    def _settle(self) -> None:
        """Give the pulses their time, once the clock is believed."""
        if self.settled or self._clock.waits_s or self.lost or time.monotonic() < self._settle_at_s:
            return
        try:
            self._give_times()
        except sqlite3.Error as error:
            self._settle_at_s = time.monotonic() + TRY_S
            self._put_off("pulses can't be given their time", error)
        else:
            self._on_commit()

    def _give_times(self) -> None:
        pulses = self._journal.settle(ahead_ns())
        self.settled = True
        if pulses:
            taken = "is right" if self._clock.right else "is taken as it is"
            log.info("the clock %s: %d pulses that waited for it have their time", taken, pulses)

    def _thin(self) -> None:
        """Thin old pulses, some at a time; by a clock that is known to be right alone: one ahead would thin all."""
        if self.failing or self.lost or time.monotonic() < self._thin_at_s:
            return
        more = False
        if self.settled and self._clock.right:
            try:
                more = self._journal.thin(time.time_ns() - self._keep_ns)
            except sqlite3.Error as error:
                self._put_off("old pulses can't be thinned", error)
        if not more:
            self._thin_at_s = time.monotonic() + THIN_S

    def _put_off(self, what: str, error: sqlite3.Error) -> None:
        """Say that it is done later: what counts is written all the same, but where the journal is damaged."""
        if is_damage(error):
            self._failed(error)
        else:
            log.warning("journal: %s now, it is tried again: %s", what, error)

    def _set_failing(self, reason: str) -> None:
        changed = bool(reason) != bool(self.failing)
        self.failing = reason
        if changed:
            self._on_state()


def _in_order(kept: list[Row], newest: Mapping[str, Row]) -> list[Row]:
    """Both, each meter's in the order of its count: of the newest some may have come before the last that was kept."""
    return sorted([*kept, *newest.values()], key=attrgetter("number")) if newest else kept
