"""
A line a pulse in a CSV file that others may rotate.

Its place is the inode of the file and the size up to which the file's lines
have been delivered. What stands beyond it after a crash are lines that were
written but not yet noted, the last one whole or torn: where they come again
they are found there, batch by batch, and not written a second time. However
many they are: while it catches up, 100,000 pulses and a batch. Lines that do
not come again, as after going back to a copy of the journal, stay. A new
file's place is made durable before its first line is written, so that this
also holds where a rotation fell in between.
"""

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Sequence

from powermeter.errors import UnreachableError
from powermeter.meter import NS_PER_S, Pulse
from powermeter.trust import trusted
from powermeter.writers import Pace, Receipt

HEADER = b"time,meter,power_w,energy_wh,register_kwh\n"

#: What the names of the journal's files in DATA_DIR begin with.
JOURNAL_NAME = "journal.db"

#: How much of the file is looked at at once, in bytes: more than a line, whatever others appended.
BLOCK = 1 << 16

#: A line of this writer.
OUR_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z,")


class FileWriter:
    """Appends to the file *path*, made with its header where there is none, reopened by name after a rotation."""

    #: Each batch is synced, so its pace is as hard on an SD card as the journal's.
    pace = Pace(batch_size=5000, interval_s=30)

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None
        #: The device that it was on.
        self._device: int | None = None
        #: The directory that it is in, which a link may lead to.
        self._directory = os.path.dirname(path)

    def deliver(self, pulses: Sequence[Pulse], place: str) -> Receipt:
        """Append *pulses* and sync them; but for those that stand there already, which are taken first."""
        lines = [csv_line(pulse) for pulse in pulses]
        try:
            fd = self._opened()
            inode, noted = _parsed(place)
            there = os.fstat(fd)
            end = there.st_size
            taken, behind = 0, noted
            if there.st_ino != inode:
                taken, behind = self._found_rotated(inode, noted, lines)
            elif end > noted:
                taken, behind, lines = _found(fd, noted, lines)
                end = os.fstat(fd).st_size
            if taken:
                return Receipt(taken, f"{inode} {behind}")
            if there.st_ino != inode or end < noted:  # another file, if only by what stands in it
                return Receipt(0, f"{there.st_ino} {_end_of_line(fd, end)}")
            end = _end_of_line(fd, end)
            content = b"".join(lines)
            try:
                _write(fd, content, end)
                os.fdatasync(fd)
            except OSError:
                with contextlib.suppress(OSError):  # mended by the next batch otherwise
                    os.ftruncate(fd, end)
                raise
        except OSError as error:
            self.close()  # of a disk that went and came back it is of no use any more
            raise UnreachableError(f"{self._path}: {error.strerror}") from error
        return Receipt(len(pulses), f"{inode} {end + len(content)}")

    def check(self, pulses: Sequence[Pulse] = (), /) -> str:  # noqa: ARG002 - a line of it stands there, or not yet
        """Whether the file could be written, or made."""
        directory = os.path.dirname(self._path)
        while not os.path.exists(directory):
            directory = os.path.dirname(directory)
        try:
            trusted(self._path)
        except OSError as error:
            raise UnreachableError(f"{self._path}: {error.strerror}") from error
        there = os.path.exists(self._path)
        if there and not os.path.isfile(self._path):
            raise UnreachableError(f"{self._path}: is not a file: name another path")
        if not os.path.isdir(directory):
            raise UnreachableError(f"{directory}: is not a directory: name another path")
        if not os.access(self._path if there else directory, os.W_OK):
            raise UnreachableError(f"{self._path}: can't be written by this user")
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
        if self._fd is None or there is None or not os.path.samestat(there, os.fstat(self._fd)):
            self.close()
            path = trusted(self._path)
            if there is not None and stat.S_ISBLK(there.st_mode):
                raise OSError(errno.EINVAL, "is not a file: name another path")
            self._directory = os.path.dirname(path)
            self._make_directory(self._directory)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
            self._device = os.fstat(self._fd).st_dev
        elif there.st_size >= len(HEADER):
            return self._fd
        begun = os.pread(self._fd, len(HEADER), 0)
        # New, emptied, made empty by logrotate, or torn in its header.
        if begun != HEADER and HEADER.startswith(begun.rstrip(b"\0")):
            _write(self._fd, HEADER, 0)
            os.fdatasync(self._fd)
            _sync_directory(self._directory)
        return self._fd

    def _make_directory(self, path: str) -> None:
        """Make the directory, where there is none; but not in the place of one whose disk is not mounted."""
        above = path
        while not os.path.exists(above):
            above = os.path.dirname(above)
        if above == path or self._device in (None, os.stat(above).st_dev):
            os.makedirs(path, mode=0o750, exist_ok=True)

    def _found_rotated(self, inode: int, noted: int, lines: list[bytes]) -> tuple[int, int]:
        """How many of *lines* stand in the file last written to, beside the new one, and where these end."""
        with os.scandir(self._directory) as entries:
            # Only what is longer than noted, so neither the lock nor a pidfile, and nothing of the journal: to close
            # one of those would drop its locks. The inode's number may have gone to any of them.
            names = [
                entry.path
                for entry in entries
                if entry.inode() == inode
                and entry.is_file(follow_symlinks=False)
                and not entry.name.startswith(JOURNAL_NAME)
                and entry.stat().st_size > noted
            ]
        for name in names:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.pread(fd, len(HEADER), 0) == HEADER:
                    return _found(fd, noted, lines)[:2]
            finally:
                os.close(fd)
        return 0, noted


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


