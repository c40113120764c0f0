"""
A line a pulse in a CSV file that others may rotate.

Its place is the inode of the file and the size up to which the file's lines
have been delivered. What stands beyond it after a crash is a line that was
written but not yet noted, whole or torn: it is cut off and comes again. A new
file's place is made durable before its first line is written, so that this
also holds where a rotation fell in between.
"""

import contextlib
import os
import time
from collections.abc import Sequence

from powermeter.errors import UnreachableError
from powermeter.meter import NS_PER_S, Pulse
from powermeter.writers import Pace, Receipt

#: More than a line can have: a time, a name of 32 characters, three floats.
LINE_BYTES = 256

HEADER = b"time,meter,power_w,energy_wh,register_kwh\n"


class FileWriter:
    """Appends to the file *path*, made with its header where there is none, reopened by name after a rotation."""

    pace = Pace(batch_size=5000)

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None

    def deliver(self, pulses: Sequence[Pulse], place: str) -> Receipt:
        """Append *pulses* and sync them."""
        lines = [csv_line(pulse) for pulse in pulses]
        try:
            fd = self._opened()
            inode, noted = _parsed(place)
            if os.fstat(fd).st_ino != inode:
                self._mend_rotated(inode, noted, lines)
                return Receipt(0, _place(fd))
            _mend(fd, noted, lines)
            end = os.fstat(fd).st_size
            try:
                _write(fd, b"".join(lines), end)
                os.fdatasync(fd)
            except OSError:
                with contextlib.suppress(OSError):  # mended by the next batch otherwise
                    os.ftruncate(fd, end)
                raise
            return Receipt(len(pulses), _place(fd))
        except OSError as error:
            raise UnreachableError(f"{self._path}: {error.strerror}") from error

    def check(self) -> str:
        """Whether the file could be written, or made."""
        directory = os.path.dirname(self._path)
        while not os.path.exists(directory):
            directory = os.path.dirname(directory)
        if not os.path.isdir(directory):
            raise UnreachableError(f"{directory}: is not a directory")
        wanted = self._path if os.path.exists(self._path) else directory
        if os.path.isdir(self._path):
            raise UnreachableError(f"{self._path}: is a directory: name a file in it")
        if not os.access(wanted, os.W_OK):
            raise UnreachableError(f"{wanted}: can't be written by this user")
        return self._path

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _opened(self) -> int:
        """The file that the name leads to now, with its header."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if self._fd is not None and there is not None and os.path.samestat(there, os.fstat(self._fd)):
            return self._fd
        self.close()
        os.makedirs(os.path.dirname(self._path), mode=0o750, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        # New, made empty by logrotate, or torn in its header by a crash.
        if len(begun := os.pread(self._fd, len(HEADER), 0)) < len(HEADER) and HEADER.startswith(begun):
            _write(self._fd, HEADER, 0)
            os.fdatasync(self._fd)
            _sync_directory(os.path.dirname(self._path))
        return self._fd

    def _mend_rotated(self, inode: int, noted: int, lines: Sequence[bytes]) -> None:
        """Mend the file last written to, where it stands beside the new one under another name."""
        with os.scandir(os.path.dirname(self._path)) as entries:
            names = [entry.path for entry in entries if entry.inode() == inode and entry.is_file(follow_symlinks=False)]
        for name in names:
            fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                _mend(fd, noted, lines)
            finally:
                os.close(fd)


def csv_line(pulse: Pulse) -> bytes:
    r"""
    The line of *pulse*; numbers read back to the same value.

    >>> csv_line(Pulse("house", 1, 1795418000123456789, 1000.0, 1.0, 0.001))
    b'2026-11-23T07:13:20.123456789Z,house,1000.0,1.0,0.001\n'
    """
    seconds, ns = divmod(pulse.time_ns, NS_PER_S)
    t = time.gmtime(seconds)
    watts = "" if pulse.watts is None else repr(pulse.watts)
    return (
        f"{t[0]:04}-{t[1]:02}-{t[2]:02}T{t[3]:02}:{t[4]:02}:{t[5]:02}.{ns:09}Z,"
        f"{pulse.meter},{watts},{pulse.watt_hours!r},{pulse.register_kwh!r}\n"
    ).encode()


def _place(fd: int) -> str:
    there = os.fstat(fd)
    return f"{there.st_ino} {there.st_size}"


def _parsed(place: str) -> tuple[int, int]:
    inode, _, size = place.partition(" ")
    return int(inode or 0), int(size or 0)


def _mend(fd: int, noted: int, lines: Sequence[bytes]) -> None:
    """
    Cut off what a crash left beyond *noted*, if it is the beginning of what comes again as *lines*.

    What anybody else appended stays. Ends with a whole line, or with the
    header in a file that was emptied.
    """
    end = os.fstat(fd).st_size
    if end > noted:
        # NULs: a file system that made the file longer but had not written the data when the power went.
        first = os.pread(fd, LINE_BYTES, noted).partition(b"\n")[0].rstrip(b"\0")
        if any(line.startswith(first) for line in lines):
            os.ftruncate(fd, noted)
            end = noted
    if end == 0:
        _write(fd, HEADER, 0)
    elif os.pread(fd, 1, end - 1) != b"\n":
        _write(fd, b"\n", end)
    if os.fstat(fd).st_size != noted:
        os.fdatasync(fd)


def _write(fd: int, content: bytes, at: int) -> None:
    while content:
        written = os.pwrite(fd, content, at)
        content, at = content[written:], at + written


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
