"""
Delivers the journal to one writer: batches, pauses after failures, and which pulses are kept or given up.

Owns a writer and its cursor, on its own thread, so that a dead service costs
the others nothing. One table, :mod:`powermeter.writers.answers`, decides what an
error means, and :class:`~powermeter.search.Search` which pulses are bad.
"""

import enum
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

from powermeter.errors import AnsweredError, DeliveryError, LocalError, MisdirectedError
from powermeter.journal.cursor import Cursor
from powermeter.journal.tables import is_damage
from powermeter.meter import NS_PER_S, Pulse
from powermeter.search import Search
from powermeter.writers import Pace, Receipt, Writer
from powermeter.writers.answers import BY_STATUS, Verdict

log = logging.getLogger(__name__)

#: The first and the longest pause after a failure, in s.
SHORTEST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0

#: The longest pause after a failure of this machine itself, in s: a disk may come back at any moment, and a try costs
#: nothing.
LONGEST_LOCAL_PAUSE_S = 30.0

#: A cursor that no commit of the keeper has saved is made durable after this long, in s.
#: A crash before that only causes a second delivery, which every writer tolerates.
CURSOR_COMMIT_S = 60.0

#: The most pulses that are delivered ahead of the durable cursor, plus at most one batch: how many are delivered again
#: after a crash while it catches up.
MAX_UNSAVED = 100_000

#: How long a delivery may go on after a stop, in s.
LAST_S = 4.0


def verdict(error: DeliveryError) -> Verdict:
    """What *error* means for its batch, judged by the words of the answer, else by its status."""
    if isinstance(error, MisdirectedError):
        return Verdict.MISCONFIGURED
    if isinstance(error, AnsweredError):
        return error.verdict or BY_STATUS.get(error.status, Verdict.KEPT)
    return Verdict.KEPT


class State(enum.Enum):
    """The state of a delivery: *waiting* while more than a batch waits, *failing* while it pauses after a failure."""

    OK = "ok"
    WAITING = "waiting"
    FAILING = "failing"


