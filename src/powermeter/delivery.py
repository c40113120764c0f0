"""
The journal to one writer: batches, backing off, what is kept and what dropped.

Owns a writer and its cursor, on a thread of its own, so that a dead service
costs the others nothing. What an error means stands in one table,
:func:`verdict`.
"""

import enum
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

from powermeter.errors import AnsweredError, DeliveryError, MisdirectedError
from powermeter.journal import Cursor, is_damage
from powermeter.meter import NS_PER_S, Pulse
from powermeter.writers import Pace, Receipt, Writer

log = logging.getLogger(__name__)

#: The first and the longest pause after a failure, in s.
SHORTEST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0

#: A cursor that no commit of the keeper took along is made durable after this long, in s.
#: What a crash before that costs is a second delivery, which every writer bears.
CURSOR_COMMIT_S = 60.0

#: The most pulses that are delivered ahead of the durable cursor, but for a batch: how many a crash has come again
#: while it catches up.
MOST_UNSAVED = 100_000

#: How long a stop lets it deliver what there is, in s.
LAST_S = 4.0

#: A search for a refused pulse is over when batches of this many go through again.
MOST_SEARCHED = 4096


class Verdict(enum.Enum):
    """What becomes of a batch that was not delivered."""

    #: Kept and tried again, later and later: the service will get over it.
    KEPT = "kept"
    #: Kept and tried again, and said loudly: someone has to mend the settings or the service.
    MISCONFIGURED = "misconfigured"
    #: Not wanted as it is: halved, until the pulse alone is found that is; that one is dropped and counted.
    REFUSED = "refused"
    #: Too much at once: halved, but a pulse alone is kept.
    TOO_LARGE = "too large"


#: By HTTP status. A status that does not stand here says nothing about the pulses: they are kept.
VERDICTS = {
    400: Verdict.REFUSED,
    401: Verdict.MISCONFIGURED,
    403: Verdict.MISCONFIGURED,  # Librato's limit of rates too: kept either way
    404: Verdict.MISCONFIGURED,  # InfluxDB: no such database
    405: Verdict.MISCONFIGURED,
    410: Verdict.MISCONFIGURED,
    413: Verdict.TOO_LARGE,
    415: Verdict.MISCONFIGURED,
    422: Verdict.REFUSED,
}


def verdict(error: DeliveryError) -> Verdict:
    """What *error* means for its batch."""
    if isinstance(error, MisdirectedError):
        return Verdict.MISCONFIGURED
    if isinstance(error, AnsweredError):
        return VERDICTS.get(error.status, Verdict.KEPT)
    return Verdict.KEPT


class State(enum.Enum):
    """How a delivery does: *waiting* while more than a batch waits, *failing* while it pauses after a failure."""

    OK = "ok"
    WAITING = "waiting"
    FAILING = "failing"


class Delivery:
    """
    Delivers what comes after *cursor* until :meth:`stop`.

    *open_writer* is called on the delivery's thread, again after each bug of
    the writer. *complete_ns* tells the time (UTC, ns) before which no pulse will
    be added any more, None while there is none. *on_state* is called when
    :attr:`state` changes to or from failing, *on_damage* with what SQLite says
    where the journal is damaged.
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
    ) -> None:
        self.name = name
        self.cursor = cursor
        self.state = State.OK
        #: Why it fails, "" while it does not.
        self.reason = ""
        #: Pulses that the service did not want, since the start.
        self.refused = 0
        #: Pulses that were no more when their turn came, since the start.
        self.skipped = 0
        self._open_writer = open_writer
        self._complete_ns = complete_ns
        self._on_state, self._on_damage = on_state, on_damage
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._stopped_s = 0.0
        self._failures = 0
        #: Whether the cursor could not be made durable.
        self._unsaved = False
        #: Whether the writer raised what none may: it is closed then, and opened again.
        self._met_a_bug = False
        #: The most pulses a batch while a refused one is searched for; None: as the writer wants.
        self._most: int | None = None
        #: The least pulses to read, so that one whole period is among them.
        self._least = 0

    def wake(self) -> None:
        """Tell that the journal has new pulses; from any thread."""
        self._news.set()

    def stop(self) -> None:
        """Let :meth:`run` end: once all is delivered or LAST_S are over, or at once where the service is failing."""
        if not self._stopping.is_set():
            self._stopped_s = time.monotonic()
        self._stopping.set()
        self._news.set()

    def run(self) -> None:
        """Deliver until stopped."""
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
        except BaseException as error:  # a bug in a writer that is done with
            log.error("%s: can't be closed: a bug: %s: %s", self.name, type(error).__name__, error, exc_info=error)

    def _commit_cursor(self) -> None:
        if self.cursor.moved:
            try:
                self.cursor.commit()
            except sqlite3.Error as error:
                if not self._unsaved:
                    log.warning(
                        "%s: how far it is can't be written: %s: what was delivered may come again", self.name, error
                    )
                self._unsaved = True
            else:
                self._unsaved = False

    def _opened(self) -> Writer | None:
        # Once where the stop came first: what there is by then is delivered too.
        while not (self._stopping.is_set() and self.state is State.FAILING):
            try:
                self._met_a_bug = False
                return self._open_writer()
            except BaseException as error:  # noqa: BLE001 - a bug in a writer, SystemExit too: the others go on
                expected = isinstance(error, DeliveryError)
                self._stopping.wait(self._fail(str(error), loud=True) if expected else self._failed_by_bug(error))
        return None

    def _deliver_until_stopped(self, writer: Writer) -> bool:
        """Deliver until stopped; false where a bug of *writer* has to be got over by opening another."""
        while True:
            # In this order: a stop that comes in between must not be taken for news that have been seen.
            self._news.clear()
            stopping = self._stopping.is_set()
            if stopping and self.state is State.FAILING:
                return True
            pause_s = self._deliver_next(writer)
            if self.cursor.unsaved >= MOST_UNSAVED:
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
        """Deliver one batch, if one is due; return how long to pause then, in s: None until there are news."""
        try:
            pulses, more, pause_s = self._due(writer.pace)
            if not pulses:
                return pause_s
            batch = pulses[: unit_end(pulses, self._most or len(pulses), writer.pace.period_ns)]
            try:
                receipt = writer.deliver(batch, self.cursor.position.place)
            except DeliveryError as error:
                return self._failed(error, batch, writer.pace)
            self._took(batch, receipt)
            if receipt.refused >= receipt.taken > 0:
                # Whatever is wrong is no matter of single pulses: the lamp is to show it, and a backlog not to fly by.
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
        # After whole periods the beginning of the next may wait, for no news but its end.
        return 0.0 if more or writer.pace.period_ns else writer.pace.interval_s or None

    def _due(self, pace: Pace) -> tuple[Sequence[Pulse], bool, float | None]:
        """The pulses that are due, and whether there are more; without any, the pause until there will be."""
        # Asked before reading: what is committed in between must not be missing from what is taken for complete.
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
        """The pause until the period of *first* is whole; none where it only was too long for one reading."""
        if more:
            self._least = 2 * self._read_limit(pace)
            return 0.0
        period_ns = pace.period_ns
        end_ns = (first.time_ns // period_ns + 1) * period_ns
        self._succeeded(State.OK)
        # At most a period: the clock may be set meanwhile.
        return min(max(end_ns - complete_ns, NS_PER_S), period_ns + NS_PER_S) / NS_PER_S

    def _took(self, batch: Sequence[Pulse], receipt: Receipt) -> None:
        if receipt.taken:
            self._skip(self.cursor.advance(batch[: receipt.taken], receipt.place))
            if self._most is not None:
                self._most = self._most * 2 if self._most < MOST_SEARCHED else None
        else:
            self.cursor.move(receipt.place)
        if receipt.refused:
            self._refuse(receipt.refused, receipt.reason)

    def _skip(self, pulses: int) -> None:
        if pulses:
            level = logging.DEBUG if self.skipped else logging.ERROR
            self.skipped += pulses
            log.log(
                level,
                "%s: %d pulses waited too long or were lost: it gets their energy with the next that is there, "
                "such pulses are counted from now on",
                self.name,
                pulses,
            )

    def _refuse(self, pulses: int, reason: str) -> None:
        level = logging.DEBUG if self.refused else logging.ERROR
        self.refused += pulses
        log.log(level, "%s: %d pulses were refused and are counted from now on: %s", self.name, pulses, reason)

    def _succeeded(self, state: State) -> None:
        if self._failures:
            log.info("%s: delivers again", self.name)
        self._failures = 0
        self._set_state(state, "")

    def _failed(self, error: DeliveryError, batch: Sequence[Pulse], pace: Pace) -> float:
        """Decide on *batch* by the table; return the pause until the next try, in s."""
        judged = verdict(error)
        half = unit_end(batch, len(batch) // 2, pace.period_ns)
        if judged in (Verdict.REFUSED, Verdict.TOO_LARGE) and half < len(batch):
            self._most = half
            return 0.0
        if judged is Verdict.REFUSED:
            # After a pause: a service that refuses everything is not asked once a pulse as fast as it answers.
            self._skip(self.cursor.advance(batch, self.cursor.position.place))
            self._refuse(len(batch), str(error))
            self._set_state(State.FAILING, str(error))
            return SHORTEST_PAUSE_S
        pause_s = self._fail(str(error), loud=judged is not Verdict.KEPT)
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
        # Jitter, so that the monitors of a street don't all come back to a service at once.
        return float(min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2**self._failures) * random.uniform(0.5, 1))

    def _set_state(self, state: State, reason: str) -> None:
        changed = (state is State.FAILING) != (self.state is State.FAILING)
        self.state, self.reason = state, reason
        if changed:
            self._on_state()


def whole_periods(pulses: Sequence[Pulse], period_ns: int, complete_ns: int, *, more: bool) -> Sequence[Pulse]:
    """
    The beginning of *pulses* whose periods are whole.

    A period is [n, n + 1) times *period_ns* since 1970. It is whole once it
    ended before *complete_ns*, and, if *more* pulses wait than these, once one
    of a later period stands behind it.
    """
    last = pulses[-1].time_ns // period_ns if more else None
    for index, pulse in enumerate(pulses):
        period = pulse.time_ns // period_ns
        end_ns = (period + 1) * period_ns
        # One far ahead is of a clock that was wrong then: nothing more falls into it, and it may be years off.
        if complete_ns < end_ns <= complete_ns + 2 * period_ns + 2 * NS_PER_S or period == last:
            return pulses[:index]
    return pulses


def unit_end(pulses: Sequence[Pulse], at: int, period_ns: int) -> int:
    """
    The end of a part of *pulses* that can be delivered alone: *at*, or with periods the last whole one's end before it.

    Never nothing: at least one pulse, or one period.
    """
    at = max(at, 1)
    if at >= len(pulses) or not period_ns:
        return min(at, len(pulses))
    ends = [i for i in range(1, len(pulses)) if pulses[i - 1].time_ns // period_ns != pulses[i].time_ns // period_ns]
    return max([end for end in ends if end <= at], default=[*ends, len(pulses)][0])
