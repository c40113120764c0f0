"""
The running program: board, recorder, lamps and deliveries put together, and how they do.

Owns every thread. They are started in the order in which data flows and ended
in it too, so that what was seen is counted, kept and, in the time given,
delivered.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

from powermeter import __version__
from powermeter.boards import Board
from powermeter.clock import Clock, ahead_ns
from powermeter.delivery import Delivery, State
from powermeter.errors import JournalError, PowerError
from powermeter.journal import Journal, MeterRecord, Row, is_damage
from powermeter.keeper import TRY_S, Keeper
from powermeter.lamps import Condition, Lamps
from powermeter.log import Log
from powermeter.meter import NS_PER_S, Constant, Flash, Meter, hold_off_ns
from powermeter.recorder import Recorder, Watchdog, WatchedMeter
from powermeter.salvage import open_journal
from powermeter.settings import MeterSettings, Settings
from powermeter.status import Status
from powermeter.writers import open_writer

log = logging.getLogger(__name__)

#: What the threads are given to end, in s; together less than the 10 that a stop may take.
RECORDER_STOP_S = 1.0
KEEPER_STOP_S = 3.0
WRITERS_STOP_S = 5.0

#: After every time there will be (UTC, ns): the largest int of SQLite.
FAR_NS = 2**63 - 1

#: A library's callback stamps an edge within this, in s; so much later a span of time is complete.
EDGE_DELAY_S = 1.0


class Handed(NamedTuple):
    """
    What one monitor hands over to the next: meters, by their names, and pulses that the journal does not have.

    *reached*: by a writer's name the counts that it has, by the meters' names, and its place. *dropped*: how many
    pulses were too many for the memory. *damaged*: the journal may be so; *closed*: it must not be opened.
    *settled*: the clock is believed.
    """

    meters: Mapping[str, Meter]
    unwritten: Sequence[Row] = ()
    reached: Mapping[str, tuple[Mapping[str, int], str]] = {}
    dropped: int = 0
    damaged: bool = False
    closed: bool = False
    settled: bool = False


class Monitor:
    """
    Counts from its entry as a context manager to its exit.

    *board* is watched already, and may stay so after :meth:`hand_over`; *before*
    is what the monitor before this one has handed over, of the meters that
    have stayed on their pins. The *last* one only writes what was handed over.
    *simulate* is passed on to :meth:`status`, and *since_s*, the monotonic time
    in s of the program's start, for its uptime.
    *on_progress* is called while a damaged journal is read; *stopping* is asked
    whether the program was told to stop, so that this ends.
    From any thread, *on_crash* is called when a bug ended a thread;
    :attr:`crashed` is set then; and *on_lost* when another monitor has to take
    over, as the journal must be opened anew; :attr:`lost` is set then.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        *,
        own_log: Log | None = None,
        simulate: float | bool | None,
        on_crash: Callable[[], None],
        on_lost: Callable[[], None],
        since_s: float | None = None,
        before: Handed | None = None,
        last: bool = False,
        watchdog: Watchdog | None = None,
        on_progress: Callable[[], None] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._on_progress = on_progress
        self._stopping = stopping
        self.crashed = False
        self._settings = settings
        self._board = board
        self._log = own_log
        self._before = before or Handed({})
        self._last = last
        self._watchdog = watchdog
        self._hands_over = False
        self._unwatches = True
        self._simulate = simulate
        self._on_crash, self._on_lost = on_crash, on_lost
        self._since_s = time.monotonic() if since_s is None else since_s
        self._ending_s = 0.0
        self._deliveries: list[tuple[Delivery, threading.Thread]] = []
        self._keeping: threading.Thread | None = None
        self._showing = threading.Lock()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Monitor":
        # Where all that counting needs was handed over it goes on without a journal, while the keeper tries to open it:
        # at once where it is damaged, as looking it over and saving what can be read of it may take minutes.
        handed = {meter.name for meter in self._settings.meters} <= self._before.meters.keys()
        if handed and self._before.closed:
            self._enter(unopened="it is looked over", try_in_s=TRY_S)
            return self
        if handed and self._before.damaged and not self._last:
            self._enter(unopened="it is damaged, and looked over")
            return self
        try:
            self._enter()
        except JournalError as error:
            if not handed:
                raise
            self._enter(unopened=str(error), try_in_s=TRY_S)
        return self

    def _enter(self, *, unopened: str = "", try_in_s: float = 0.0) -> None:
        with contextlib.ExitStack() as stack:
            try:
                self._start(stack, unopened, try_in_s)
            except sqlite3.Error as error:
                raise JournalError(f"{self._settings.data_dir}: the journal can't be used: {error}") from error
            self._stack = stack.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack, unopened: str, try_in_s: float) -> None:
        """Start all; each thing's end goes on *stack*, which undoes them in reverse."""
        settings, before = self._settings, self._before
        # What stands in for one that can't be opened is empty, and takes nothing.
        kept = self._journal = Journal(":memory:") if unopened else self._opened_journal()
        stack.callback(self._close_journal)
        self._reader = kept.reader()
        stack.callback(self._reader.close)
        board = self._board
        watched, unwritten = [], []
        for meter in settings.meters:
            rows = [row for row in before.unwritten if row.meter == meter.name]
            known = self._known(meter, rows)
            # A commit of the keeper before, which took too long to be waited for, may have written them.
            rows = [row for row in rows if row.number > known.count]
            unwritten += rows
            watched.append(self._watched(meter, known, max([known.count, *(row.number for row in rows)])))

        # An invented pulse is as old as it says.
        waits = self._simulate is None and not before.settled
        self._clock = Clock(settings.clock_wait_s if waits else 0)
        self._keeper = Keeper(
            kept,
            settings.commit_interval_s,
            clock=self._clock,
            keep_days=settings.keep_days,
            unwritten=unwritten,
            dropped=before.dropped,
            unopened=unopened,
            try_in_s=try_in_s,
            on_commit=self._wake_deliveries,
            on_state=self.show_condition,
            on_lost=self._on_lost,
            try_anew=lambda: self._open_journal(suspect=True).close(),
        )
        self._lamps = Lamps(board.light)
        self._recorder = Recorder(
            watched, board, self._keeper, self._lamps, on_state=self.show_condition, watchdog=self._watchdog
        )
        stack.callback(self._recorder.close)
        stack.callback(self._stop_deliveries)
        self._deliveries.clear()
        for writer in () if unopened or self._last else settings.writers:
            cursor = kept.cursor(writer.name)
            if writer.name in before.reached:
                cursor.resume(*before.reached[writer.name])
            delivery = Delivery(
                writer.name,
                functools.partial(open_writer, writer, settings.writers),
                cursor,
                complete_ns=self._complete_ns,
                on_state=self.show_condition,
                on_damage=self._keeper.suspect,
            )
            self._deliveries.append((delivery, self._thread(f"writer {writer.name}", delivery.run)))

        self._keeping = keeping = self._started("journal", self._keeper.run)
        stack.callback(self._stop_keeper, keeping)
        stack.callback(self._stop_recorder, self._started("recorder", self._recorder.run))
        for _, thread in self._deliveries:
            thread.start()
        log.info("counting: %s", ", ".join(f"{w.meter.name} from {w.meter.register_kwh:.3f} kWh on" for w in watched))

    def _opened_journal(self) -> Journal:
        """The journal; at a stop within KEEPER_STOP_S: looking it over may take minutes, and a dead disk for ever."""
        if not self._last:
            return self._open_journal(suspect=self._before.damaged)
        opened: list[Journal | PowerError] = []

        def work() -> None:
            try:
                opened.append(self._open_journal(suspect=self._before.damaged))
            except PowerError as error:
                opened.append(error)

        self._started("opening", work).join(KEEPER_STOP_S)
        if not opened:
            raise JournalError(f"{self._settings.data_dir}: the journal was not open in {KEEPER_STOP_S:g} s")
        (found,) = opened
        if isinstance(found, PowerError):
            raise found
        return found

    def _open_journal(self, *, suspect: bool) -> Journal:
        return open_journal(
            os.path.join(self._settings.data_dir, "journal.db"),
            {meter.name: meter.impulses_per_kwh for meter in self._settings.meters},
            suspect=suspect,
            progress=self._on_progress,
            stopped=self._stops(),
        )

    def _stops(self) -> Callable[[], bool]:
        """What tells whether opening the journal must end: at once at a start; later pulses may wait for it."""
        patience_s = KEEPER_STOP_S if self._before.meters or self._before.unwritten else 0.0
        end_s = math.inf

        def stops() -> bool:
            nonlocal end_s
            if not self._stopping():
                return False
            end_s = min(end_s, time.monotonic() + patience_s)
            return time.monotonic() >= end_s

        return stops

    def _known(self, settings: MeterSettings, unwritten: Sequence[Row]) -> MeterRecord:
        """The meter in the journal; where that is another one now it begins there behind what was written."""
        before = self._before.meters.get(settings.name)
        begin = None
        if before:
            count = unwritten[0].number - 1 if unwritten else before.count
            begin = Constant(before.constant.impulses_per_kwh, count, before.constant.register_at(count))
        return self._journal.meter(settings.name, settings.impulses_per_kwh, begin)

    def _watched(self, settings: MeterSettings, known: MeterRecord, count: int) -> WatchedMeter:
        """The meter, going on from *count*, or from where it was."""
        before = self._before.meters.get(settings.name)
        hold_off = hold_off_ns(settings.impulses_per_kwh, settings.max_watts)
        # Only a simulated meter's flashes have no length where one is asked for: the other boards refuse it.
        judged = settings.min_flash_ms is not None and self._board.sees_ends
        shortest = round((settings.min_flash_ms or 0) * 1e6) if judged else None
        if before:
            # What was counted stays so, whatever a journal that was lost has of it.
            meter = dataclasses.replace(before, constant=known.constant, count=max(count, before.count))
            meter.flash.hold_off_ns, meter.flash.min_flash_ns = hold_off, shortest
        else:
            meter = Meter(settings.name, known.constant, Flash(hold_off, shortest), count)
        return WatchedMeter(meter, settings.silence_minutes, is_contact=settings.sensor == "contact")

    def end_deliveries(self) -> None:
        """Let the deliveries end, and nothing else."""
        self._ending_s = self._ending_s or time.monotonic()
        for delivery, _ in self._deliveries:
            delivery.stop()

    @property
    def delivering(self) -> list[str]:
        """The writers whose deliveries have not ended."""
        return [delivery.name for delivery, thread in self._deliveries if thread.is_alive()]

    def hand_over(self, *, watched: bool) -> Callable[[], Handed]:
        """
        Let another take over at the exit; return what tells, after that, what there is to hand over.

        The board stays *watched*; else it is another's turn, and the meters are not handed over.
        """
        self._hands_over, self._unwatches = True, not watched

        def handed() -> Handed:
            return Handed(
                {one.meter.name: one.meter for one in self._recorder.meters} if watched else {},
                self._keeper.waiting(),
                {
                    **self._before.reached,
                    **{delivery.name: delivery.cursor.position for delivery, _ in self._deliveries},
                },
                self._keeper.dropped,
                self._keeper.damaged,
                # One that did not end in time may still set it aside.
                self._keeper.opening and self._left_behind,
                self._keeper.settled,
            )

        return handed

    @property
    def lost(self) -> bool:
        """Whether the journal has to be opened anew."""
        return self._keeper.lost

    @property
    def unsure(self) -> bool:
        """Whether what is counted may wait for a journal that is lost, damaged, or not open yet."""
        return bool(self._keeper.lost or self._keeper.damaged or self._keeper.unopened)

    @property
    def openable(self) -> bool:
        """After the exit: whether the journal has to be opened anew, and nobody is at it any more."""
        return self._keeper.lost and not self._left_behind

    @property
    def _left_behind(self) -> bool:
        """After the exit: whether the keeper did not end in time."""
        return self._keeping is not None and self._keeping.is_alive()

    @property
    def settled(self) -> bool:
        """Whether the clock is believed."""
        return self._keeper.settled

    def _started(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = self._thread(name, work)
        thread.start()
        return thread

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """A thread that can't end in silence. It may be left behind at the end, where its service or disk hangs."""

        def run() -> None:
            try:
                work()
            except PowerError as error:
                log.critical("%s: %s, the program ends", name, error)
                self.crashed = True
                self._on_crash()
            except BaseException:
                log.critical("%s: ended by a bug, the program ends", name, exc_info=True)
                self.crashed = True
                self._on_crash()

        return threading.Thread(target=run, name=name, daemon=True)

    def _stop_recorder(self, thread: threading.Thread) -> None:
        self._recorder.stop(unwatch=self._unwatches)
        thread.join(RECORDER_STOP_S)

    def _stop_keeper(self, thread: threading.Thread) -> None:
        self._keeper.stop()
        thread.join(KEEPER_STOP_S)
        if thread.is_alive():
            # Another will write what it has not written yet.
            self._keeper.lost = self._keeper.lost or self._hands_over
        else:
            # What a bug that ended its thread has left.
            try:
                self._keeper.save()
            except Exception:
                log.debug("journal: what is left can't be written either: a bug", exc_info=True)

    def _stop_deliveries(self) -> None:
        self.end_deliveries()
        end_s = self._ending_s + WRITERS_STOP_S
        for delivery, thread in self._deliveries:
            if thread.ident is not None:  # it was started
                thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                log.warning("%s: did not end in %g s: what waits stays in the journal", delivery.name, WRITERS_STOP_S)
            else:
                delivery.cursor.close()

    def _close_journal(self) -> None:
        # Judged last: a slow disk has had the writers' time too.
        if self._keeping is not None and not self._hands_over and (lost := len(self._keeper.waiting())):
            self.crashed = True
            log.critical("journal: %d pulses could not be written and are lost", lost)
        # Not under a keeper that hangs in a write: closing would wait for it.
        if self._keeping is None or not self._keeping.is_alive():
            self._journal.close()

    def _wake_deliveries(self) -> None:
        for delivery, _ in self._deliveries:
            delivery.wake()

    def _complete_ns(self) -> int | None:
        """The time before which no pulse will be added any more (UTC, ns); None while new ones have no time."""
        if not self._keeper.settled:
            return None
        behind_ns = time.monotonic_ns() - self._recorder.complete_ns()
        seen_ns = time.time_ns() - behind_ns - round(EDGE_DELAY_S * NS_PER_S)
        # Not the first alone: one that was judged by its length comes after others that are younger.
        ahead = ahead_ns()
        return min([seen_ns, *(row.at_ns + ahead for row in self._keeper.waiting())])

    def show_condition(self) -> None:
        """Have L2 show how all does now; from any thread."""
        # By one thread at a time: of two the later look must also be shown later.
        with self._showing:
            if self._recorder.faulty:
                condition = Condition.INPUT_FAULT
            elif (
                self._keeper.failing
                or self.log_failing
                or any(delivery.state is State.FAILING for delivery, _ in self._deliveries)
            ):
                condition = Condition.FAILING
            else:
                condition = Condition.WELL
            self._lamps.show(condition)
        self._recorder.look()

    # --- How it does; for the thread that entered

    @property
    def failing(self) -> str:
        """Why the journal can't be written; "" while it can."""
        return self._keeper.failing

    @property
    def log_failing(self) -> str:
        """Why the log can't be written; "" while it can."""
        return "" if self._log is None else self._log.failing

    def status(self) -> Status:
        """
        How all does now, as a dict that JSON can hold.

        Power in W, energy in kWh, times in s; None is "not known".
        """
        uncommitted = self._keeper.waiting()
        waits_s = 0.0 if self._keeper.settled else self._clock.waits_s
        with self._reader.snapshot():
            fresh = self._not_in_journal(uncommitted)
            meters = {watched.meter.name: self._meter_status(watched, fresh) for watched in self._recorder.meters}
            writers = {delivery.name: self._writer_status(delivery, fresh) for delivery, _ in self._deliveries}
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._since_s, 1),
            "running": True,
            "simulate": self._simulate,
            "clock": {"waiting": waits_s > 0, "waits_s": round(waits_s)},
            "journal": {
                "failing": self._keeper.failing,
                "uncommitted": len(uncommitted),
                "dropped": self._keeper.dropped,
            },
            "log": {"failing": self.log_failing},
            "meters": meters,
            "writers": writers,
        }

    def _look_at(self, error: sqlite3.Error) -> None:
        if is_damage(error):
            self._keeper.suspect(str(error))

    def _not_in_journal(self, uncommitted: list[Row]) -> list[Row]:
        """The rows of *uncommitted* that no commit has written since it was copied."""
        try:
            last = {watched.meter.name: self._reader.last(watched.meter.name) for watched in self._recorder.meters}
        except sqlite3.Error as error:
            self._look_at(error)
            return uncommitted
        return [row for row in uncommitted if row.number > last[row.meter]]

    def _meter_status(self, watched: WatchedMeter, fresh: list[Row]) -> Status:
        meter = watched.meter
        midnight_ns, ahead = _local_midnight_ns(), ahead_ns()
        try:
            pulses, kwh = self._reader.span(meter.name, midnight_ns, FAR_NS)
        except sqlite3.Error as error:
            self._look_at(error)
            today: Status = {"pulses_today": None, "kwh_today": None}
        else:
            of_today = sum(row.meter == meter.name and row.at_ns + ahead >= midnight_ns for row in fresh)
            kwh += of_today * meter.constant.watt_hours / 1000
            today = {"pulses_today": pulses + of_today, "kwh_today": kwh}
        # An edge that waits for L1 is no silence.
        watts, bound = meter.watts_at(self._recorder.taken_ns())
        return {
            "watts": watts,
            "watts_is_bound": bound,
            **today,
            "pulses": meter.count,
            "register_kwh": meter.register_kwh,
            "rejected": meter.flash.rejected,
            "rejected_after_stall": meter.flash.rejected_late,
            "too_short": meter.flash.too_short,
            "counted_without_being_seen": meter.made_up,
            "flash_ms": None if meter.flash.length_ns is None else meter.flash.length_ns / 1e6,
            "silent": watched.silent,
            "stuck": watched.stuck,
            "flickers": watched.flickers,
            "noisy": watched.noisy,
        }

    def _writer_status(self, delivery: Delivery, fresh: list[Row]) -> Status:
        waiting: int | None
        try:
            waiting, oldest_ns = self._reader.waiting(delivery.cursor.position)
        except sqlite3.Error as error:
            self._look_at(error)
            waiting, oldest_ns = None, None
        else:
            waiting += len(fresh)
            if oldest_ns is None and fresh:
                oldest_ns = fresh[0].at_ns + ahead_ns()
        return {
            "state": delivery.state.value,
            "reason": delivery.reason,
            "waiting": waiting,
            "oldest_s": None if oldest_ns is None else round(max(0.0, (time.time_ns() - oldest_ns) / NS_PER_S), 1),
            "refused": delivery.refused,
            "skipped": delivery.skipped,
        }


def _local_midnight_ns() -> int:
    """When the local day began (UTC, ns)."""
    now = time.localtime()
    return round(time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1))) * NS_PER_S
