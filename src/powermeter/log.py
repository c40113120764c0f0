"""
Where the log goes: the file or syslog's socket that the settings name, and what stands in while that is missing.

A log is no condition of counting: its disk may be absent at boot, get full, go
and come back. It is tried again while it fails, and what is logged meanwhile
goes to the stand-in.
"""

import contextlib
import io
import logging
import logging.handlers
import os
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any

from powermeter.errors import ProcessError
from powermeter.mounts import not_mounted
from powermeter.safe_path import open_file, resolved

#: How often a log that fails is tried again, in s.
RETRY_S = 30.0

#: The mode of a log file: its group may read it.
MODE = 0o640

#: A path in this directory is a socket's, whether it is there or not: a file in its place would keep syslog out.
DEVICES = "/dev"

#: The format of a line, where nothing else adds the time, and without it.
TIMED, UNTIMED = "%(asctime)s %(levelname)s %(message)s", "%(levelname)s %(message)s"


class Log(logging.Handler):
    """
    Writes to *path*, a file that is opened again when it was rotated, or a socket: syslog; None: standard error.

    *stand_in*: the file that takes its place while it fails, None for standard error, "" for nothing. A context
    manager: it is the log of all of the program from its entry to its exit. :attr:`failing` says why it can't be
    written, "" while it can; *on_state* is called when that changes, on any thread.
    """

    def __init__(self, path: str | None, *, stand_in: str | None = None) -> None:
        super().__init__()
        self.failing = ""
        self.on_state: Callable[[], None] = lambda: None
        self._path = path
        self._stand_in_path = stand_in
        self._handler: logging.Handler | None = None
        self._stand_in: logging.Handler | None = None
        self._timer: threading.Timer | None = None
        self._closed = False

    def __enter__(self) -> "Log":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
        self.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*, to the stand-in where it has to be."""
        try:
            # Opened with the first line; once it fails, by the timer alone.
            if self._handler is None and not self.failing:
                self._handler = _handler(self._path)
            if self._handler is not None:
                self._handler.emit(record)
                return
        except (OSError, ValueError) as error:  # ValueError: of a file that was closed
            self._fail(error)
        if self._stand_in is not None:
            with contextlib.suppress(OSError, ValueError):  # it is the last place there is
                self._stand_in.emit(record)

    def close(self) -> None:
        """Close it; may be called twice."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            for handler in (self._handler, self._stand_in):
                _close(handler)
        super().close()

    def _fail(self, error: Exception) -> None:
        _close(self._handler)
        self._handler = None
        self.failing = f"{self._path}: {(error.strerror if isinstance(error, OSError) else None) or error}"
        if self._stand_in is None and self._stand_in_path != "":
            with contextlib.suppress(OSError):
                self._stand_in = _handler(self._stand_in_path)
        self._start_timer()
        self._tell(logging.ERROR, f"log: {self.failing}: it is tried again, until then the log is here")

    def _retry(self) -> None:
        with self._lock:
            if self._closed:
                return
            handler = None
            try:
                handler = _handler(self._path)
                # A full disk can be opened.
                handler.emit(_record(logging.INFO, f"log: written again; in between it was not: {self.failing}"))
            except (OSError, ValueError):
                _close(handler)
                self._start_timer()
                return
            self._handler, self.failing = handler, ""
        self.on_state()

    def _start_timer(self) -> None:
        if not self._closed:
            self._timer = threading.Timer(RETRY_S, self._retry)
            self._timer.daemon = True
            self._timer.start()

    def _tell(self, level: int, text: str) -> None:
        """Write a line about the log itself, where it goes now."""
        self.emit(_record(level, text))
        self.on_state()

    @property
    def _lock(self) -> "contextlib.AbstractContextManager[object]":
        return self.lock or contextlib.nullcontext()


def _record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, "", 0, text, None, None)


def _close(handler: logging.Handler | None) -> None:
    if handler is not None:
        with contextlib.suppress(OSError, ValueError):  # what it still holds is lost with the disk
            handler.close()


def try_log(path: str, *, keep: bool = True) -> str:
    """*path*, if a log can be written there; what was not there is left only to *keep*. Raises :exc:`ProcessError`."""
    try:
        place = _place(path)
        if not _is_syslogs(path, place):
            try:
                os.close(_opened(place, os.O_EXCL))
                if not keep:
                    os.unlink(place)
            except FileExistsError:
                # A socket is syslog's, which may come up later.
                if not _is_socket(place):
                    os.close(_opened(place))
    except OSError as error:
        raise ProcessError(f"{path}: the log can't be written: {error.strerror}: set another LOG_FILE") from error
    return path


def _handler(path: str | None) -> logging.Handler:
    """A handler that writes to *path*, None for standard error, and raises where it can't."""
    handler: logging.Handler
    if path is None:
        handler = _Stderr()
        # The journal of systemd has the time of each line itself.
        handler.setFormatter(_Formatter(UNTIMED if os.environ.get("JOURNAL_STREAM") else TIMED))
        return handler
    place = _place(path)
    if _is_socket(place):
        handler = _Syslog(place, logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.setFormatter(_Formatter(f"power[{os.getpid()}]: {UNTIMED}"))
        return handler
    if _is_syslogs(path, place):
        raise OSError(0, "syslog does not run, its socket is missing")
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(_Formatter(TIMED))
    return handler


def _opened(path: str, flags: int = 0) -> int:
    return open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | flags, MODE, shared=True)


def _place(path: str) -> str:
    place = resolved(path, shared=True)
    if mount := not_mounted(place):
        raise OSError(0, f"its disk is not mounted at {mount}")
    return place


def _is_syslogs(path: str, place: str) -> bool:
    # /dev/log is a link under systemd, and leads to nothing while its journal does not run.
    return DEVICES in (os.path.dirname(path), os.path.dirname(place))


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


class _Raising:
    """A handler that raises what the library would print."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - the library's name
        raise  # noqa: PLE0704 - called while the library handles it


class _Stderr(_Raising, logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error as it is now: the live line puts another in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """The library's: where it writes."""
        if sys.stderr is None:
            raise OSError("there is no standard error")
        return sys.stderr


class _Syslog(_Raising, logging.handlers.SysLogHandler):
    """Syslog's socket."""


class _File(_Raising, logging.handlers.WatchedFileHandler):
    """The library's, but that it follows nobody else's links."""

    def _open(self) -> io.TextIOWrapper:
        _place(self.baseFilename)
        return open(self.baseFilename, "a", encoding=self.encoding, opener=lambda name, _mode: _opened(name))


class _Formatter(logging.Formatter):
    """The library's, but that any text can be written: a path may hold bytes that are no letters."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode("utf-8", "backslashreplace").decode()
