"""
The one rule of paths: what the program follows, runs and writes.

Whoever may write a directory decides where its names lead, and whoever may write a file decides what it says. So a path
is used only if nobody but the program's user and root may change anything on it. It is walked by descriptors: each
directory is opened from the one before it and judged once it is open, so that nothing can be put in its place between
the look and the use.
"""

import contextlib
import errno
import functools
import grp
import os
import pwd
import re
import shlex
import stat
import struct
from collections.abc import Callable, Iterator

from powermeter.errors import UnsafePathError
from powermeter.mounts import file_system

#: As many links as Linux follows in a path (path_resolution(7)).
MAX_LINKS = 40

#: How a directory on the way is opened: it need not be readable.
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: File systems that show owners and modes which a mount option or a server makes up: of a stick or a share that is
#: mounted for everyone. Anybody may change what is written there, and nobody can lead it elsewhere.
SHARED = ("vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk", "hfsplus", "nfs", "nfs4", "cifs", "smb3", "9p")

#: A descriptor of this process, which the kernel shows as a link.
OWN_DESCRIPTOR = re.compile(r"/proc/([0-9]+)/fd/[0-9]+")

#: An access control list: a version, then entries of a tag, permissions and an id (Linux, posix_acl_xattr.h).
ACL, ACL_ENTRY = "system.posix_acl_access", struct.Struct("<HHI")
ACL_USER, ACL_GROUP, ACL_MASK, ACL_WRITE = 0x02, 0x08, 0x10, 0x02

#: How many numbers of users there are, but for the one that stands for none.
ALL_USERS = 2**32 - 1


def open_file(path: str, flags: int, mode: int = 0o640, *, shared: bool = False) -> int:
    """
    Open *path* for the program to write, as ``os.open()`` does.

    Links are followed, with O_NOFOLLOW among the *flags* none in the place of the file itself. *shared* also allows a
    file on a stick or a share that is mounted for everyone (:data:`SHARED`), unless root asks.
    Raises :exc:`UnsafePathError` where others may change what the path leads to, or write the file.
    """
    with _walk(path, shared=shared, last_link=not flags & os.O_NOFOLLOW) as (walk, name):
        return walk.open(name, flags, mode)


def resolved(path: str, *, shared: bool = False) -> str:
    """*path* without its links, judged as by :func:`open_file`; what is not there yet is taken as it stands."""
    try:
        with _walk(path, shared=shared) as (walk, name):
            with contextlib.suppress(FileNotFoundError):
                os.close(walk.open(name, os.O_PATH))
            return os.path.join(walk.path, name)
    except _MissingError as error:
        return error.rest


def make_directory(path: str, mode: int = 0o750, *, shared: bool = False, private: bool = False) -> str:
    """
    The directory *path* without its links, made with *mode* where it is missing, as are those above it.

    *private*: others may not make names in it either, as they may in /tmp. Raises :exc:`UnsafePathError`.
    """
    with _walk(path, shared=shared, make=mode) as (walk, _):
        if private and walk.is_open:
            raise UnsafePathError(f"everyone may write {walk.path}: choose a directory of your own")
        return walk.path


def read_code(path: str, most: int) -> bytes:
    """
    The first *most* bytes of the file *path*, which is to be run.

    Nobody but this user and root may write it; for root, nobody but root may write a directory on the way either, which
    for others may be in another's home, as the program itself may. Raises :exc:`UnsafePathError`.
    """
    with _walk(path, foreign=os.geteuid() != 0) as (walk, name), open(walk.open(name, os.O_RDONLY), "rb") as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a file")
        return file.read(most) or b""  # None of a terminal that nobody has typed at


def open_to_ask(path: str) -> tuple[int, int]:
    """
    The file *path*, open for reading, and its owner, who may be any user.

    From the first directory of another user on, everything must be that user's, and no link is followed: its owner
    may have moved anything there, a file of root's too. Elsewhere, as in /tmp, it must be this user's or root's.
    Raises :exc:`UnsafePathError`.
    """
    found, owner = _found_to_ask(path, stat.S_ISREG, "is not a file")
    try:
        return os.open(_address(found), os.O_RDONLY | os.O_CLOEXEC), owner
    except FileNotFoundError:
        raise OSError(errno.ENOENT, "/proc is not mounted") from None
    finally:
        os.close(found)


@contextlib.contextmanager
def socket_to_ask(path: str) -> Iterator[tuple[str, int]]:
    """The address to connect to the socket *path*, and its owner, who is judged as by :func:`open_to_ask`."""
    found, owner = _found_to_ask(path, stat.S_ISSOCK, "is not a socket")
    try:
        yield _address(found), owner
    finally:
        os.close(found)


