"""
One run of the program: its log, its locks, its board and its monitor, until it is told to stop.

When the settings are read again the monitor is replaced whole. The board stays
where its pins do: it keeps the edges that come in between.
"""

import contextlib
import functools
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from powermeter import status
from powermeter.boards import Board, open_board
from powermeter.boards.simulated import SimulatedBoard, simulated_load
from powermeter.errors import BoardError, PowerError, StoppedError
from powermeter.log import Log
from powermeter.meter import NS_PER_S
from powermeter.monitor import WRITERS_STOP_S, Handed, Monitor
from powermeter.mounts import volatile
from powermeter.process import Control, PidFile, notify, watchdog_s
from powermeter.recorder import Watchdog
from powermeter.settings import Settings

log = logging.getLogger(__name__)

#: How often the live line is shown again, and a plain one printed where there is no terminal, in s.
LIVE_S, PLAIN_S = 1.0, 60.0

#: How much more time is asked for, in s, while a damaged journal is read at a start.
EXTEND_S = 60

#: How often the end of deliveries is looked for, in s, while settings are read again.
RELOAD_S = 0.1


def run(
    settings: Settings,
    pidfile: str,
    *,
    simulate: float | bool | None,
    verbose: bool,
    as_daemon: bool,
    reread: Callable[[], Settings],
    ready: Callable[[], None] = lambda: None,
) -> int:
    """
    Count until a signal; returns the exit status.

    *simulate*: watts, True for a household's day, None for the real pins.
    *reread* gives the settings as they are now, or raises
    :exc:`~powermeter.errors.PowerError`. *ready* is called once it counts.
    Raises :exc:`~powermeter.errors.PowerError` where that can't be.
    """
    logging.getLogger("powermeter").setLevel(logging.DEBUG if verbose else logging.INFO)
    of_daemon = os.path.join(settings.data_dir, "power.log") if as_daemon else None
    path = settings.log_file or of_daemon
    try:
        # What stands in for a daemon's own log is nowhere: it has let go of the terminal.
        with Log(path, stand_in="" if path == of_daemon and as_daemon else of_daemon) as own_log:
            try:
                return _run(settings, pidfile, own_log, simulate, as_daemon=as_daemon, reread=reread, ready=ready)
            except PowerError as error:
                if as_daemon:
                    log.critical("%s", error)
                raise
            except Exception:
                log.critical("ended by a bug", exc_info=True)
                raise
    finally:
        _let_go_of_the_terminal()


def _run(
    settings: Settings,
    pidfile: str,
    own_log: Log,
    simulate: float | bool | None,
    *,
    as_daemon: bool,
    reread: Callable[[], Settings],
    ready: Callable[[], None],
) -> int:
    with contextlib.ExitStack() as stack:
        # Whoever uses another pidfile would still write to the same journal.
        stack.enter_context(PidFile(os.path.join(settings.data_dir, "lock"), 0o600))
        # On a terminal a hang-up means that it is gone.
        hangup_stops = not as_daemon and sys.stdin.isatty()
        control = stack.enter_context(Control(pidfile, hangup_stops=hangup_stops, detached=as_daemon))
        if simulate is None and (kind := volatile(settings.data_dir)):
            log.warning(
                "%s: DATA_DIR is on %s: pulses and register are gone after a reboot: set one on a disk",
                settings.data_dir,
                kind,
            )
        counting = _Counting(
            settings,
            simulate,
            on_crash=control.stop,
            on_lost=control.call,
            stopping=lambda: control.stopping,
            own_log=own_log,
        )
        stack.enter_context(_no_silent_end(counting.crash))
        try:
            stack.enter_context(counting)
        except StoppedError as error:
            log.info("%s", error)
            return 0
        ready()
        notify("READY=1")
        serving: tuple[float | None, Callable[[], bool] | None] = (None, None)
        if not as_daemon:
            serving = stack.enter_context(_shown(lambda columns: status.line(counting.monitor.status(), columns)))
        while control.serve(counting.answer, *serving):
            _heed(counting, control, reread)
        notify("STOPPING=1")
        log.info("stopping")
        counting.finish()
    log.info("stopped")
    return 1 if counting.crashed else 0


