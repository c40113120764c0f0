"""
One line per pulse in a CSV file that others may rotate.

Its place is the size up to which the file's lines have been delivered, with a
mark of what is just before it, and where the disk is mounted. What is behind it after a crash are lines that
were written but not yet noted, the last one whole or torn: where they come
again they are found there, by what they say, batch by batch, and not written a
second time. However many they are: while it catches up, 100,000 pulses and a
batch. Lines that do not come again, as after going back to a copy of the
journal, stay. The file is recognised by its content, first the one of that name
and then those that it may have been renamed to: an inode number is no identity,
as FAT and exFAT give new ones at every mount. A new file's place is made durable
before its first line is written, so that this also holds where a rotation fell
in between.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from powermeter.errors import LocalError
from powermeter.meter import NS_PER_S, Pulse
from powermeter.mounts import has_gone, mount_of, not_mounted
from powermeter.safe_path import make_directory, open_file, ours, resolved
from powermeter.settings.schema import Key, file_path
from powermeter.settings.values import JOURNAL
from powermeter.writers import Pace, Receipt

log = logging.getLogger(__name__)

#: No library is needed beside Python's own.
LIBRARY = None

#: Its keys in the settings.
KEYS = {"path": Key("power.csv", file_path, file=True)}

HEADER = b"time,meter,power_w,energy_wh,register_kwh\n"

#: How much of the file is looked at at once, in bytes: more than a line, whatever others appended.
BLOCK = 1 << 16

#: How much of a file's end is searched for lines that come again, in bytes, where its place is not known: more than all
#: that may not be noted.
TAIL = 1 << 24

#: How much before a place makes its mark, in bytes: most of a line.
MARKED = 64

#: A line of this writer.
OUR_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z,")

#: The beginning of one, to see whether a piece at the end of a file may be one that was torn.
SHAPE = b"0000-00-00T00:00:00.000000000Z,"
FIELDS = 5


class FileWriter:
    """
    Appends to the file *path*, made with its header where there is none, reopened by name after a rotation.

    *others*: the paths of other writers' files, which this one was never renamed to.
    """

    #: Each batch is synced, so its pace is as hard on an SD card as the journal's.
    pace = Pace(batch_size=5000, interval_s=30)

    def __init__(self, path: str, *, others: Collection[str] = ()) -> None:
        self._path = path
        self._others = frozenset(others)
        self._fd: int | None = None
        #: Up to where it is known to hold our lines, and nothing behind it; None: it has to be looked at.
        self._end: int | None = None
        #: The device that it was on, and how many lines were written there.
        self._device: int | None = None
        self._written = 0
        #: Where its disk is mounted.
        self._mount = ""
        #: The directory that it is in, which a link may lead to.
        self._directory = os.path.dirname(path)

    def deliver(self, pulses: Sequence[Pulse], place: str) -> Receipt:
        """Append *pulses* and sync them; but for those that are there already, which are taken first."""
        lines = [csv_line(pulse) for pulse in pulses]
        noted_place = _Place.parsed(place)
        try:
            fd = self._opened(noted_place.mount or self._mount)
            end = os.fstat(fd).st_size
            if end != self._end:
                taken, noted, lines = self._found(fd, noted_place, lines)
                if noted:
                    return Receipt(taken, noted)
                end = _end_of_line(fd, os.fstat(fd).st_size)
            content = b"".join(lines)
            self._end = None
            try:
                _write(fd, content, end)
                os.fdatasync(fd)
            except OSError:
                with contextlib.suppress(OSError):  # mended by the next batch otherwise
                    os.ftruncate(fd, end)
                raise
            self._end = end + len(content)
            self._written += len(lines)
            return Receipt(len(pulses), self._place(fd, self._end))
        except OSError as error:
            self.close()  # of a disk that went and came back it is of no use any more
            raise LocalError(f"{self._path}: {error.strerror}") from error

    def _found(self, fd: int, place: "_Place", lines: list[bytes]) -> tuple[int, str, list[bytes]]:
        """
        How many of *lines* are there already, from the first on, the place then, and the lines that are not there.

        Where that place is "", the others are to be appended.
        """
        begin = place.size if place.is_in(fd) else _first_of(fd, lines)
        taken, end, left = (0, 0, lines) if begin is None else _found(fd, begin, lines)
        # A place without a line before it is in any new file: one that was renamed may have been meant.
        if not taken and (begin is None or place.size == len(HEADER)):
            taken, behind = self._found_rotated(place, lines)
            if taken:
                return taken, behind, lines
        if begin is None:
            # Another file: its own place is noted first.
            return 0, self._place(fd, _end_of_line(fd, os.fstat(fd).st_size)), lines
        if taken or begin != place.size:
            return taken, self._place(fd, end), left
        return 0, "", left

    def _place(self, fd: int, size: int) -> str:
        return _Place.of(fd, size)._replace(mount=self._mount).text

    def check(self, pulses: Sequence[Pulse] = (), /) -> str:  # noqa: ARG002 - a line of it stands there, or not yet
        """Whether the file could be written, or made."""
        directory = os.path.dirname(self._path)
        while not os.path.exists(directory):
            directory = os.path.dirname(directory)
        try:
            resolved(self._path, shared=True)
        except OSError as error:
            raise LocalError(f"{self._path}: {error.strerror}") from error
        there = os.path.exists(self._path)
        if there and not os.path.isfile(self._path):
            raise LocalError(f"{self._path}: is not a file: name another path")
        if not os.path.isdir(directory):
            raise LocalError(f"{directory}: is not a directory: name another path")
        if not os.access(self._path if there else directory, os.W_OK):
            raise LocalError(f"{self._path}: can't be written by this user")
        return self._path

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._end = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _opened(self, mount: str) -> int:
        """The file that the name leads to now, with its header; *mount* is where its disk was mounted, "" not known."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if self._fd is None or there is None or not os.path.samestat(there, os.fstat(self._fd)):
            self.close()
            path = resolved(self._path, shared=True)
            if there is not None and stat.S_ISBLK(there.st_mode):
                raise OSError(errno.EINVAL, "is not a file: name another path")
            there_now = mount_of(path)
            missing = not_mounted(path)
            # What is not in /etc/fstab is known from before. A mount point that holds something is meant to be used.
            if missing is None and mount.startswith(there_now.rstrip("/") + "/") and has_gone(mount):
                missing = mount
            if missing:
                raise OSError(errno.ENODEV, f"its disk is not mounted at {missing}")
            self._mount = there_now
            self._directory = os.path.dirname(path)
            make_directory(self._directory, shared=True)
            self._fd = open_file(path, os.O_RDWR | os.O_CREAT, 0o640, shared=True)
            self._note_device(os.fstat(self._fd).st_dev)
        elif there.st_size >= len(HEADER):
            return self._fd
        begun = os.pread(self._fd, len(HEADER), 0)
        # New, emptied, made empty by logrotate, or torn in its header.
        if begun != HEADER and HEADER.startswith(begun.rstrip(b"\0")):
            self._end = None
            _write(self._fd, HEADER, 0)
            os.fdatasync(self._fd)
            _sync_directory(self._directory)
        return self._fd

    def _note_device(self, device: int) -> None:
        if device != self._device:
            if self._device is not None and self._written:
                log.warning(
                    "%s: another disk is there now; the lines written before, %d since the start, are on the one that "
                    "was there: if it was the directory below the mount point, they are hidden there",
                    self._path,
                    self._written,
                )
            self._device, self._written = device, 0

    def _found_rotated(self, place: "_Place", lines: list[bytes]) -> tuple[int, str]:
        """How many of *lines* are in the file last written to, which was renamed, and the place behind these."""
        for path in self._renamed():
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.pread(fd, len(HEADER), 0) == HEADER and place.is_in(fd):
                    taken, end, _ = _found(fd, place.size, lines)
                    if taken:
                        return taken, self._place(fd, end)
            finally:
                os.close(fd)
        return 0, ""

    def _renamed(self) -> list[str]:
        """
        The files that ours may have been renamed to, the likeliest first.

        Beside other writers' files, which hold the same lines, the name has to
        say so. Neither the lock nor a pidfile, which are shorter than a header, and
        nothing of the journal: to close one of those would drop its locks.
        """
        own = os.path.basename(self._path)
        others = [
            os.path.basename(path)
            for path in self._others
            if os.path.realpath(os.path.dirname(path)) == os.path.realpath(self._directory)
        ]

        # Nobody else's, where all may make names; on a share its files belong to whom its server says.
        owners = ours() | ({os.fstat(self._fd).st_uid} if self._fd is not None else set())

        def is_ours(name: str) -> bool:
            # power.csv and power.csv.old may both be writers' files: the longer name decides.
            return name.startswith(own) and not any(name.startswith(other) for other in others if len(other) > len(own))

        with os.scandir(self._directory) as entries:
            found = [
                (not is_ours(entry.name), -entry.stat().st_mtime_ns, entry.path)
                for entry in entries
                if entry.is_file(follow_symlinks=False)
                and entry.stat().st_uid in owners
                and entry.name != own
                and (is_ours(entry.name) or not others)
                and not entry.name.startswith(JOURNAL)
                and entry.stat().st_size > len(HEADER)
            ]
        return [path for _, _, path in sorted(found)]


class _Place(NamedTuple):
    """A size of the file, the mark of what is before it, None where an earlier version noted none; and the mount."""

    size: int
    mark: str | None
    mount: str = ""

    @classmethod
    def of(cls, fd: int, size: int) -> "_Place":
        begin = max(0, size - MARKED)
        return cls(size, hashlib.blake2b(os.pread(fd, size - begin, begin), digest_size=8).hexdigest())

    @classmethod
    def parsed(cls, text: str) -> "_Place":
        """The place in *text*; an earlier version wrote the inode and the size."""
        first, _, rest = text.partition(" ")
        mark, _, mount = rest.partition(" ")
        return cls(int(first), mark, mount) if len(mark) == 16 else cls(int(mark or 0), None)

    @property
    def text(self) -> str:
        return f"{self.size} {self.mark} {self.mount}"

    def is_in(self, fd: int) -> bool:
        """Whether *fd* is the file of this place, by what is before it there."""
        if not 0 < self.size <= os.fstat(fd).st_size:
            return False
        if self.mark is None:
            return os.pread(fd, 1, self.size - 1) == b"\n"
        return self.mark == _Place.of(fd, self.size).mark


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


def _first_of(fd: int, lines: list[bytes]) -> int | None:
    """Where the first of *lines* begins that is in the last part of the file; None where none is."""
    at = max(0, os.fstat(fd).st_size - TAIL)
    wanted = set(lines)
    with open(fd, "rb", closefd=False) as file:
        file.seek(at)
        if at:  # most likely within a line
            at += len(file.readline(BLOCK))
        while there := file.readline(BLOCK):
            if there in wanted:
                return at
            at += len(there)
    return None


def _found(fd: int, noted: int, lines: list[bytes]) -> tuple[int, int, list[bytes]]:
    """
    How many of *lines* are behind *noted*, from the first on; where these end; and which are not there at all.

    They may be in another order, as with several meters a pulse can come to
    the journal after a later one of another. Whole lines are never taken out;
    what is torn is.
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
            elif not there.endswith(b"\n") and (_is_torn(there) or any(line.startswith(there) for line in lines)):
                os.ftruncate(fd, at)
                break
            elif OUR_LINE.match(there):  # it comes in a later batch, or never
                break
            at += len(there)
            if found and last + 1 == len(found) > taken:
                taken, end = len(found), at
    os.fdatasync(fd)
    return taken, end, [line for line in lines if line not in found]


def _is_torn(there: bytes) -> bool:
    """Whether *there*, without its newline, is the beginning of a line of ours, and of no whole one."""
    begin = re.sub(rb"\d", b"0", there[: len(SHAPE)])
    return SHAPE.startswith(begin) and there.count(b",") < FIELDS - 1


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