class Delivery:
    """
    Delivers the pulses after *cursor* until :meth:`stop`.

    *open_writer* is called on the delivery's thread, and again after each bug of
    the writer. *complete_ns* returns the time (UTC, ns) before which no more
    pulses will be added, None while that is not known. *on_state* is called when
    :attr:`state` changes to or from failing, and *on_damage* with SQLite's error
    if the journal is damaged. *after* is called first, and returns once the
    previous delivery with the same cursor has ended.
    """

    def __init__(
        self,
        name: str,
        open_writer: Callable[[], Writer],
        cursor: Cursor,
        *,
        complete_ns: Callable[[], int | None],
        on_state: Callable[[], None],
        on_damage: Callable[[str], None],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.cursor = cursor
        self.state = State.OK
        #: Why it is failing, "" while it is not.
        self.reason = ""
        #: Pulses that the service refused, since the start.
        self.refused = 0
        #: Pulses that no longer existed when their turn came, since the start.
        self.skipped = 0
        #: How long a pulse of the journal may wait for its batch while nothing fails, in s.
        self.batch_s = 0.0
        self._open_writer = open_writer
        self._complete_ns = complete_ns
        self._on_state, self._on_damage = on_state, on_damage
        self._after = after
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._stopped_s = 0.0
        self._failures = 0
        #: Whether the last try to make the cursor durable failed.
        self._unsaved = False
        #: Whether the writer raised an error that no writer may: it is then closed and opened again.
        self._met_a_bug = False
        #: Which pulses to send while the service refuses some.
        self._search = Search()
        #: Why pulses were last refused.
        self._refusal = ""
        #: The least number of pulses to read, so that they contain one whole period.
        self._least = 0

    def wake(self) -> None:
        """Report that the journal has new pulses; from any thread."""
        self._news.set()

    def stop(self) -> None:
        """Have :meth:`run` end once all is delivered or LAST_S are over, or at once if the service is failing."""
        if not self._stopping.is_set():
            self._stopped_s = time.monotonic()
        self._stopping.set()
        self._news.set()

    def run(self) -> None:
        """Deliver until stopped."""
        self._after()
        try:
            while (writer := self._opened()) is not None:
                try:
                    if self._deliver_until_stopped(writer):
                        return
                finally:
                    self._close(writer)
        finally:
            self._commit_cursor()
            self.cursor.close()

    def _close(self, writer: Writer) -> None:
        try:
            writer.close()
        except BaseException as error:  # a bug in a writer that is no longer needed
            log.error("%s: can't be closed: a bug: %s: %s", self.name, type(error).__name__, error, exc_info=error)

    def _commit_cursor(self) -> None:
        if self.cursor.moved:
            try:
                self.cursor.commit()
            except sqlite3.Error as error:
                if not self._unsaved:
                    log.warning("%s: its position can't be saved: %s: pulses may be delivered again", self.name, error)
                self._unsaved = True
            else:
                self._unsaved = False

    def _opened(self) -> Writer | None:
        # At least once, even after a stop: the pulses that wait then are delivered too.
        while not (self._stopping.is_set() and self.state is State.FAILING):
            try:
                self._met_a_bug = False
                writer = self._open_writer()
                self.batch_s = _batch_s(writer.pace)
                return writer
            except BaseException as error:  # noqa: BLE001 - a writer's bug, even SystemExit: the others go on
                expected = isinstance(error, DeliveryError)
                pause_s = self._fail(str(error), loud=True) if expected else self._failed_by_bug(error)
                self._stopping.wait(min(pause_s, _longest_s(error)))
        return None

    def _deliver_until_stopped(self, writer: Writer) -> bool:
        """Deliver until stopped; return false if *writer* has to be opened again because of a bug."""
        while True:
            # In this order: a stop that comes in between must not be cleared with the news.
            self._news.clear()
            stopping = self._stopping.is_set()
            if stopping and self.state is State.FAILING:
                return True
            pause_s = self._deliver_next(writer)
            if self.cursor.unsaved >= MAX_UNSAVED:
                self._commit_cursor()
            if stopping and (pause_s != 0 or time.monotonic() > self._stopped_s + LAST_S):
                return True
            if pause_s == 0:
                continue
            if pause_s is not None:
                self._stopping.wait(pause_s)
                if self._met_a_bug:
                    return False
            elif not self._news.wait(CURSOR_COMMIT_S if self.cursor.moved else None):
                self._commit_cursor()

    def _deliver_next(self, writer: Writer) -> float | None:
        """Deliver one batch if one is due; return how long to pause then, in s, None until there are new pulses."""
        try:
            pulses, more, pause_s = self._due(writer.pace)
            if not pulses:
                return pause_s
            part = self._search.part(pulses, writer.pace.period_ns)
            try:
                receipt = writer.deliver(part, self.cursor.position.place)
            except DeliveryError as error:
                return self._failed(error, pulses, part)
            self._took(pulses, part, receipt)
            if receipt.refused >= receipt.taken > 0:
                # All were refused, so single pulses are not the reason: show it on the lamp, and slow down, so that a
                # backlog is not given up in no time.
                self._set_state(State.FAILING, receipt.reason)
                return SHORTEST_PAUSE_S
        except sqlite3.Error as error:
            if is_damage(error):
                self._on_damage(str(error))
            return self._fail(f"journal: {error}", loud=True)
        except BaseException as error:  # noqa: BLE001 - as above
            return self._failed_by_bug(error)
        more = more or receipt.taken < len(pulses)
        self._succeeded(State.WAITING if more else State.OK)
        # After whole periods, pulses of the next one may wait: they are due when it ends, even if no new ones come.
        return 0.0 if more or writer.pace.period_ns else writer.pace.interval_s or None

    def _due(self, pace: Pace) -> tuple[Sequence[Pulse], bool, float | None]:
        """The pulses that are due, and whether there are more; if none are, the pause until there will be."""
        # Asked before reading: a pulse that is committed in between must not be missing from a period taken as
        # complete.
        complete_ns = self._complete_ns() if pace.period_ns else 0
        if complete_ns is None:
            return [], False, None
        pulses: Sequence[Pulse] = self.cursor.read(self._read_limit(pace))
        more = len(pulses) >= self._read_limit(pace)
        if pace.period_ns:
            whole = whole_periods(pulses, pace.period_ns, complete_ns, more=more)
            if pulses and not whole:
                return [], more, self._until_whole(pulses[0], pace, complete_ns, more=more)
            pulses = whole
        if not pulses:
            self._succeeded(State.OK)
        return pulses, more, None

    def _read_limit(self, pace: Pace) -> int:
        return max(pace.batch_size, self._least)

    def _until_whole(self, first: Pulse, pace: Pace, complete_ns: int, *, more: bool) -> float:
        """The pause until the period of *first* is whole, 0.0 if the period just has more pulses than were read."""
        if more:
            self._least = 2 * self._read_limit(pace)
            return 0.0
        period_ns = pace.period_ns
        end_ns = (first.time_ns // period_ns + 1) * period_ns
        self._succeeded(State.OK)
        # At most one period: the clock may be set meanwhile.
        return min(max(end_ns - complete_ns, NS_PER_S), period_ns + NS_PER_S) / NS_PER_S

    def _took(self, pulses: Sequence[Pulse], part: Sequence[Pulse], receipt: Receipt) -> None:
        if receipt.taken:
            self._search.took(part[: receipt.taken])
            self._move_on(pulses, receipt.taken, receipt.place)
        else:
            self.cursor.move(receipt.place)
        if receipt.refused:
            self._refuse(receipt.refused, receipt.reason)

    def _move_on(self, pulses: Sequence[Pulse], taken: int, place: str) -> int:
        """Move the cursor past those of *pulses* that are settled; return how many of them were given up."""
        settled, given_up = self._search.settled(pulses, taken)
        if settled:
            self._skip(self.cursor.advance(pulses[:settled], place))
        if given_up:
            self._refuse(given_up, self._refusal)
        return given_up

    def _skip(self, pulses: int) -> None:
        if pulses:
            level = logging.DEBUG if self.skipped else logging.ERROR
            self.skipped += pulses
            log.log(
                level,
                "%s: %d pulses waited too long or were lost: their energy is delivered with the next pulse; more such "
                "pulses are only counted",
                self.name,
                pulses,
            )

    def _refuse(self, pulses: int, reason: str) -> None:
        level = logging.DEBUG if self.refused else logging.ERROR
        self.refused += pulses
        log.log(level, "%s: %d pulses were refused, more of them are only counted: %s", self.name, pulses, reason)

    def _succeeded(self, state: State) -> None:
        if self._failures:
            log.info("%s: delivers again", self.name)
        self._failures = 0
        self._set_state(state, "")

    def _failed(self, error: DeliveryError, pulses: Sequence[Pulse], part: Sequence[Pulse]) -> float:
        """Decide by the table what becomes of *part* of *pulses*; return the pause until the next try, in s."""
        judged = verdict(error)
        named = error.refused if isinstance(error, AnsweredError) else ()
        if judged is Verdict.TOO_LARGE and self._search.too_large(part):
            return 0.0
        if judged in (Verdict.REFUSED, Verdict.EXPIRED):
            if judged is Verdict.REFUSED:
                self._search.refused(part, named)
            else:
                self._search.expired(pulses, part, named)
            self._refusal = str(error)
            if self._move_on(pulses, 0, self.cursor.position.place):
                # Show it on the lamp, and don't send to a service that refuses much as fast as it answers.
                self._set_state(State.FAILING, str(error))
                return SHORTEST_PAUSE_S
            if not self._search.stuck(pulses):
                return 0.0
            # It refuses everything, so single pulses are not the reason.
            self._search.end()
            return self._fail(f"{error}: it refuses every other pulse too", loud=True)
        pause_s = min(self._fail(str(error), loud=judged is not Verdict.KEPT), _longest_s(error))
        asked_s = error.retry_after_s if isinstance(error, AnsweredError) else 0.0
        return max(pause_s, min(asked_s, LONGEST_PAUSE_S))

    def _failed_by_bug(self, error: BaseException) -> float:
        reason = f"{type(error).__name__}: {error}"
        if reason != self.reason:
            log.error("%s: failing, pulses are kept: a bug: %s", self.name, reason, exc_info=error)
            self.reason = reason
        self._met_a_bug = True
        return self._fail(reason, loud=True)

    def _fail(self, reason: str, *, loud: bool) -> float:
        self._failures = min(self._failures + 1, 20)
        if reason != self.reason:
            log.log(logging.ERROR if loud else logging.WARNING, "%s: failing, pulses are kept: %s", self.name, reason)
        self._set_state(State.FAILING, reason)
        # Random, so that the monitors of a whole street don't return to a service at the same moment.
        return float(min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2**self._failures) * random.uniform(0.5, 1))

    def _set_state(self, state: State, reason: str) -> None:
        changed = (state is State.FAILING) != (self.state is State.FAILING)
        self.state, self.reason = state, reason
        if changed:
            self._on_state()


def _batch_s(pace: Pace) -> float:
    # The end of a period is noticed a second late, and is checked once a second.
    return pace.interval_s + (pace.period_ns / NS_PER_S + 2 if pace.period_ns else 0)


def _longest_s(error: BaseException) -> float:
    return LONGEST_LOCAL_PAUSE_S if isinstance(error, LocalError) else LONGEST_PAUSE_S


def whole_periods(pulses: Sequence[Pulse], period_ns: int, complete_ns: int, *, more: bool) -> Sequence[Pulse]:
    """
    The pulses at the beginning of *pulses* whose periods are whole.

    A period is [n, n + 1) times *period_ns* since 1970. It is whole once it
    ended before *complete_ns* and, if *more* pulses wait than these, once a
    pulse of a later period follows.
    """
    last = pulses[-1].time_ns // period_ns if more else None
    for index, pulse in enumerate(pulses):
        period = pulse.time_ns // period_ns
        end_ns = (period + 1) * period_ns
        # A period far ahead comes from a clock that was wrong then: nothing more falls into it, and its end may be
        # years away.
        if complete_ns < end_ns <= complete_ns + 2 * period_ns + 2 * NS_PER_S or period == last:
            return pulses[:index]
    return pulses
