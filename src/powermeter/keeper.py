"""
Writes pulses to the journal, on its own thread: a disk that hangs holds up nothing else.

Owns the journal's file as long as the program runs: when pulses are written to
it, get their times and are thinned; and what to do when it is damaged, deleted
or replaced, or its disk fails. Whatever happens to the file, pulses stay in one
list here until a file has them, and the deliveries' cursors move from one file
to the next.

The numbers of pulses begin at 1 when the program starts. Only the file knows
which count and register the meter had then: :class:`Tally` learns it once a
file was opened, and keeps it when that file is gone.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from powermeter.clock import Clock
from powermeter.errors import DamagedError, JournalError, PowerError, StoppedError
from powermeter.journal.cursor import Cursor
from powermeter.journal.journal import Change, Entry, Face, Journal, Judged, Row
from powermeter.journal.salvage import open_journal
from powermeter.journal.tables import is_damage, is_of_the_disk
from powermeter.meter import NS_PER_S, Constant

log = logging.getLogger(__name__)

#: The most pulses that are kept in memory while the journal can't be written. After that, only each meter's newest
#: pulse is kept, for its count: the register stays right, but the other pulses have neither time nor power of their
#: own.
MAX_UNCOMMITTED = 100_000

#: How often to check the clock while waiting for it to be right, in s.
CLOCK_S = 1.0

#: How often to try to open another file, in s: a damaged one has to be read completely for that.
TRY_S = 30.0

#: How often to look for old pulses, in s.
THIN_S = 3600.0

#: How long opening a file may still take after a stop, if pulses wait for it, in s.
LAST_OPENING_S = 2.5

DAY_NS = 86400 * NS_PER_S


@dataclass(slots=True)
class Tally:
    """
    One meter: how the numbers since the program's start relate to the counts in the file.

    *in_force* is the constant after the pulse *written*, the last one that a
    file has, with the register counted from 0 at the program's start.
    *begin* is the count and the register (kWh) at the start, None until a file
    was opened. The meter has been counted since *since_ns* (monotonic), until
    *until_ns*, None while it still is; what the file has recorded of that is in
    *noted_since_ns* and *noted_until_ns*.
    """

    in_force: Constant
    since_ns: int
    written: int = 0
    begin: tuple[int, float] | None = None
    until_ns: int | None = None
    noted_since_ns: int | None = None
    noted_until_ns: int | None = None

    @property
    def cover_is_noted(self) -> bool:
        """Whether the file has recorded since when the meter has been counted, and until when."""
        return (self.since_ns, self.until_ns) == (self.noted_since_ns, self.noted_until_ns)

    def note_cover(self, journal: Journal, name: str, ahead_ns: int) -> None:
        """Record it in *journal*; the wall clock is *ahead_ns* ahead of the monotonic one."""
        since_ns, until_ns = self.since_ns, self.until_ns
        if since_ns != self.noted_since_ns:
            journal.begin_cover(name, self.begin[0] if self.begin else None, since_ns + ahead_ns)
            self.noted_since_ns, self.noted_until_ns = since_ns, None
        elif until_ns is None and self.noted_until_ns is not None:  # it came back while its end was being recorded
            journal.begin_cover(name, None, since_ns + ahead_ns)
            self.noted_until_ns = None
        if until_ns is not None:
            journal.end_cover(name, until_ns + ahead_ns)
            self.noted_until_ns = until_ns

    def tie(self, journal: Journal, name: str, waiting: Sequence[Entry]) -> None:
        """Find the meter's count in *journal*; *waiting* are its entries that, as far as is known, no file has yet."""
        if self.begin is not None and self._was_made(journal, name, waiting):
            # All of it is written again, beginning with the constant of that time, so that the result is the same.
            count, kwh = self.begin
            last = self.in_force
            in_force = Constant(last.impulses_per_kwh, count + last.from_count, kwh + last.register_kwh)
            journal.enter(name, None, in_force)
            journal.go_back(name, in_force)
            return
        register_kwh = self.in_force.register_at(self.written)
        known_as = None
        if self.begin is not None:
            count, kwh = self.begin
            known_as = Constant(self.in_force.impulses_per_kwh, count + self.written, kwh + register_kwh)
        known = journal.enter(name, self.in_force.impulses_per_kwh, known_as)
        count = known.count - self.written
        if self.begin is not None:
            count = max(count, self.begin[0])
        self.begin = count, known.constant.register_at(count + self.written) - register_kwh

    def _was_made(self, journal: Journal, name: str, waiting: Sequence[Entry]) -> bool:
        """Whether *journal* has some of *waiting* already: a commit that failed may still have been made."""
        last = journal.last(name)
        first = self.begin[0] if self.begin else 0
        return any(
            (isinstance(entry, Row) and entry.number == last - first and journal.has(entry, last))
            or (isinstance(entry, Face) and journal.has_reading(entry))
            for entry in waiting
        )


