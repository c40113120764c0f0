"""
One run of the program, until it is stopped: its log, locks, board and monitor.

The monitor counts; this module owns what belongs to the process: the lock of
DATA_DIR, the socket, the signals, and what the terminal shows.
"""

import contextlib
import functools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from powermeter import past
from powermeter.boards import Board, open_board
from powermeter.boards.simulated import SimulatedBoard, simulated_load
from powermeter.errors import AlreadyRunningError, PowerError, ProcessError, StoppedError
from powermeter.journal.journal import Journal
from powermeter.journal.readings import parse
from powermeter.log import Log
from powermeter.meter import NS_PER_S
from powermeter.monitor import Monitor
from powermeter.mounts import volatile
from powermeter.process.control import Control
from powermeter.process.pidfile import PidFile
from powermeter.process.systemd import notify, watchdog_s
from powermeter.recorder import Watchdog
from powermeter.settings.values import JOURNAL, Settings
from powermeter.views import text

log = logging.getLogger(__name__)

#: How often the live line is refreshed, and how often a plain line is printed if there is no terminal, in s.
LIVE_S, PLAIN_S = 1.0, 60.0


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
    Count until a signal comes; return the exit status.

    *simulate*: watts, True for a household's day, None for the real pins.
    *reread* returns the current settings, or raises
    :exc:`~powermeter.errors.PowerError`. *ready* is called once counting has
    begun. Raises :exc:`~powermeter.errors.PowerError` if it can't begin.
    """
    logging.getLogger("powermeter").setLevel(logging.DEBUG if verbose else logging.INFO)
    of_daemon = os.path.join(settings.data_dir, "power.log") if as_daemon else None
    path = settings.log_file or of_daemon
    try:
        # A daemon's own log has nothing to replace it, as a daemon has no terminal.
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
        # Another program with another pidfile would still write to the same journal.
        try:
            stack.enter_context(PidFile(os.path.join(settings.data_dir, "lock"), 0o600))
        except AlreadyRunningError as error:
            raise ProcessError(
                f"already running, pid {error.pid}, with another pidfile: it uses {settings.data_dir}: "
                f"stop it with kill {error.pid}, or set another DATA_DIR"
            ) from error
        # On a terminal, a hang-up means that the terminal is gone.
        hangup_stops = not as_daemon and sys.stdin.isatty()
        control = stack.enter_context(Control(pidfile, hangup_stops=hangup_stops, detached=as_daemon))
        if simulate is None and (kind := volatile(settings.data_dir)):
            log.warning(
                "%s: DATA_DIR is on %s: pulses and register are gone after a reboot: set a DATA_DIR on a disk",
                settings.data_dir,
                kind,
            )
        monitor = Monitor(
            settings,
            functools.partial(_board, simulate),
            own_log=own_log,
            simulate=simulate,
            on_crash=control.stop,
            watchdog=_watchdog(),
            stopping=lambda: control.stopping,
            new_journal=_new_journal(simulate, settings),
        )
        stack.enter_context(_no_silent_end(monitor.crash))
        try:
            stack.enter_context(monitor)
        except StoppedError as error:
            log.info("%s", error)
            return 0
        ready()
        notify("READY=1")
        serving: tuple[float | None, Callable[[], bool] | None] = (None, None)
        if not as_daemon:
            serving = stack.enter_context(_shown(lambda columns: text.line(monitor.status(), columns)))
        while control.serve(functools.partial(_answer, monitor), *serving):
            control.reload = False
            notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            _reload(monitor, reread)
            notify("READY=1")
        notify("STOPPING=1")
        log.info("stopping")
    log.info("stopped")
    return 1 if monitor.crashed else 0


def _board(simulate: float | bool | None, settings: Settings) -> Board:
    if simulate is None:
        return open_board(settings)
    return SimulatedBoard(settings, simulated_load(None if simulate is True else simulate))


def _new_journal(simulate: float | bool | None, settings: Settings) -> Callable[..., Journal] | None:
    """What creates a simulated household's journal if it is new, with some days of history in it; else None."""
    if simulate is not True or not past.is_new(os.path.join(settings.data_dir, JOURNAL)):
        return None
    return functools.partial(past.open_journal, time.time())