def ours() -> set[int]:
    """This user and root. In a container root may be seen as another one, who owns /."""
    return {0, os.geteuid(), os.stat("/").st_uid} - _unknown()


def user_name(uid: int) -> str:
    """The name of the user *uid*, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


# --- The walk


class _MissingError(FileNotFoundError):
    """A directory on the way is missing; *rest* is the path from there on, without the links before it."""

    def __init__(self, rest: str) -> None:
        self.rest = rest
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT))


@contextlib.contextmanager
def _walk(
    path: str,
    *,
    shared: bool = False,
    foreign: bool = False,
    asking: bool = False,
    make: int | None = None,
    last_link: bool = True,
) -> Iterator["tuple[_Walk, str]"]:
    """
    Walk to the directory of *path*; with *make*, a mode, to *path* itself. Gives the last name too.

    *foreign*: whether the directories may be another user's; *asking*: whether the file is then to be that user's;
    *last_link*: whether a link in the place of the file is followed.
    """
    walk = _Walk(shared=shared, foreign=foreign, asking=asking)
    try:
        yield walk, walk.go(path, make, last_link=last_link)
    finally:
        walk.close()


class _Walk:
    """Where a walk is: an open directory."""

    def __init__(self, *, shared: bool, foreign: bool, asking: bool) -> None:
        self._shared = shared and os.geteuid() != 0
        self._foreign = foreign
        self._asking = asking
        #: The other user in whose directory the walk is, if it only asks.
        self._host: int | None = None
        self._is_own_descriptor = False
        self.fd, self.path = -1, "/"
        #: Whether others may make names here, but change none of ours: the sticky bit, as of /tmp.
        self.is_open = False
        self._stand(os.open("/", DIRECTORY), "/")

    def close(self) -> None:
        os.close(self.fd)

    def go(self, path: str, make: int | None, *, last_link: bool) -> str:
        """Walk along *path* and return its last name; with *make*, a mode, to its end, and make what is missing."""
        parts, links = _parts(path), 0
        while parts:
            name = parts.pop()
            there = os.path.join(self.path, name)
            if name == "..":
                self._stand(os.open("..", DIRECTORY, dir_fd=self.fd), os.path.dirname(self.path))
                continue
            try:
                found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            except FileNotFoundError:
                if make is None and not parts:
                    return name
                if make is None:
                    raise _MissingError(os.path.join(there, *reversed(parts))) from None
                with contextlib.suppress(FileExistsError):  # another made it this moment
                    os.mkdir(name, make, dir_fd=self.fd)
                parts.append(name)
                continue
            if stat.S_ISLNK(found.st_mode) or self.is_open:
                self._judge_owner(found, there)
            if stat.S_ISLNK(found.st_mode) and (parts or last_link):
                match = OWN_DESCRIPTOR.fullmatch(there)
                if match and int(match[1]) == os.getpid() and not parts and make is None:
                    self._is_own_descriptor = True
                    return name
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = os.readlink(name, dir_fd=self.fd)
                if target.startswith("/"):
                    self._stand(os.open("/", DIRECTORY), "/")
                parts += _parts(target)
            elif parts or make is not None:
                self._stand(os.open(name, DIRECTORY, dir_fd=self.fd), there)
            else:
                return name
        return "."

    def open(self, name: str, flags: int, mode: int = 0) -> int:
        """Open the last name of the walk, and judge what that was."""
        flags |= os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO would be waited for
        if self._is_own_descriptor:
            return os.open(name, flags, mode, dir_fd=self.fd)
        fd = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=self.fd)
        try:
            self._judge_file(os.fstat(fd), fd, os.path.join(self.path, name))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _stand(self, fd: int, path: str) -> None:
        """Stand in the open directory *fd* from now on, if it may be trusted."""
        before, self.fd, self.path = self.fd, fd, path
        if before >= 0:
            os.close(before)
        found = os.fstat(fd)
        if self._host is not None:
            self._judge_owner(found, path)
        elif self._asking and found.st_uid not in ours():
            self._host = found.st_uid
        self.is_open = False
        try:
            _judge_writers(found, fd, path, any_owner=self._foreign)
        except UnsafePathError:
            self.is_open = found.st_mode & stat.S_ISVTX != 0 and found.st_uid in ours()
            if not self.is_open and not self._is_shared():
                raise

    def _is_shared(self) -> bool:
        return self._shared and file_system(self.path) in SHARED

    def _judge_owner(self, found: os.stat_result, path: str) -> None:
        """Judge a link, or what stands in a directory where others may make names, by its owner."""
        if self._host is None:
            is_safe = found.st_uid in ours()
        else:
            is_safe = found.st_uid == self._host and not stat.S_ISLNK(found.st_mode)
        if not is_safe:
            raise UnsafePathError(
                f"{path} belongs to {user_name(found.st_uid)}, and is not followed: choose another path"
            )
        if stat.S_ISLNK(found.st_mode) and self._is_shared():
            raise UnsafePathError(
                f"{path} is a link on a stick or a share, and is not followed: name the path that it leads to"
            )

    def _judge_file(self, found: os.stat_result, fd: int, path: str) -> None:
        if self._asking or self.is_open or not stat.S_ISREG(found.st_mode):
            self._judge_owner(found, path)
        if self._asking or not stat.S_ISREG(found.st_mode) or self._is_shared():
            return
        if self.is_open and found.st_nlink > 1:
            raise UnsafePathError(f"{path} is a file of another name too, and is not written: remove it")
        _judge_writers(found, fd, path)


def _found_to_ask(path: str, is_kind: Callable[[int], bool], refusal: str) -> tuple[int, int]:
    """
    What *path* leads to, only looked at, as opening a device or a FIFO may do something; and its owner.

    Raises :exc:`OSError` with the text *refusal* where it is of another kind.
    """
    with _walk(path, foreign=True, asking=True) as (walk, name):
        fd = walk.open(name, os.O_PATH)
    found = os.fstat(fd)
    if not is_kind(found.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, refusal)
    return fd, found.st_uid


def _address(fd: int) -> str:
    """A path to what is open as *fd*, whatever has its name by now."""
    return f"/proc/self/fd/{fd}"


def _parts(path: str) -> list[str]:
    """The names in *path*, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