def _parsed(place: str) -> tuple[int, int]:
    inode, _, size = place.partition(" ")
    return int(inode or 0), int(size or 0)


def _found(fd: int, noted: int, lines: list[bytes]) -> tuple[int, int, list[bytes]]:
    """
    How many of *lines* stand behind *noted*, from the first on; where these end; and which do not stand there at all.

    They may stand in another order, as with several meters a pulse can come to
    the journal after a later one of another. Whole lines are never taken out.
    """
    _cut_nuls(fd, noted)
    numbers = {line: number for number, line in enumerate(lines)}
    found: set[bytes] = set()
    taken, end, at, last = 0, noted, noted, -1
    with open(fd, "rb", closefd=False) as file:
        file.seek(at)
        while len(found) < len(lines) and (there := file.readline(BLOCK)):
            # A block that the file system had not written, before one that it had: the line is known.
            if b"\0" in there and taken == len(found) and _differ_by_nuls(there, lines[taken]):
                there = lines[taken]
                _write(fd, there, at)
                file.seek(at + len(there))
            if there in numbers:
                found.add(there)
                last = max(last, numbers[there])
            elif not there.endswith(b"\n") and any(line.startswith(there) for line in lines):  # torn
                os.ftruncate(fd, at)
                break
            elif OUR_LINE.match(there):  # it comes in a later batch, or never
                break
            at += len(there)
            if found and last + 1 == len(found) > taken:
                taken, end = len(found), at
    os.fdatasync(fd)
    return taken, end, [line for line in lines if line not in found]


def _cut_nuls(fd: int, noted: int) -> None:
    """Cut off the NULs of a file system that made the file longer but had not written the data when the power went."""
    end = at = os.fstat(fd).st_size
    kept = b""
    while at > noted and not kept:
        begin = max(noted, at - BLOCK)
        kept = os.pread(fd, at - begin, begin).rstrip(b"\0")
        at = begin + len(kept)
    if at < end:
        os.ftruncate(fd, at)


def _differ_by_nuls(there: bytes, line: bytes) -> bool:
    return all(found in (0, written) for found, written in zip(there, line, strict=False))


def _end_of_line(fd: int, end: int) -> int:
    """*end*, or behind the newline that was missing there."""
    if os.pread(fd, 1, end - 1) == b"\n":
        return end
    _write(fd, b"\n", end)
    os.fdatasync(fd)
    return end + 1


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
