"""
Where the log goes: to the file or syslog socket that the settings name, and to a stand-in while that is missing.

Counting does not need a log: its disk may be missing at boot, fill up, disappear
and come back. While the log fails it is tried again, and messages go to the
stand-in.
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

#: How often a failing log is tried again, in s.
RETRY_S = 30.0

#: The mode of a log file: its group may read it.
MODE = 0o640

#: A path in this directory is taken for a socket even if it does not exist: a file there would keep syslog from
#: starting.
DEVICES = "/dev"

#: The format of a line with the time, and without it for a log that adds the time itself.
TIMED, UNTIMED = "%(asctime)s %(levelname)s %(message)s", "%(levelname)s %(message)s"


class Log(logging.Handler):
    """
    Writes to *path*: a file, which is opened again after a rotation, or syslog's socket; None means standard error.

    *stand_in* is the file that replaces it while it fails, None for standard error, "" for nothing. A context manager:
    it is the log of the whole program from its entry to its exit. :attr:`failing` is why it can't be written, "" while
    it can; *on_state* is called when that changes, on any thread.
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
        """Write *record*, if necessary to the stand-in."""
        try:
            # Opened with the first line; after a failure only by the timer.
            if self._handler is None and not self.failing:
                self._handler = _handler(self._path)
            if self._handler is not None:
                self._handler.emit(record)
                return
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self._fail(error)
        if self._stand_in is not None:
            with contextlib.suppress(OSError, ValueError):  # there is no other place
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
        self._report(logging.ERROR, f"log: {self.failing}: will try again, until then messages go here")

    def _retry(self) -> None:
        with self._lock:
            if self._closed:
                return
            handler = None
            try:
                handler = _handler(self._path)
                # Opening succeeds even on a full disk, so write to it.
                handler.emit(_record(logging.INFO, f"log: can be written again; before, it could not: {self.failing}"))
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

    def _report(self, level: int, text: str) -> None:
        """Log a line about the log itself, to where the log goes now."""
        self.emit(_record(level, text))
        self.on_state()

    @property
    def _lock(self) -> "contextlib.AbstractContextManager[object]":
        return self.lock or contextlib.nullcontext()


def _record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, "", 0, text, None, None)


def _close(handler: logging.Handler | None) -> None:
    if handler is not None:
        with contextlib.suppress(OSError, ValueError):  # what it has buffered is lost with the disk
            handler.close()


def try_log(path: str, *, keep: bool = True) -> str:
    """*path*, if a log can be written there; a new file is removed again unless *keep*. Raises :exc:`ProcessError`."""
    try:
        place = _place(path)
        if not _is_syslogs(path, place):
            try:
                os.close(_opened(place, os.O_EXCL))
                if not keep:
                    os.unlink(place)
            except FileExistsError:
                # A socket belongs to syslog, which may start later.
                if not _is_socket(place):
                    os.close(_opened(place))
    except OSError as error:
        raise ProcessError(f"{path}: the log can't be written: {error.strerror}: set another LOG_FILE") from error
    return path


def _handler(path: str | None) -> logging.Handler:
    """A handler that writes to *path*, None for standard error, and raises an error if it can't."""
    handler: logging.Handler
    if path is None:
        handler = _Stderr()
        # systemd's journal adds the time to each line itself.
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
    # With systemd /dev/log is a link, whose target is missing while the journal service does not run.
    return DEVICES in (os.path.dirname(path), os.path.dirname(place))


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


class _Raising:
    """A handler that raises errors which the library would print."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - the library's name
        raise  # noqa: PLE0704 - called while the library handles it


class _Stderr(_Raising, logging.StreamHandler):  # type: ignore[type-arg]
    """The current standard error, which the live line replaces."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """The stream that the library writes to."""
        if sys.stderr is None:
            raise OSError("there is no standard error")
        return sys.stderr


class _Syslog(_Raising, logging.handlers.SysLogHandler):
    """Syslog's socket."""


class _File(_Raising, logging.handlers.WatchedFileHandler):
    """The library's handler, but it follows no other user's links."""

    def _open(self) -> io.TextIOWrapper:
        _place(self.baseFilename)
        return open(self.baseFilename, "a", encoding=self.encoding, opener=lambda name, _mode: _opened(name))


class _Formatter(logging.Formatter):
    """The library's formatter, but for any text: a path may have bytes that are not characters."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode("utf-8", "backslashreplace").decode()