# --- Who may write


def _judge_writers(found: os.stat_result, fd: int, path: str, *, any_owner: bool = False) -> None:
    """Raise :exc:`UnsafePathError` where others may write what is open as *fd*: who, and what to do about it."""
    if found.st_uid not in ours() and not any_owner:
        owner = user_name(found.st_uid)
        if os.geteuid() == 0:
            raise UnsafePathError(
                f"{path} belongs to {owner}, and root uses only what root alone may write: run it as {owner}: "
                f"sudo -u {shlex.quote(owner)} ..."
            )
        raise UnsafePathError(f"{path} belongs to {owner}, who may change what is there: choose another place")
    if found.st_mode & stat.S_IWOTH:
        raise UnsafePathError(f"{path}: everyone may write it: chmod o-w {shlex.quote(path)}")
    if found.st_mode & stat.S_IWGRP:
        known = ours() | {found.st_uid}
        if group := _group_of_others(found.st_gid, known):
            raise UnsafePathError(f"{path}: the group {group} may write it: chmod g-w {shlex.quote(path)}")
        if listed := _listed(fd, known, path):
            raise UnsafePathError(
                f"{path}: {listed} may write it, by its access control list: setfacl -b {shlex.quote(path)}"
            )


def _group_of_others(gid: int, known: set[int]) -> str:
    """The name of the group *gid*, if somebody other than *known* is in it; else ""."""
    members = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    groups = [group for group in grp.getgrall() if group.gr_gid == gid]  # there may be several of one number
    with contextlib.suppress(KeyError):
        groups.append(grp.getgrgid(gid))  # the list may lack those of a directory service
    for name in {name for group in groups for name in group.gr_mem}:
        with contextlib.suppress(KeyError):
            members.add(pwd.getpwnam(name).pw_uid)
    names = [group.gr_name for group in groups] or [str(gid)]
    return names[0] if members - known else ""


@functools.cache
def _unknown() -> set[int]:
    """
    The number that stands for every user who is not known in this user namespace; none where all are.

    See user_namespaces(7), "Unmapped user and group IDs".
    """
    with contextlib.suppress(OSError), open("/proc/self/uid_map", "rb") as known:
        if sum(int(line.split()[2]) for line in known) < ALL_USERS:
            with open("/proc/sys/kernel/overflowuid", "rb") as number:
                return {int(number.read())}
    return set()


def _listed(fd: int, known: set[int], path: str) -> str:
    """The first that the access control list of *fd*, open at *path*, lets write, other than *known*; else ""."""
    try:
        acl = os.getxattr(_address(fd), ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return ""
        raise UnsafePathError(f"{path}: who may write it can't be found out: {error.strerror}") from error
    entries = [ACL_ENTRY.unpack_from(acl, at) for at in range(4, len(acl) - ACL_ENTRY.size + 1, ACL_ENTRY.size)]
    mask = next((may for tag, may, _ in entries if tag == ACL_MASK), ACL_WRITE)
    for tag, may, who in entries:
        if may & mask & ACL_WRITE:
            if tag == ACL_USER and who not in known:
                return user_name(who)
            if tag == ACL_GROUP and (group := _group_of_others(who, known)):
                return f"the group {group}"
    return ""