class Keeper:
    """
    Writes the pulses that :meth:`keep` is given to the journal at *path*, until :meth:`stop`.

    A pulse is in the file at most *commit_interval_s* after it came: at once if
    nothing was written for that long, else together with all others of that
    interval. Times are not settled until *clock* is right, or *clock_wait_s*
    have passed since the machine's boot. Pulses older than *keep_days* are
    thinned. These three numbers may be replaced at any time. *open_file* opens
    the file at the path, as :func:`~powermeter.journal.salvage.open_journal` does.
    On the keeper's thread, *on_commit* is called when there is something new
    to read, *on_state* when :attr:`failing` changes, and *on_judged* when a
    reading has been taken or refused.
    """

    def __init__(
        self,
        path: str,
        commit_interval_s: float,
        *,
        clock: Clock,
        clock_wait_s: float,
        keep_days: float,
        on_commit: Callable[[], None],
        on_state: Callable[[], None],
        on_judged: Callable[[Judged], None],
        open_file: Callable[..., Journal] = open_journal,
    ) -> None:
        self.path = path
        self.commit_interval_s = commit_interval_s
        self.clock_wait_s = clock_wait_s
        self.keep_days = keep_days
        #: What is not in the journal yet. The recorder appends to it, and the keeper removes what is written; each in
        #: one step of the interpreter, so that a copy is consistent at any time.
        self.uncommitted: list[Entry] = []
        #: Each meter's newest pulse that did not fit into that list; and how many others were dropped.
        self._newest: dict[str, Row] = {}
        self.dropped = 0
        #: Why the journal can't be written; "" while it can.
        self.failing = ""
        #: Whether pulses now get their final times at once; those of an earlier run of the program then have theirs.
        self.settled = False
        #: How many times a file was opened, 0 while none is open: readers with their own connection open a new one when
        #: this changes.
        self.opened = 0
        self._openings = 0
        #: By a meter's name; replaced whole.
        self.tallies: Mapping[str, Tally] = {}
        #: What the journal knows about itself, such as its "id", and what :meth:`note` was given; empty until a file
        #: was opened. It outlives any file, and is replaced whole.
        self.about: Mapping[str, str] = {}
        self._noted_about: Mapping[str, str] = self.about
        #: Gaps that have ended: meter, from, to (monotonic, ns) and why; appended by the recorder, like pulses.
        self._gaps: list[tuple[str, int, int, str]] = []
        self._cursors: tuple[Cursor, ...] = ()
        self._followed: set[Cursor] = set()
        self._journal: Journal | None = None
        self._damaged = False
        self._clock = clock
        self._thin_at_s = self._settle_at_s = self._cover_at_s = self._try_at_s = clock.monotonic_s()
        self._on_commit, self._on_state, self._on_judged = on_commit, on_state, on_judged
        self._open_file = open_file
        self._news = threading.Event()
        self._stopping = threading.Event()
        #: Set if waiting entries are to be written now: for a reading, or at the end.
        self._hurry = threading.Event()
        self._stopped_s = 0.0

    # --- For the thread that starts it, and later for any thread

    def open(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """
        Open the file before :meth:`run`; a damaged one is left to that, as saving it may take minutes.

        Without this call :meth:`run` opens the file, as it must if making it takes long.

        Raises :exc:`~powermeter.errors.JournalError` if the file can't be used.
        """
        try:
            self._adopt(self._open_file(self.path, self._impulses, save=False, stopped=stopped))
            if not self.waits_s:
                self._give_times()
        except DamagedError as error:
            self._damaged = True
            self.failing = str(error)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise JournalError(f"{self.path}: the journal can't be used: {error}") from error
            self._damaged = True
            self.failing = f"{self.path}: the journal is damaged: {error}"

    def close(self) -> None:
        """Close the file, once :meth:`run` has ended; may be called twice."""
        if self._journal is not None:
            self._journal.close()

    def enter(self, name: str, impulses_per_kwh: float) -> None:
        """Take pulses of the meter *name* from now on; does nothing if it is already counted."""
        now_ns = self._clock.monotonic_ns()
        if name not in self.tallies:
            self.tallies = {**self.tallies, name: Tally(Constant(impulses_per_kwh), now_ns)}
        elif (left_ns := self.tallies[name].until_ns) is not None:
            tally = self.tallies[name]
            if left_ns == tally.noted_until_ns:
                tally.since_ns = now_ns
            else:  # its end has not been recorded in the file
                self._gaps.append((name, left_ns, now_ns, "not running"))
            tally.until_ns = None
        self.wake()

    def leave(self, name: str) -> None:
        """Note that the meter *name* is no longer counted from now on."""
        if self.tallies[name].until_ns is None:
            self.tallies[name].until_ns = self._clock.monotonic_ns()
            self.wake()

    def follow(self, cursor: Cursor) -> None:
        """Move *cursor* from file to file from now on; it soon has the current file, if there is one."""
        if cursor not in self._cursors:
            self._cursors = (*self._cursors, cursor)
            self.wake()

    def forget(self, cursor: Cursor) -> None:
        """No longer move *cursor*."""
        self._cursors = tuple(other for other in self._cursors if other is not cursor)
        self.wake()

    def waiting(self) -> list[Row]:
        """All pulses that are not in the journal yet, each meter's in the order of its count; from any thread."""
        return [entry for entry in self._entries() if isinstance(entry, Row)]

    def _entries(self) -> list[Entry]:
        return _in_order(self.uncommitted.copy(), self._newest.copy())

    @property
    def waits_s(self) -> float:
        """How much longer pulses wait for a right clock, in s; 0.0 if they don't, and always once :attr:`settled`."""
        return 0.0 if self.settled else self._clock.wait_left_s(self.clock_wait_s)

    def suspect(self, reason: str) -> None:
        """Report that a reader found damage in the journal; from any thread."""
        if not self._damaged:
            log.error("journal: %s", reason)
            self._damaged = True
            self.wake()

    def note(self, key: str, value: str) -> None:
        """Have *value* saved soon as *key* of :attr:`about`; for one thread, once a file was opened."""
        self.about = {**self.about, key: value}
        self.wake()

    def wake(self) -> None:
        """Report that there is something to do; from any thread."""
        if not self._news.is_set():
            self._news.set()

    def stop(self) -> None:
        """Have :meth:`run` end once everything is written, or can't be; no pulse may come after this."""
        self._stopped_s = self._clock.monotonic_s()
        self._stopping.set()
        self._hurry.set()
        self._news.set()

    # --- For the recorder's thread

    def keep(self, row: Row) -> None:
        """Take a pulse."""
        if len(self.uncommitted) < MAX_UNCOMMITTED:
            self.uncommitted.append(row)
        else:
            # Each replaces the one before it.
            self.dropped += row.meter in self._newest
            self._newest[row.meter] = row

    def change(self, change: Change | Face) -> None:
        """Take a change of the constant or the register: it applies after the pulses given to :meth:`keep` so far."""
        self.uncommitted.append(change)
        self._hurry.set()
        self.wake()

    def miss(self, meter: str, from_ns: int, to_ns: int) -> None:
        """Note that the input of *meter* was at fault from *from_ns* to *to_ns* (monotonic)."""
        self._gaps.append((meter, from_ns, to_ns, "input at fault"))
        self.wake()

    # --- Its own thread

    def run(self) -> None:
        """Write until stopped."""
        if self.failing:
            self._log_failing()
            self._on_state()
        while not self._stopping.is_set():
            self._settle()
            self._note_cover()
            if not self._has_work:
                self._clock.wait(self._news, None if self.settled else CLOCK_S)
            self._news.clear()
            while self._has_work and not self._stopping.is_set():
                began_s = self._clock.monotonic_s()
                self._commit()
                self._thin()
                # New pulses don't end this wait, so that a steady flow costs one wake-up per commit. A try that fails
                # may take longer than the interval: then there is a full interval between two tries.
                took_s = 0.0 if self.failing else self._clock.monotonic_s() - began_s
                self._clock.wait(self._hurry, max(0.0, self.commit_interval_s - took_s))
                if not self._stopping.is_set():
                    self._hurry.clear()
                self._settle()
                self._note_cover()
        # For what came during the last commit.
        self.save()
        for name in self.tallies:
            self.leave(name)
        self._cover_at_s = 0.0
        self._note_cover()

    @property
    def _has_work(self) -> bool:
        # A failing journal is tried even without a pulse, so that lamp and status show when it works again.
        return bool(
            self.uncommitted
            or self._newest
            or self._damaged
            or self.failing
            or self._unfollowed
            or self._unentered
            or self.about is not self._noted_about
        )

    @property
    def _unfollowed(self) -> bool:
        return self._followed != set(self._cursors)

    @property
    def _unentered(self) -> bool:
        return any(tally.begin is None for tally in self.tallies.values())

    def save(self) -> None:
        """Write what is uncommitted now; on the keeper's thread, or once that has ended."""
        for _ in range(3):  # to a file that turns out damaged, while another is opened in its place, and to that one
            if not (self.uncommitted or self._newest):
                return
            self._try_at_s = 0.0
            self._commit()

    def _commit(self) -> None:
        """Write what is uncommitted; if the disk fails it stays, and is tried again after the interval."""
        kept, newest = self.uncommitted.copy(), self._newest.copy()
        try:
            if (journal := self._usable()) is None:
                return
            entries = _in_order(kept, newest)
            tallies = self.tallies
            begins = {name: tally.begin[0] for name, tally in tallies.items() if tally.begin is not None}
            judged = journal.append(entries, self._clock.ahead_ns(), settled=self.settled, begins=begins)
        except sqlite3.Error as error:
            self._failed(error)
        else:
            self._count_as_written(entries, tallies, {id(one.face) for one in judged if not one.refused})
            self._committed(kept, newest)
            for one in judged:
                self._on_judged(one)

    @staticmethod
    def _count_as_written(entries: Sequence[Entry], tallies: Mapping[str, Tally], taken: set[int]) -> None:
        """Note that a file has *entries*; *taken* are the ids of the faces that became the register."""
        for entry in entries:
            tally = tallies[entry.meter]
            tally.written = entry.number
            if isinstance(entry, Change):
                register_kwh = tally.in_force.register_at(entry.number)
                tally.in_force = Constant(entry.impulses_per_kwh, entry.number, register_kwh)
            elif isinstance(entry, Face) and id(entry) in taken and tally.begin is not None:
                register_kwh = entry.kwh - tally.begin[1]
                tally.in_force = Constant(tally.in_force.impulses_per_kwh, entry.number, register_kwh)

    def _note_cover(self) -> None:
        """Record in the file since when the meters have been counted, until when, and the gaps in between."""
        tallies = {name: tally for name, tally in self.tallies.items() if tally.begin and not tally.cover_is_noted}
        if self._journal is None or self.failing or not (tallies or self._gaps):
            return
        # Before the times are settled nobody knows when it was.
        if not self.settled or self._clock.monotonic_s() < self._cover_at_s:
            return
        ahead = self._clock.ahead_ns()
        try:
            for name, tally in tallies.items():
                tally.note_cover(self._journal, name, ahead)
            for gap in self._gaps.copy():
                name, from_ns, to_ns, why = gap
                if self.tallies[name].begin is not None:  # the file knows the meter
                    self._journal.add_gap(name, from_ns + ahead, to_ns + ahead, why)
                    self._gaps.remove(gap)
        except sqlite3.Error as error:
            self._cover_at_s = self._clock.monotonic_s() + TRY_S
            self._put_off("can't record when the meters were counted", error)

    def _committed(self, kept: Sequence[Entry], newest: Mapping[str, Row]) -> None:
        del self.uncommitted[: len(kept)]
        written = 0
        for meter, row in newest.items():
            # A newer one that came meanwhile stays; it replaced one that is written, which was therefore not dropped.
            if (last := self._newest.pop(meter)) is not row:
                self._newest.setdefault(meter, last)
                written += 1
        if self.failing:
            pulses = sum(isinstance(entry, Row) for entry in kept)
            log.info("journal: can be written again, %d pulses were kept in memory", pulses)
        if self.dropped > written:
            log.warning(
                "journal: %d pulses did not fit into memory: they are counted, but have neither time nor power",
                self.dropped - written,
            )
        self.dropped = 0
        self._set_failing("")
        self._on_commit()

    # --- The file

    def _usable(self) -> Journal | None:
        """The journal to write to, another one if necessary; None if there is none, and :attr:`failing` tells why."""
        journal = self._journal
        if journal is None:
            # Without an earlier failure this is the first opening, which is not worth a message.
            return self._open_anew("it can be opened" if self.failing else "", suspect=self._damaged)
        if not journal.is_in_place:
            return self._looked_at_path(journal)
        if self._damaged:
            return self._looked_at_damage(journal)
        if journal.is_read_only:
            self._fail("its disk is read-only")
            return None
        self._enter_new(journal)
        return journal

    def _enter_new(self, journal: Journal) -> None:
        """Enter into *journal* the meters and cursors that were added since it was opened, and what was noted."""
        if (about := self.about) is not self._noted_about:
            journal.note(about)
            self._noted_about = about
        waiting = self._entries()
        for name, tally in self.tallies.items():
            if tally.begin is None:
                tally.tie(journal, name, [entry for entry in waiting if entry.meter == name])
        cursors = set(self._cursors)
        for cursor in self._followed - cursors:
            journal.forget(cursor)
        for cursor in cursors - self._followed:
            journal.follow(cursor)
        self._followed = cursors

    def _adopt(self, journal: Journal) -> None:
        """Write to *journal* from now on, and have the cursors read it. Raises :exc:`sqlite3.Error`."""
        try:
            waiting = self._entries()
            ahead = self._clock.ahead_ns()
            for name, tally in self.tallies.items():
                tally.tie(journal, name, [entry for entry in waiting if entry.meter == name])
                if tally.noted_since_ns is not None and tally.until_ns is None:
                    # The file before had it. This one was in use since then, or was put here.
                    journal.begin_cover(name, None, tally.since_ns + ahead)
            if self.settled:
                journal.settle(ahead)
            # What was noted while another file was open belongs in this one too.
            journal.note(before := self.about)
            about = journal.about()
            cursors = self._cursors
            for cursor in cursors:
                journal.follow(cursor)
        except BaseException:
            journal.close()
            raise
        self._let_go()
        if self.about is before:  # else something was noted just now, and is written next
            self.about = self._noted_about = about
        self._journal, self._followed = journal, set(cursors)
        self._openings += 1
        self.opened = self._openings
        self._damaged = False

    def _let_go(self) -> None:
        """Close the current file: its readers learn this from their cursors, and from :attr:`opened`."""
        self.opened = 0
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _open_anew(self, reason: str, *, suspect: bool) -> Journal | None:
        """The file at the path, opened because of *reason*; None if it can't be, or a try was made just now."""
        if self._clock.monotonic_s() < self._try_at_s:
            return None
        self._try_at_s = self._clock.monotonic_s() + TRY_S
        try:
            journal = self._open_file(self.path, self._impulses, suspect=suspect, stopped=self._is_late)
        except StoppedError as error:
            if not self.failing:
                log.info("%s", error)
            self._set_failing(str(error))
            return None
        except PowerError as error:
            self._fail(str(error))
            return None
        self._adopt(journal)
        self._try_at_s = 0.0
        if reason:
            log.warning("journal: %s: opened it again", reason)
        self._on_commit()
        return journal

    @property
    def _impulses(self) -> dict[str, float]:
        return {name: tally.in_force.impulses_per_kwh for name, tally in self.tallies.items()}

    def _is_late(self) -> bool:
        patience_s = LAST_OPENING_S if self.uncommitted else 0.0
        return self._stopping.is_set() and self._clock.monotonic_s() >= self._stopped_s + patience_s

    def _looked_at_damage(self, journal: Journal) -> Journal | None:
        """Another file in place of the damaged one if that can be read; if it can't, the disk is failing."""
        if not journal.can_be_read():
            self._fail("it can't be read")
            return None
        # Saving what can be read takes long: until then the cursors have no file, and the pulses wait here.
        self._fail("damage was found in it")
        for cursor in self._cursors:
            cursor.detach()
        self._followed = set()
        self._on_commit()
        self._let_go()
        return self._open_anew("damage was found in it", suspect=True)

    def _looked_at_path(self, journal: Journal) -> Journal | None:
        """Decide what to do if the file is no longer at its path."""
        if journal.is_elsewhere:
            self._fail(f"{journal.path} is not there: is its disk mounted?")
            return None
        if not journal.is_deleted:
            journal.take_log_away()
            return self._open_anew("another file has taken its place", suspect=True)
        try:
            journal.write_again()
        except (OSError, sqlite3.Error) as error:
            self._fail(f"{journal.path} was deleted, and can't be written again: {error}")
            return None
        return self._open_anew("it was deleted, and has been written again", suspect=False)

    def _failed(self, error: sqlite3.Error) -> None:
        if is_damage(error):
            self.suspect(str(error))
            # The next try, at once, reads the file to decide whether it is damaged or its disk is failing.
            self.wake()
        elif self.failing and self._journal and is_of_the_disk(error) and self._journal.can_be_written_anew():
            # The disk came back, and files that were open on it can no longer be used.
            try:
                self._open_anew("it can be written again", suspect=False)
            except sqlite3.Error as again:
                self._fail(str(again))
        else:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        before = self.failing
        self._set_failing(reason)
        if not before:
            self._log_failing()

    def _log_failing(self) -> None:
        log.error("journal: %s: counting goes on, pulses are kept in memory", self.failing)

    def _set_failing(self, reason: str) -> None:
        changed = bool(reason) != bool(self.failing)
        self.failing = reason
        if changed:
            self._on_state()

    # --- Times

    def _settle(self) -> None:
        """Give the pulses their times once the clock is trusted."""
        if self.settled or self.waits_s or self._clock.monotonic_s() < self._settle_at_s:
            return
        try:
            self._give_times()
        except sqlite3.Error as error:
            self._settle_at_s = self._clock.monotonic_s() + TRY_S
            self._put_off("can't set the times of pulses", error)
        else:
            self._on_commit()

    def _give_times(self) -> None:
        # Without a file now, it is done when one is opened.
        pulses = self._journal.settle(self._clock.ahead_ns()) if self._journal is not None else 0
        self.settled = True
        if pulses:
            taken = "is right" if self._clock.right else "is accepted as it is"
            log.info("the clock %s: %d pulses that waited for it now have their times", taken, pulses)

    def _thin(self) -> None:
        """Thin old pulses, some at a time, and only if the clock is known to be right: one ahead would thin all."""
        if self.failing or self._journal is None or self._clock.monotonic_s() < self._thin_at_s:
            return
        more = False
        if self.settled and self._clock.right:
            try:
                more = self._journal.thin(self._clock.wall_ns() - round(self.keep_days * DAY_NS))
            except sqlite3.Error as error:
                self._put_off("can't thin old pulses", error)
        if not more:
            self._thin_at_s = self._clock.monotonic_s() + THIN_S

    def _put_off(self, what: str, error: sqlite3.Error) -> None:
        """Log that *what* is tried again later: pulses are still written, unless the journal is damaged."""
        if is_damage(error):
            self._failed(error)
        else:
            log.warning("journal: %s now, will try again: %s", what, error)


def _in_order(kept: list[Entry], newest: Mapping[str, Row]) -> list[Entry]:
    """Both, each meter's in the order of its count: some of *newest* may be older than the last of *kept*."""
    return sorted([*kept, *newest.values()], key=attrgetter("number")) if newest else kept