@contextlib.contextmanager
def _shown(line: Callable[[int | None], str]) -> Iterator[tuple[float | None, Callable[[], bool] | None]]:
    """What the foreground shows of *line*: how often, in s, and what shows it."""
    if _has_terminal():
        from powermeter.live import LiveLine  # rich: 50 ms and 6 MiB that a daemon does not need

        with LiveLine(line) as live:
            yield LIVE_S, live.refresh
    elif os.environ.get("NOTIFY_SOCKET") or sys.stdout is None:
        yield None, None  # a service manager has --status, and keeps all that is printed
    else:
        yield PLAIN_S, functools.partial(_print, line)


def _has_terminal() -> bool:
    """Whether a line can be drawn again and again: a dumb terminal has no way back to its beginning."""
    return (
        sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    )


def _print(line: Callable[[int | None], str]) -> bool:
    with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
        print(line(None), flush=True)
    return True


@contextlib.contextmanager
def _no_silent_end(crash: Callable[[], None]) -> Iterator[None]:
    """Have the program end, and say so, where a thread that is not the monitor's ends by a bug: a library's of pins."""

    def ended(name: str, error: BaseException | None) -> None:
        log.critical("%s: ended by a bug, the program ends", name, exc_info=error)
        crash()

    before = threading.excepthook, sys.excepthook
    threading.excepthook = lambda args: ended(args.thread.name if args.thread else "a thread", args.exc_value)
    # A thread of C code tells an error of its callback this way.
    sys.excepthook = lambda _kind, error, _trace: ended(threading.current_thread().name, error)
    try:
        yield
    finally:
        threading.excepthook, sys.excepthook = before


def _heed(counting: "_Counting", control: Control, reread: Callable[[], Settings]) -> None:
    """Do what *control* was called for: open a lost journal anew, or else read the settings again."""
    if counting.monitor.lost:
        _replace(counting, control, counting.settings)
    elif control.reload:
        control.reload = False
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        _reload(counting, control, reread)
        notify("READY=1")


def _reload(counting: "_Counting", control: Control, reread: Callable[[], Settings]) -> None:
    """Have the settings as they are now take effect, or say why they don't."""
    try:
        settings = counting.acceptable(reread())
    except PowerError as error:
        for line in str(error).splitlines():
            log.error("reload: %s", line)
        log.error("reload: the settings from before stay in force")
        return
    if _replace(counting, control, settings):
        log.info("reload: %s is in force", settings.path)


def _replace(counting: "_Counting", control: Control, settings: Settings) -> bool:
    """Go on with another monitor, by *settings*; false where these did not take effect."""
    # Counting goes on while a writer finishes what it is at; but without a journal nothing is kept.
    counting.monitor.end_deliveries()
    say_s, end_s, asked = time.monotonic() + WRITERS_STOP_S, math.inf, False

    def waits() -> bool:
        nonlocal say_s, end_s
        now_s = time.monotonic()
        names = counting.monitor.delivering
        if counting.monitor.lost:
            end_s = min(end_s, now_s + WRITERS_STOP_S)
        elif names and now_s >= say_s:
            say_s = math.inf
            log.warning("reload: waits for %s to end what it is at, and so do the other writers", ", ".join(names))
        return bool(names) and now_s < end_s

    while control.serve(counting.answer, RELOAD_S, waits):
        if control.reload:  # once more: after this
            control.reload, asked = False, True
    if control.stopping:
        return False
    changed = counting.change(settings)
    if asked:
        control.reload = True
    return changed


