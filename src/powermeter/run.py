"""One run of the program: its log, its locks, its monitor, until it is told to stop."""

import contextlib
import functools
import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Callable

from powermeter import status
from powermeter.boards import Board, open_board
from powermeter.boards.simulated import SimulatedBoard, simulated_load
from powermeter.errors import PowerError
from powermeter.monitor import Monitor
from powermeter.process import Control, PidFile
from powermeter.settings import Settings

log = logging.getLogger(__name__)

#: How often the live line is shown anew, in s.
LIVE_S = 1.0


def run(
    settings: Settings,
    pidfile: str,
    *,
    simulate: float | bool | None,
    verbose: bool,
    as_daemon: bool,
    ready: Callable[[], None] = lambda: None,
) -> int:
    """
    Count until a signal; returns the exit status.

    *simulate*: watts, True for a household's day, None for the real pins.
    *ready* is called once it counts. Raises
    :exc:`~powermeter.errors.PowerError` where that can't be.
    """
    handler = _log_handler(settings, as_daemon=as_daemon)
    try:
        return _run(settings, pidfile, handler, simulate, as_daemon=as_daemon, verbose=verbose, ready=ready)
    except PowerError as error:
        if as_daemon:
            log.critical("%s", error)
        raise
    except Exception:
        log.critical("ended by a bug", exc_info=True)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _run(
    settings: Settings,
    pidfile: str,
    handler: logging.StreamHandler,  # type: ignore[type-arg]
    simulate: float | bool | None,
    *,
    as_daemon: bool,
    verbose: bool,
    ready: Callable[[], None],
) -> int:
    logging.getLogger("powermeter").setLevel(logging.DEBUG if verbose else logging.INFO)
    with contextlib.ExitStack() as stack:
        # Whoever uses another pidfile would still write to the same journal.
        stack.enter_context(PidFile(os.path.join(settings.data_dir, "lock")))
        control = stack.enter_context(Control(pidfile, hangup_stops=not as_daemon))
        board = open_board if simulate is None else functools.partial(_simulated, simulate)
        monitor = stack.enter_context(Monitor(settings, board, simulate=simulate, on_crash=control.stop))
        ready()
        if not as_daemon and sys.stdout.isatty():
            from powermeter.live import LiveLine  # rich: 50 ms and 6 MiB that a daemon does not need

            live = stack.enter_context(LiveLine(lambda: status.line(monitor.status()), handler))
            control.serve(functools.partial(_answer, monitor), LIVE_S, live.refresh)
        else:
            control.serve(functools.partial(_answer, monitor))
        log.info("stopping")
    log.info("stopped")
    return 1 if monitor.crashed else 0


def _simulated(simulate: float | bool, settings: Settings) -> Board:
    return SimulatedBoard(settings, simulated_load(None if simulate is True else simulate))


def _answer(monitor: Monitor, question: str) -> str:
    now = monitor.status()
    return status.text(now) if question == "text" else json.dumps(now) + "\n"


def _log_handler(settings: Settings, *, as_daemon: bool) -> logging.StreamHandler:  # type: ignore[type-arg]
    """Where the log goes, set up for all of it: the file of the settings, reopened after a rotation, or stderr."""
    path = settings.log_file or (os.path.join(settings.data_dir, "power.log") if as_daemon else None)
    try:
        handler = (
            logging.StreamHandler() if path is None else logging.handlers.WatchedFileHandler(path, encoding="utf-8")
        )
    except OSError as error:
        raise PowerError(f"{path}: the log can't be written: {error.strerror}: set another LOG_FILE") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler
