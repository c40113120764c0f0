"""
One line per pulse in a CSV file that others may rotate.

The writer's place is the size up to which the file's lines have been delivered,
with a mark of the contents just before that, and where the disk is mounted.
After a crash, the lines after that place were written but not yet noted; the
last one may be torn. When their pulses come again, the lines are recognised by
their contents, batch by batch, and not written a second time. There may be any
number of them: up to 100,000 pulses and a batch while the writer catches up.
Lines that do not come again, as after going back to a copy of the journal,
stay. The file is recognised by its contents: first the file of that name is
examined, then those that it may have been renamed to. An inode number does not
identify a file, because FAT and exFAT assign new ones at every mount. The place
of a new file is made durable before its first line is written, so all this also
holds if the file was rotated in between.
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

#: Python's own libraries are enough.
LIBRARY = None

#: Its keys in the settings.
KEYS = {"path": Key("power.csv", file_path, file=True)}

HEADER = b"time,meter,power_w,energy_wh,register_kwh\n"

#: How much of the file is read at a time, in bytes: more than a line, whatever others have appended.
BLOCK = 1 << 16

#: How much of a file's end is searched for lines that come again, in bytes, if its place is not known: more than can
#: have been written without being noted.
TAIL = 1 << 24

#: A place's mark is made from this many bytes before it: most of a line.
MARKED = 64

#: A line of this writer.
OUR_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z,")

#: The beginning of a line, to see whether a fragment at the end of a file may be a torn line.
SHAPE = b"0000-00-00T00:00:00.000000000Z,"
FIELDS = 5


class FileWriter:
    """
    Appends to the file *path*, which is created with its header if missing, and reopened by name after a rotation.

    *others*: the paths of other writers' files, which are not earlier files of this writer.
    """

    #: Each batch is synced, so its pace is as hard on an SD card as the journal's.
    pace = Pace(batch_size=5000, interval_s=30)

    def __init__(self, path: str, *, others: Collection[str] = ()) -> None:
        self._path = path
        self._others = frozenset(others)
        self._fd: int | None = None
        #: The size up to which it is known to contain our lines, with nothing after them; None: it has to be examined.
        self._end: int | None = None
        #: The device that it was on, and the number of lines written there.
        self._device: int | None = None
        self._written = 0
        #: Where its disk is mounted.
        self._mount = ""
        #: The directory that really contains it, if there is a link on the way.
        self._directory = os.path.dirname(path)

    def deliver(self, pulses: Sequence[Pulse], place: str) -> Receipt:
        """Append *pulses* and sync them, except for those that are already there, which are acknowledged first."""
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
                with contextlib.suppress(OSError):  # otherwise the next batch repairs it
                    os.ftruncate(fd, end)
                raise
            self._end = end + len(content)
            self._written += len(lines)
            return Receipt(len(pulses), self._place(fd, self._end))
        except OSError as error:
            self.close()  # after a disk has gone and come back, the descriptor is of no use any more
            raise LocalError(f"{self._path}: {error.strerror}") from error

    def _found(self, fd: int, place: "_Place", lines: list[bytes]) -> tuple[int, str, list[bytes]]:
        """
        How many of *lines*, counted from the first, are already there; the place after them; and the missing lines.

        If that place is "", the missing lines are to be appended.
        """
        begin = place.size if place.is_in(fd) else _first_of(fd, lines)
        taken, end, left = (0, 0, lines) if begin is None else _found(fd, begin, lines)
        # A place just after the header fits every new file: it may be the place in a file that was renamed.
        if not taken and (begin is None or place.size == len(HEADER)):
            taken, behind = self._found_rotated(place, lines)
            if taken:
                return taken, behind, lines
        if begin is None:
            # This is a different file: its place is noted first.
            return 0, self._place(fd, _end_of_line(fd, os.fstat(fd).st_size)), lines
        if taken or begin != place.size:
            return taken, self._place(fd, end), left
        return 0, "", left

    def _place(self, fd: int, size: int) -> str:
        return _Place.of(fd, size)._replace(mount=self._mount).text

    def check(self, pulses: Sequence[Pulse] = (), /) -> str:  # noqa: ARG002 - writing one would leave a trace
        """Check whether the file could be written, or created."""
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
        """The file that the name leads to now, with its header; *mount*: where its disk was mounted, "" if unknown."""
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
            # A mount that is not in /etc/fstab is known from before. If a mount point is not empty, it is used.
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
        # It is new, was emptied, was created empty by logrotate, or its header is torn.
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
        """How many of *lines* are in the file last written to, if that was renamed, and the place after them."""
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

        If other writers have files in the directory, which contain the same lines,
        only names that begin with ours qualify. The lock and a pidfile are shorter
        than a header, and so left out; so is the journal. Closing one of them would
        release its locks.
        """
        own = os.path.basename(self._path)
        others = [
            os.path.basename(path)
            for path in self._others
            if os.path.realpath(os.path.dirname(path)) == os.path.realpath(self._directory)
        ]

        # Not other users' files, in a directory where everyone may create names; on a share, the server sets the owner.
        owners = ours() | ({os.fstat(self._fd).st_uid} if self._fd is not None else set())

        def is_ours(name: str) -> bool:
            # power.csv and power.csv.old may both be files of writers: the longer name decides.
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
    """A size of the file; the mark of what is before it, None if an earlier version noted none; and the mount."""

    size: int
    mark: str | None
    mount: str = ""

    @classmethod
    def of(cls, fd: int, size: int) -> "_Place":
        begin = max(0, size - MARKED)
        return cls(size, hashlib.blake2b(os.pread(fd, size - begin, begin), digest_size=8).hexdigest())

    @classmethod
    def parsed(cls, text: str) -> "_Place":
        """The place that *text* describes; an earlier version wrote the inode and the size."""
        first, _, rest = text.partition(" ")
        mark, _, mount = rest.partition(" ")
        return cls(int(first), mark, mount) if len(mark) == 16 else cls(int(mark or 0), None)

    @property
    def text(self) -> str:
        return f"{self.size} {self.mark} {self.mount}"

    def is_in(self, fd: int) -> bool:
        """Whether *fd* is the file of this place, judging by the contents before it."""
        if not 0 < self.size <= os.fstat(fd).st_size:
            return False
        if self.mark is None:
            return os.pread(fd, 1, self.size - 1) == b"\n"
        return self.mark == _Place.of(fd, self.size).mark


def csv_line(pulse: Pulse) -> bytes:
    r"""
    The line for *pulse*; its numbers can be read back exactly.

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
    """Where in the last part of the file the first of *lines* begins; None if it contains none of them."""
    at = max(0, os.fstat(fd).st_size - TAIL)
    wanted = set(lines)
    with open(fd, "rb", closefd=False) as file:
        file.seek(at)
        if at:  # most likely in the middle of a line
            at += len(file.readline(BLOCK))
        while there := file.readline(BLOCK):
            if there in wanted:
                return at
            at += len(there)
    return None


def _found(fd: int, noted: int, lines: list[bytes]) -> tuple[int, int, list[bytes]]:
    """
    How many of *lines*, counted from the first, are after *noted*; where they end; and which lines are missing.

    They may be in another order: with several meters, a pulse can reach the
    journal after a later one of another meter. Whole lines are never removed; a
    torn one is.
    """
    _cut_nuls(fd, noted)
    numbers = {line: number for number, line in enumerate(lines)}
    found: set[bytes] = set()
    taken, end, at, last = 0, noted, noted, -1
    with open(fd, "rb", closefd=False) as file:
        file.seek(at)
        while len(found) < len(lines) and (there := file.readline(BLOCK)):
            # A block that the file system had not written, followed by one that it had: the line is known.
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
            elif OUR_LINE.match(there):  # its pulse comes in a later batch, or never
                break
            at += len(there)
            if found and last + 1 == len(found) > taken:
                taken, end = len(found), at
    os.fdatasync(fd)
    return taken, end, [line for line in lines if line not in found]


def _is_torn(there: bytes) -> bool:
    """Whether *there*, which has no newline, is the incomplete beginning of one of our lines."""
    begin = re.sub(rb"\d", b"0", there[: len(SHAPE)])
    return SHAPE.startswith(begin) and there.count(b",") < FIELDS - 1


def _cut_nuls(fd: int, noted: int) -> None:
    """Cut off NULs: the file system made the file longer, but had not written the data when the power went out."""
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
    """*end*, or the position after the newline, if one was missing there and had to be written."""
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
