"""
The running program: puts together board, recorder, keeper, lamps, deliveries and views, and reports their status.

Owns every thread. Each lives as long as what it serves: the recorder as long as
its board, the keeper as long as the program, a delivery as long as its entry in
the settings. A stop ends them in the order in which data flows, so that every
flash that was seen is counted, written and, if there is time, delivered.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from powermeter import __version__
from powermeter.boards import Board
from powermeter.clock import REAL_CLOCK, Clock
from powermeter.delivery import Delivery, State
from powermeter.errors import BoardError, PowerError
from powermeter.inputs import WatchedMeter
from powermeter.journal.cursor import Cursor
from powermeter.journal.journal import Change, Face, Journal, Judged, Row
from powermeter.journal.salvage import open_journal
from powermeter.keeper import Keeper
from powermeter.lamps import Condition, Lamps
from powermeter.log import Log
from powermeter.lookup import Found, Lookup
from powermeter.meter import NS_PER_S, Constant, Flash, Meter, hold_off_ns, kwh_of
from powermeter.recorder import Recorder, Watchdog
from powermeter.settings.values import JOURNAL, MeterSettings, Settings, ShownAs, WriterSettings
from powermeter.status import ClockStatus, JournalStatus, LogStatus, MeterStatus, Status, ViewStatus, WriterStatus
from powermeter.views.mqtt.view import MqttView
from powermeter.views.page.server import PageServer
from powermeter.writers import open_writer

log = logging.getLogger(__name__)

#: For how many readings, the latest ones, the result is kept until it is asked for.
MAX_JUDGEMENTS = 10

#: How long the threads may take to end, in s; together less than the 10 s that a stop may take.
RECORDER_STOP_S = 1.0
KEEPER_STOP_S = 3.0
WRITERS_STOP_S = 5.0

#: How long the views may take to end, in s: a view's thread may be making a status, which waits for the file.
VIEWS_STOP_S = 0.8

#: How long MQTT may take to remove what it has published when it is removed from the settings, in s.
WITHDRAW_S = 2.0

#: How long a change of the meters may wait for the recorder, in s: it sleeps through a phase of L1 at most.
CHANGE_S = 2.0

#: A library's callback timestamps an edge within this time, in s: this much later, a time span is complete.
EDGE_DELAY_S = 1.0


class Monitor:
    """
    A context manager that counts from its entry to its exit.

    *open_board* makes the board for the given settings, not yet watched.
    *simulate* is passed on to :meth:`status`. *stopping* returns whether a stop
    has been requested; it is called while the journal is opened. *new_journal*
    replaces :func:`~powermeter.journal.salvage.open_journal` for a journal that
    takes long to make: it is called on the keeper's thread, while counting has
    begun. *clock* tells the time. *on_crash* is called, from any thread, when a
    bug has ended a thread; :attr:`crashed` is then set.
    """

    def __init__(
        self,
        settings: Settings,
        open_board: Callable[[Settings], Board],
        *,
        own_log: Log | None = None,
        simulate: float | bool | None,
        on_crash: Callable[[], None],
        watchdog: Watchdog | None = None,
        stopping: Callable[[], bool] = lambda: False,
        clock: Clock = REAL_CLOCK,
        new_journal: Callable[..., Journal] | None = None,
    ) -> None:
        self.crashed = False
        self.settings = settings
        self._open_board = open_board
        self._log = own_log
        self._watchdog = watchdog
        self._stopping = stopping
        self._new_journal = new_journal
        self.simulate = simulate
        self._on_crash = on_crash
        self._clock = clock
        self._since_s = clock.monotonic_s()
        #: By name, each meter that was ever counted: one that comes back continues from its count.
        self._meters: dict[str, Meter] = {}
        #: The results of the latest readings, by the time at which they were taken (UTC, ns).
        self._judgements: dict[int, Judged] = {}
        #: By the writer's name, its delivery and the delivery's thread; and the same for deliveries that were replaced.
        self._deliveries: dict[str, tuple[Delivery, threading.Thread]] = {}
        self._replaced: list[tuple[Delivery, threading.Thread]] = []
        self._recording: threading.Thread | None = None
        self._keeping: threading.Thread | None = None
        #: The page and its thread; None without a page.
        self._page: tuple[PageServer, threading.Thread] | None = None
        #: The same for MQTT.
        self._mqtt: tuple[MqttView, threading.Thread] | None = None
        self._showing = threading.Lock()
        #: Held while parts are changed, and while their status is read.
        self._changing = threading.Lock()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Monitor":
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Start everything; what ends each part goes on *stack*, which calls it in reverse order."""
        settings = self.settings
        self._board = self._watched_board(settings)
        stack.callback(self._close_board)
        self._keeper = Keeper(
            os.path.join(settings.data_dir, JOURNAL),
            settings.commit_interval_s,
            clock=self._clock,
            clock_wait_s=self._clock_wait_s(settings),
            keep_days=settings.keep_days,
            on_commit=self._wake_deliveries,
            on_state=self.show_condition,
            on_judged=self._take_judgement,
            open_file=self._new_journal or open_journal,
        )
        for meter in settings.meters:
            self._keeper.enter(meter.name, meter.impulses_per_kwh)
        stack.callback(self._close_journal)
        self._lookup = Lookup(self._keeper.path)
        self._start_recorder([self._watched(meter, self._board) for meter in settings.meters])
        stack.callback(self._close_recorder)
        for writer in settings.writers:
            self._prepare_delivery(writer, settings)
        if self._new_journal is None:
            self._keeper.open(self._stopping)
        stack.callback(self._stop_deliveries)
        self._keeping = self._started("journal", self._keeper.run)
        stack.callback(self._stop_keeper)
        stack.callback(self._stop_recorder)
        self._recording = self._started("recorder", self._recorder.run)
        for _, thread in self._deliveries.values():
            thread.start()
        if self._log is not None:
            self._log.on_state = self.show_condition
        log.info("counting: %s", ", ".join(self._with_register(meter.name) for meter in settings.meters))
        stack.callback(self._stop_views)
        self._start_page(settings)
        self._start_mqtt(settings)

    def _with_register(self, name: str) -> str:
        begin = self._keeper.tallies[name].begin
        return name if begin is None else f"{name} from {begin[1]:.3f} kWh on"

    def _watched_board(self, settings: Settings) -> Board:
        board = self._open_board(settings)
        try:
            board.watch()
        except BaseException:
            board.close()
            raise
        return board

    def _close_board(self) -> None:
        self._board.close()

    def _close_recorder(self) -> None:
        self._recorder.close()

    def _clock_wait_s(self, settings: Settings) -> float:
        # A simulated pulse needs no right clock.
        return settings.clock_wait_s if self.simulate is None else 0

    def _start_recorder(self, watched: list[WatchedMeter]) -> None:
        self._lamps = Lamps(self._board.light)
        self._recorder = Recorder(
            watched, self._board, self._keeper, self._lamps, on_state=self.show_condition, watchdog=self._watchdog
        )

    def _watched(self, settings: MeterSettings, board: Board) -> WatchedMeter:
        """The meter of *settings*, new on its input; its count continues from where it was."""
        before = self._meters.get(settings.name) or Meter(settings.name, Constant(settings.impulses_per_kwh), Flash(0))
        meter = Meter(settings.name, before.constant, _flash(settings, board), before.count)
        self._meters[settings.name] = meter
        return WatchedMeter(meter, settings.silence_minutes, **_kind_of_input(settings))

    # --- Deliveries

    def _prepare_delivery(
        self, writer: WriterSettings, settings: Settings, before: tuple[Delivery, threading.Thread] | None = None
    ) -> None:
        """Prepare a delivery, without starting its thread; it continues where *before*, of the same name, ends."""
        cursor = before[0].cursor if before else Cursor(writer.name)
        self._keeper.follow(cursor)
        delivery = Delivery(
            writer.name,
            functools.partial(open_writer, writer, settings.writers),
            cursor,
            complete_ns=self._complete_ns,
            on_state=self.show_condition,
            on_damage=self._keeper.suspect,
            after=before[1].join if before else lambda: None,
        )
        self._deliveries[writer.name] = delivery, self._thread(f"writer {writer.name}", delivery.run)

    def _stop_deliveries(self) -> None:
        of_all = [*self._replaced, *self._deliveries.values()]
        for delivery, _ in of_all:
            delivery.stop()
        end_s = self._clock.monotonic_s() + WRITERS_STOP_S
        for delivery, thread in of_all:
            if thread.ident is not None:  # it was started
                thread.join(max(0.0, end_s - self._clock.monotonic_s()))
            if thread.is_alive():
                log.warning(
                    "%s: did not end within %g s: waiting pulses stay in the journal", delivery.name, WRITERS_STOP_S
                )

    def _wake_deliveries(self) -> None:
        for delivery, _ in list(self._deliveries.values()):
            delivery.wake()

    def _complete_ns(self) -> int | None:
        """The time before which no more pulses will be added (UTC, ns); None while new ones have no time."""
        if not self._keeper.settled or not self._keeper.opened:
            return None
        behind_ns = self._clock.monotonic_ns() - self._recorder.complete_ns()
        seen_ns = self._clock.wall_ns() - behind_ns - round(EDGE_DELAY_S * NS_PER_S)
        # All times, not only the first row's: a flash that is judged by its length is counted after later ones.
        ahead = self._clock.ahead_ns()
        return min([seen_ns, *(row.at_ns + ahead for row in self._keeper.waiting())])

    # --- The views

    def _start_page(self, settings: Settings) -> None:
        if settings.page is None:
            return
        server = PageServer(
            settings.page,
            self._keeper.path,
            _shown_as(settings),
            status=lambda: self.status().as_dict(),
            on_state=self.show_condition,
        )
        self._page = server, self._thread("view page", server.run)
        self._page[1].start()

    def _stop_page(self) -> None:
        if self._page is not None:
            server, thread = self._page
            server.stop()
            thread.join(VIEWS_STOP_S)
            self._page = None

    def _start_mqtt(self, settings: Settings) -> None:
        if settings.mqtt is None:
            return
        view = MqttView(
            settings.mqtt,
            status=self.status,
            about=lambda: self._keeper.about,
            note=self._keeper.note,
            on_state=self.show_condition,
        )
        self._mqtt = view, self._thread("view mqtt", view.run)
        self._mqtt[1].start()

    def _stop_mqtt(self, seconds: float, *, withdraw: bool = False) -> None:
        if self._mqtt is not None:
            view, thread = self._mqtt
            view.stop(withdraw=withdraw)
            thread.join(seconds)
            self._mqtt = None

    def _stop_views(self) -> None:
        if self._mqtt is not None:
            self._mqtt[0].stop()  # it ends while the page ends
        self._stop_page()
        self._stop_mqtt(VIEWS_STOP_S)

    def _change_views(self, before: Settings, now: Settings) -> None:
        self._change_page(before, now)
        # MQTT learns of other meters and labels from the status.
        if now.mqtt != before.mqtt:
            gone = now.mqtt is None
            self._stop_mqtt(WITHDRAW_S if gone else VIEWS_STOP_S, withdraw=gone)
            self._start_mqtt(now)

    def _change_page(self, before: Settings, now: Settings) -> None:
        if (now.page, _shown_as(now)) != (before.page, _shown_as(before)):
            self._stop_page()
            self._start_page(now)

    # --- Threads

    def _started(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = self._thread(name, work)
        thread.start()
        return thread

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """A thread whose crash ends the program. If its service or disk hangs, it may be left behind at the end."""

        def run() -> None:
            try:
                work()
            except PowerError as error:
                log.critical("%s: %s, the program ends", name, error)
                self.crash()
            except BaseException:
                log.critical("%s: ended by a bug, the program ends", name, exc_info=True)
                self.crash()

        return threading.Thread(target=run, name=name, daemon=True)

    def crash(self) -> None:
        """End the program with status 1; from any thread."""
        self.crashed = True
        self._on_crash()

    def _stop_recorder(self) -> None:
        self._recorder.stop()
        if self._recording is not None:
            self._recording.join(RECORDER_STOP_S)

    def _stop_keeper(self) -> None:
        keeping = self._keeping
        if keeping is None:
            return
        self._keeper.stop()
        keeping.join(KEEPER_STOP_S)
        if not keeping.is_alive():
            # For entries that remain after a bug has ended its thread.
            try:
                self._keeper.save()
            except Exception:
                log.debug("journal: the remaining pulses can't be written either: a bug", exc_info=True)

    def _close_journal(self) -> None:
        self._lookup.close()
        # Checked last, as a slow disk had until now to finish.
        # Simulated pulses may be lost together with a new journal whose making was stopped.
        unmade = self._new_journal is not None and not self._keeper.opened
        if self._keeping is not None and not unmade and (lost := len(self._keeper.waiting())):
            self.crashed = True
            log.critical("journal: %d pulses could not be written and are lost", lost)
        # Not while the keeper hangs in a write: closing would wait for it.
        if self._keeping is None or not self._keeping.is_alive():
            self._keeper.close()

    # --- Other settings

    def change(self, settings: Settings) -> None:
        """
        Continue with *settings*; only parts whose settings differ are changed.

        Raises :exc:`~powermeter.errors.PowerError` if they can't take effect;
        the previous ones then stay in force.
        """
        before = self.settings
        with self._changing:
            self._change(before, settings)
        # Not while the lock is held: a view may be waiting for a status.
        self._change_views(before, settings)
        self.show_condition()

    def _change(self, before: Settings, settings: Settings) -> None:
        self._refuse_what_needs_a_restart(settings)
        if self._pins(settings) != self._pins(before):
            self._change_board(settings)
        else:
            self._change_meters(settings)
        self._keeper.commit_interval_s = settings.commit_interval_s
        self._keeper.keep_days = settings.keep_days
        self._keeper.clock_wait_s = self._clock_wait_s(settings)
        self.settings = settings
        self._change_writers(before, settings)
        for name in self._keeper.tallies.keys() - {meter.name for meter in settings.meters}:
            self._keeper.leave(name)
        self._keeper.wake()

    def _refuse_what_needs_a_restart(self, settings: Settings) -> None:
        for name, before, now in (
            ("DATA_DIR", self.settings.data_dir, settings.data_dir),
            ("LOG_FILE", self.settings.log_file, settings.log_file),
            # RPi.GPIO accepts only one numbering during the life of a process.
            ("PIN_NUMBERING", self.settings.pin_numbering, settings.pin_numbering),
        ):
            if before != now:
                raise PowerError(f"{name}: was {before}, is {now}: restart to change it")
        judged = [meter.name for meter in settings.meters if meter.min_flash_ms is not None]
        if judged and self.simulate is None and not self._board.sees_ends:
            raise PowerError(f"min_flash_ms of {judged[0]}: RPi.GPIO does not tell how long a flash is, gpiod does")

    def _pins(self, settings: Settings) -> tuple[object, ...]:
        """The settings that a board depends on."""
        if self.simulate is not None:  # its flashes depend on everything about the meters
            return (settings.meters,)
        return (
            settings.gpio_library,
            settings.gpio_chip,
            tuple((meter.pin, meter.pull, meter.lit) for meter in settings.meters),
            settings.l1_pin,
            settings.l2_pin,
        )

    def _change_board(self, settings: Settings) -> None:
        """Continue with the board of *settings* and a new recorder; if it can't be opened, with the previous pins."""
        if self.simulate is None:
            self._try_pins(settings)
        self._stop_recorder()
        self._recorder.close()
        self._board.close()
        error = None
        try:
            self._board = self._watched_board(settings)
        except BoardError as refused:
            error, settings = refused, self.settings
            try:
                self._board = self._watched_board(settings)
            except BoardError:
                self.crash()  # nothing is left to count with
                raise
        for meter in settings.meters:
            self._enter(meter)
        self._start_recorder([self._watched(meter, self._board) for meter in settings.meters])
        self._recording = self._started("recorder", self._recorder.run)
        self.show_condition()
        if error is not None:
            raise error

    def _try_pins(self, settings: Settings) -> None:
        """Try to open those pins of *settings* that are not open yet, while counting goes on with the others."""
        before = self.settings
        if (settings.gpio_library, settings.gpio_chip) == (before.gpio_library, before.gpio_chip):
            had = {before.l1_pin, before.l2_pin, *(meter.pin for meter in before.meters)}
            settings = dataclasses.replace(
                settings,
                meters=tuple(meter for meter in settings.meters if meter.pin not in had),
                l1_pin=None if settings.l1_pin in had else settings.l1_pin,
                l2_pin=None if settings.l2_pin in had else settings.l2_pin,
            )
        if settings.meters:
            self._watched_board(settings).close()

    def _change_meters(self, settings: Settings) -> None:
        """Have the recorder change to *settings* between two edges, on the same inputs."""
        done = threading.Event()
        recorder, board = self._recorder, self._board

        def work() -> None:
            for index, meter in enumerate(settings.meters):
                recorder.meters[index] = self._changed(recorder.meters[index], meter, board)
            done.set()

        recorder.change(work)
        done.wait(CHANGE_S)

    def _changed(self, watched: WatchedMeter, settings: MeterSettings, board: Board) -> WatchedMeter:
        """The watched meter by *settings* on the input of *watched*; on the recorder's thread."""
        self._enter(settings)
        if watched.meter.name != settings.name:
            if (since_ns := watched.missed(ends=True)) is not None:
                self._keeper.miss(watched.meter.name, since_ns, self._clock.monotonic_ns())
            return self._watched(settings, board)
        of_input = _flash(settings, board)
        watched.meter.flash.hold_off_ns = of_input.hold_off_ns
        watched.meter.flash.min_flash_ns = of_input.min_flash_ns
        watched.change(settings.silence_minutes, **_kind_of_input(settings))
        return watched

    def _enter(self, settings: MeterSettings) -> None:
        """Have the keeper take the meter's pulses, from the next one on with the constant in *settings*."""
        meter = self._meters.get(settings.name)
        self._keeper.enter(settings.name, settings.impulses_per_kwh)
        if meter is not None and meter.constant.impulses_per_kwh != settings.impulses_per_kwh:
            self._keeper.change(Change(settings.name, meter.count, settings.impulses_per_kwh))
            meter.constant = Constant(settings.impulses_per_kwh, meter.count, meter.register_kwh)

    def _change_writers(self, before: Settings, now: Settings) -> None:
        """Replace the deliveries whose entries differ; each new one first waits for its predecessor."""
        entries = {writer.name: _entry(writer, before) for writer in before.writers}
        wanted = {writer.name: writer for writer in now.writers}
        starting = []
        for name, (delivery, thread) in list(self._deliveries.items()):
            if name in wanted and _entry(wanted[name], now) == entries.get(name):
                continue
            delivery.stop()
            del self._deliveries[name]
            self._replaced.append((delivery, thread))
            if name in wanted:
                self._prepare_delivery(wanted[name], now, (delivery, thread))
                starting.append(name)
            else:
                self._keeper.forget(delivery.cursor)
        for name, writer in wanted.items():
            if name not in self._deliveries:
                # A writer that was removed and is added again may not have finished its last request.
                before_it = next((one for one in self._replaced if one[0].name == name and one[1].is_alive()), None)
                self._prepare_delivery(writer, now, before_it)
                starting.append(name)
        self._replaced = [one for one in self._replaced if one[1].is_alive()]
        # In the order of the settings, which is the order in which they are shown.
        self._deliveries = {name: self._deliveries[name] for name in wanted}
        for name in starting:
            self._deliveries[name][1].start()

    # --- Readings of a meter's face

    def read_face(self, name: str, kwh: float, decimals: int, *, force: bool) -> int:
        """
        Set the register of the meter *name* to *kwh* from its next pulse on.

        Returns the number to pass to :meth:`judged`. Raises :exc:`~powermeter.errors.PowerError` if that can't be done.
        """
        settings = next((meter for meter in self.settings.meters if meter.name == name), None)
        if settings is None:
            raise PowerError(f"{name}: no such meter: {', '.join(meter.name for meter in self.settings.meters)}")
        if waits_s := self._keeper.waits_s:
            raise PowerError(f"the clock is not known to be right yet: try again in {math.ceil(waits_s / 60)} minutes")
        if self._keeper.failing:
            raise PowerError(f"journal: {self._keeper.failing}: the reading can't be saved now")
        time_ns = self._clock.wall_ns()
        recorder = self._recorder

        def work() -> None:
            number = self._meters[name].count
            self._keeper.change(Face(name, number, time_ns, kwh, decimals, settings.max_watts, force))

        recorder.change(work)
        return time_ns

    def judged(self, asked: int) -> Judged | None:
        """The result of the reading that :meth:`read_face` was given; None until it is on the disk."""
        return self._judgements.get(asked)

    def _take_judgement(self, judged: Judged) -> None:
        """Keep the result of a reading, and have the register follow it; on the keeper's thread."""
        if not judged.refused:
            name = judged.face.meter
            by_kwh = judged.reading.face_kwh - judged.reading.register_kwh

            def work() -> None:
                meter = self._meters[name]
                constant = meter.constant
                meter.constant = dataclasses.replace(constant, register_kwh=constant.register_kwh + by_kwh)

            self._recorder.change(work)
        self._judgements[judged.face.time_ns] = judged
        if len(self._judgements) > MAX_JUDGEMENTS:
            del self._judgements[next(iter(self._judgements))]

    # --- Status

    def show_condition(self) -> None:
        """Have L2 show the current state of everything; from any thread."""
        # One thread at a time, so that the latest state is the one that stays.
        with self._showing:
            if self._recorder.faulty:
                condition = Condition.INPUT_FAULT
            elif (
                self._keeper.failing
                or self.log_failing
                or any(delivery.state is State.FAILING for delivery, _ in list(self._deliveries.values()))
                or any(view.state == "failing" for view in self._views().values())
            ):
                condition = Condition.FAILING
            else:
                condition = Condition.WELL
            self._lamps.show(condition)
            self._recorder.wake()

    @property
    def log_failing(self) -> str:
        """Why the log can't be written; "" while it can."""
        return "" if self._log is None else self._log.failing

    def status(self) -> Status:
        """
        The current status; from any thread.

        Values that only the file has are None while the file does not answer.
        """
        with self._changing:
            return self._status()

    def _status(self) -> Status:
        keeper = self._keeper
        uncommitted = keeper.waiting()
        waits_s = keeper.waits_s
        # Read before the file is asked for the constants, so that these cover every pulse that is counted here.
        counts = {name: tally.begin[0] + tally.written for name, tally in keeper.tallies.items() if tally.begin}
        found = self._lookup.ask(
            keeper.opened,
            [watched.meter.name for watched in self._recorder.meters],
            {name: delivery.cursor.position for name, (delivery, _) in self._deliveries.items()},
        )
        if found.damage:
            keeper.suspect(found.damage)
        fresh = self._not_in_journal(uncommitted, found)
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(self._clock.monotonic_s() - self._since_s, 1),
            running=True,
            simulate=self.simulate,
            left_out=self.settings.left_out,
            settings=self.settings.path,
            data_dir=self.settings.data_dir,
            clock=ClockStatus(waits_s > 0, round(waits_s)),
            journal=JournalStatus(keeper.failing, len(uncommitted), keeper.dropped),
            log=LogStatus(self.log_failing),
            meters={w.meter.name: self._meter_status(w, fresh, found, counts) for w in self._recorder.meters},
            writers={name: self._writer_status(of, fresh, found) for name, (of, _) in self._deliveries.items()},
            views=self._views(),
        )

    def _views(self) -> dict[str, ViewStatus]:
        views = {"page": self._page, "mqtt": self._mqtt}
        return {name: view[0].status for name, view in views.items() if view is not None}

    def _not_in_journal(self, uncommitted: list[Row], found: Found) -> list[Row]:
        """The rows of *uncommitted* that no commit has written since it was copied."""
        begins = {name: tally.begin[0] for name, tally in self._keeper.tallies.items() if tally.begin is not None}
        return [row for row in uncommitted if begins.get(row.meter, 0) + row.number > found.lasts.get(row.meter, 0)]

    def _meter_status(
        self, watched: WatchedMeter, fresh: Sequence[Row], found: Found, counts: Mapping[str, int]
    ) -> MeterStatus:
        meter = watched.meter
        worth = found.constants.get(meter.name)
        begin = self._keeper.tallies[meter.name].begin
        pulses_today, kwh_today = None, None
        if meter.name in found.today:
            pulses, kwh = found.today[meter.name]
            ahead = self._clock.ahead_ns()
            of_today = sum(row.meter == meter.name and row.at_ns + ahead >= found.midnight_ns for row in fresh)
            pulses_today, kwh_today = pulses + of_today, kwh + of_today * meter.constant.watt_hours / 1000
        # Up to that time only: an edge may be waiting for L1, which is not silence.
        watts, bound = meter.watts_at(self._recorder.taken_ns())
        settings = next((of for of in self.settings.meters if of.name == meter.name), None)
        return MeterStatus(
            label=settings.label if settings else None,
            direction=settings.direction if settings else "import",
            watts=watts,
            watts_is_bound=bound,
            pulses_today=pulses_today,
            kwh_today=kwh_today,
            pulses=None if begin is None else begin[0] + meter.count,
            register_kwh=None if begin is None else begin[1] + meter.register_kwh,
            # Rounded once, from a sum that only grows, so it never falls.
            energy_kwh=round(kwh_of(worth, 0, counts[meter.name]), 6) if worth and meter.name in counts else None,
            rejected=meter.flash.rejected,
            rejected_after_stall=meter.flash.rejected_late,
            too_short=meter.flash.too_short,
            counted_without_being_seen=meter.made_up,
            flash_ms=None if meter.flash.length_ns is None else meter.flash.length_ns / 1e6,
            silent=watched.silent,
            stuck=watched.stuck,
            flickers=watched.flickers,
            noisy=watched.noisy,
        )

    def _writer_status(self, delivery: Delivery, fresh: Sequence[Row], found: Found) -> WriterStatus:
        waiting, oldest_ns = found.waiting.get(delivery.name, (None, None))
        if waiting is not None:
            waiting += len(fresh)
            if oldest_ns is None and fresh:
                oldest_ns = fresh[0].at_ns + self._clock.ahead_ns()
        return WriterStatus(
            state=delivery.state.value,
            reason=delivery.reason,
            waiting=waiting,
            oldest_s=None if oldest_ns is None else round(max(0.0, (self._clock.wall_ns() - oldest_ns) / NS_PER_S), 1),
            batch_s=delivery.batch_s + self.settings.commit_interval_s,
            refused=delivery.refused,
            skipped=delivery.skipped,
        )


def _flash(settings: MeterSettings, board: Board) -> Flash:
    """The light of a meter with *settings* before its first edge."""
    # The only board that gets here without seeing the ends of flashes is the simulated one: RPi.GPIO refuses the
    # setting.
    judged = settings.min_flash_ms is not None and board.sees_ends
    shortest = round((settings.min_flash_ms or 0) * 1e6) if judged else None
    return Flash(hold_off_ns(settings.impulses_per_kwh, settings.max_watts), shortest)


def _shown_as(settings: Settings) -> dict[str, ShownAs]:
    """How each meter of *settings* is shown, by its name."""
    return {meter.name: ShownAs(meter.label, meter.direction) for meter in settings.meters}


def _kind_of_input(settings: MeterSettings) -> dict[str, bool]:
    """The kind of input that *settings* give a meter."""
    return {"is_contact": settings.sensor == "contact", "is_export": settings.direction == "export"}


def _entry(writer: WriterSettings, settings: Settings) -> tuple[object, ...]:
    """The settings that a delivery depends on: its entry, and for a file the other files, which it must not use."""
    beside = [other.options["path"] for other in settings.writers if other.type == "file" and other != writer]
    return writer, beside if writer.type == "file" else []