def _watchdog() -> Watchdog | None:
    if not (every_s := watchdog_s()):
        return None
    # Twice as often as required, as sd_watchdog_enabled(3) recommends.
    return Watchdog(round(every_s * NS_PER_S / 2), lambda: notify("WATCHDOG=1"))


def _answer(monitor: Monitor, question: str) -> str:
    """The answer to a question over the socket: "text", "json", or a request as JSON."""
    if question.startswith("{"):
        try:
            return json.dumps(_done(monitor, json.loads(question))) + "\n"
        except (ValueError, LookupError, TypeError, RecursionError):
            return json.dumps({"impossible": "not understood: is this program of the same version?"}) + "\n"
    now = monitor.status()
    return text.text(now) if question == "text" else json.dumps(now.as_dict()) + "\n"


def _done(monitor: Monitor, wanted: dict[str, Any]) -> dict[str, Any]:
    """
    The answer to {"meter", "kwh", "force"}, a reading as it was typed, or to {"asked": number}, for its result.

    A card may be slow, and others must not wait for it here: the answer is {"asked": number} until the result is on the
    disk, then {"said": text} or {"refused": reason}. It is {"impossible": reason} if the reading can't be taken now.
    """
    if "asked" not in wanted:
        try:
            asked = monitor.read_face(wanted["meter"], *parse(wanted["kwh"]), force=bool(wanted["force"]))
        except PowerError as error:
            return {"impossible": str(error)}
        return {"asked": asked}
    if (judged := monitor.judged(wanted["asked"])) is None:
        return {"asked": wanted["asked"]}
    return (
        {"refused": judged.refused}
        if judged.refused
        else {"said": text.reading(judged.reading, judged.drift, simulated=monitor.simulate is not None)}
    )


def _reload(monitor: Monitor, reread: Callable[[], Settings]) -> None:
    """Apply the current settings, or log why that is not possible."""
    try:
        settings = reread()
        monitor.change(settings)
    except PowerError as error:
        # Each line is complete: whoever reads only the last one learns the result, and why.
        for line in str(error).splitlines():
            log.error("reload: the settings from before stay in force: %s", line)
    else:
        log.info("reload: %s is in force", settings.path)


@contextlib.contextmanager
def _shown(line: Callable[[int | None], str]) -> Iterator[tuple[float | None, Callable[[], bool] | None]]:
    """How often *line* is shown in the foreground, in s, and the function that shows it."""
    if _has_terminal():
        from powermeter.views.live import LiveLine  # rich: 50 ms and 6 MiB that a daemon does not need

        with LiveLine(line) as live:
            yield LIVE_S, live.refresh
    elif os.environ.get("NOTIFY_SOCKET") or sys.stdout is None:
        yield None, None  # a service manager's user has --status, and its log would keep all that is printed
    else:
        yield PLAIN_S, functools.partial(_print, line)


def _has_terminal() -> bool:
    """Whether a line can be redrawn: a dumb terminal can't go back to the beginning of the line."""
    return (
        sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    )


def _print(line: Callable[[int | None], str]) -> bool:
    with contextlib.suppress(OSError, ValueError):  # its reader is gone
        print(line(None), flush=True)
    return True


@contextlib.contextmanager
def _no_silent_end(crash: Callable[[], None]) -> Iterator[None]:
    """End the program, and log it, if a bug ends a thread that is not the monitor's, such as a GPIO library's."""

    def ended(name: str, error: BaseException | None) -> None:
        log.critical("%s: ended by a bug, the program ends", name, exc_info=error)
        crash()

    before = threading.excepthook, sys.excepthook
    threading.excepthook = lambda args: ended(args.thread.name if args.thread else "a thread", args.exc_value)
    # This is how a thread in C code reports an error of its callback.
    sys.excepthook = lambda _kind, error, _trace: ended(threading.current_thread().name, error)
    try:
        yield
    finally:
        threading.excepthook, sys.excepthook = before


def _let_go_of_the_terminal() -> None:
    """Discard what can't be written to the terminal: the interpreter's last try would change the exit status."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