class _Counting:
    """The board, watched, and the monitor over it; a context manager."""

    def __init__(
        self,
        settings: Settings,
        simulate: float | bool | None,
        *,
        on_crash: Callable[[], None],
        on_lost: Callable[[], None],
        stopping: Callable[[], bool] = lambda: False,
        own_log: Log | None = None,
    ) -> None:
        self.settings = settings
        self._log = own_log
        #: Whether a bug has ended a thread.
        self.crashed = False
        self._simulate = simulate
        self._on_crash, self._on_lost, self._stopping = on_crash, on_lost, stopping
        self._since_s = time.monotonic()
        self._extended_s = -math.inf
        every_s = watchdog_s()
        # Twice in the time that is asked for, as sd_watchdog_enabled(3) says.
        self._watchdog = every_s and Watchdog(round(every_s * NS_PER_S / 2), lambda: notify("WATCHDOG=1"))

    def __enter__(self) -> "_Counting":
        self._board = self._opened(self.settings)
        try:
            self.monitor = self._monitor(Handed({}))
        except BaseException:
            self._board.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end()
        finally:
            self._board.close()

    def _opened(self, settings: Settings) -> Board:
        if self._simulate is None:
            board = open_board(settings)
        else:
            board = SimulatedBoard(settings, simulated_load(None if self._simulate is True else self._simulate))
        try:
            board.watch()
        except BaseException:
            board.close()
            raise
        return board

    def _monitor(self, before: Handed, *, last: bool = False) -> Monitor:
        monitor = Monitor(
            self.settings,
            self._board,
            own_log=self._log,
            simulate=self._simulate,
            on_crash=self._on_crash,
            on_lost=self._on_lost,
            since_s=self._since_s,
            before=before,
            last=last,
            watchdog=self._watchdog or None,
            on_progress=self._extend,
            stopping=self._stopping,
        ).__enter__()
        if self._log is not None:
            self._log.on_state = monitor.show_condition
        return monitor

    def _extend(self) -> None:
        """Ask the service manager for more time to start (sd_notify(3)): what takes long goes on."""
        if time.monotonic() > self._extended_s + EXTEND_S / 4:
            self._extended_s = time.monotonic()
            notify(f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1_000_000}", "STATUS=reading what is left of a damaged journal")

    def _end(self) -> None:
        self.monitor.__exit__(None, None, None)
        self.crashed = self.crashed or self.monitor.crashed

    def crash(self) -> None:
        """End the program with status 1; from any thread."""
        self.crashed = True
        self._on_crash()

    def answer(self, question: str) -> str:
        """What is told to who asks over the socket."""
        now = self.monitor.status()
        return status.text(now) if question == "text" else json.dumps(now) + "\n"

    def acceptable(self, settings: Settings) -> Settings:
        """*settings*, if they can take effect without a restart. Raises :exc:`PowerError`."""
        for name, before, now in (
            ("DATA_DIR", self.settings.data_dir, settings.data_dir),
            ("LOG_FILE", self.settings.log_file, settings.log_file),
            # RPi.GPIO takes one numbering in its process's life.
            ("PIN_NUMBERING", self.settings.pin_numbering, settings.pin_numbering),
        ):
            if before != now:
                raise PowerError(f"{name}: was {before}, is {now}: a change of it needs a restart")
        judged = [meter.name for meter in settings.meters if meter.min_flash_ms is not None]
        if judged and self._simulate is None and not self._board.sees_ends:
            raise PowerError(f"min_flash_ms of {judged[0]}: RPi.GPIO does not tell how long a flash is, gpiod does")
        if self.monitor.failing:
            raise PowerError(f"the journal can't be written now: {self.monitor.failing}: mend that first")
        return settings

    def change(self, settings: Settings) -> bool:
        """
        Go on with *settings*.

        Where the pins are other ones now and can't be had, with the settings
        from before; false then. Raises :exc:`BoardError` where these can't be had either.
        """
        stays = _pins(settings) == _pins(self.settings)
        if self._simulate is not None:  # its flashes are made of all that the meters are
            stays = settings.meters == self.settings.meters
        handed = self.monitor.hand_over(watched=stays)
        names = [meter.name for meter in self.settings.meters]
        self._end()
        refused = False
        if not stays:
            self._board.close()
            try:
                self._board = self._opened(settings)
            except BoardError as error:
                log.error("reload: %s: the settings from before stay in force", error)
                refused, settings = True, self.settings
                self._board = self._opened(settings)
        self.settings = settings
        # A name that has moved to another pin is another meter's now.
        same = {m.name for m, name in zip(settings.meters, names, strict=False) if m.name == name}
        before = handed()
        meters = {name: meter for name, meter in before.meters.items() if name in same}
        self.monitor = self._monitor(before._replace(meters=meters))
        return not refused

    def finish(self) -> None:
        """Have what waits for a journal that must be opened anew written to it; the rest is done at the exit."""
        monitor = self.monitor
        if not monitor.unsure:
            return
        # At once, so that the time that writers are given is over by then: nothing new comes to them any more.
        monitor.end_deliveries()
        handed = monitor.hand_over(watched=True)
        self._end()
        before = handed()
        closed = not (before.unwritten and monitor.openable)
        self.monitor = self._monitor(before._replace(closed=closed), last=True)


def _pins(settings: Settings) -> tuple[object, ...]:
    """What a board is made of."""
    return (
        settings.gpio_library,
        settings.gpio_chip,
        settings.pin_numbering,
        tuple((meter.pin, meter.pull, meter.lit) for meter in settings.meters),
        settings.l1_pin,
        settings.l2_pin,
    )


def _let_go_of_the_terminal() -> None:
    """Where it has gone, what is left for it goes nowhere: the interpreter's last try would be the exit status."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
