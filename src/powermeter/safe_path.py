"""
The one rule for paths: what the program follows, runs and writes.

Anybody who may write to a directory decides where its names lead, and anybody who may write to a file decides what it
contains. So a path is used only if nobody but the program's user and root may change anything on it. The path is walked
through file descriptors: each directory is opened from the one before it and judged once it is open, so nothing can be
put in its place between the check and the use.
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

#: How a directory on the way is opened; it need not be readable.
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: File systems whose owners and modes are made up by a mount option or a server: those of a stick or a share that is
#: mounted for everyone. Anybody may change what is written there, but nobody can redirect it elsewhere.
SHARED = ("vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk", "hfsplus", "nfs", "nfs4", "cifs", "smb3", "9p")

#: A descriptor of this process, which the kernel shows as a link.
OWN_DESCRIPTOR = re.compile(r"/proc/([0-9]+)/fd/[0-9]+")

#: An access control list: a version, then entries of a tag, permissions and an id (Linux, posix_acl_xattr.h).
ACL, ACL_ENTRY = "system.posix_acl_access", struct.Struct("<HHI")
ACL_USER, ACL_GROUP, ACL_MASK, ACL_WRITE = 0x02, 0x08, 0x10, 0x02

#: How many user numbers there are, without the one that means "none".
ALL_USERS = 2**32 - 1


def open_file(path: str, flags: int, mode: int = 0o640, *, shared: bool = False) -> int:
    """
    Open *path* for the program to write, like ``os.open()``.

    Links are followed; with O_NOFOLLOW among the *flags*, the file itself must not be one. *shared* also allows a file
    on a stick or a share that is mounted for everyone (:data:`SHARED`), unless root runs the program.
    Raises :exc:`UnsafePathError` if others may change what the path leads to, or write the file.
    """
    with _walk(path, shared=shared, last_link=not flags & os.O_NOFOLLOW) as (walk, name):
        return walk.open(name, flags, mode)


def resolved(path: str, *, shared: bool = False) -> str:
    """*path* without its links, judged as by :func:`open_file`; a part that does not exist yet is left as it is."""
    try:
        with _walk(path, shared=shared) as (walk, name):
            with contextlib.suppress(FileNotFoundError):
                os.close(walk.open(name, os.O_PATH))
            return os.path.join(walk.path, name)
    except _MissingError as error:
        return error.rest


def make_directory(path: str, mode: int = 0o750, *, shared: bool = False, private: bool = False) -> str:
    """
    The path of the directory *path* without its links; it and those above it are created with *mode* if missing.

    *private*: others must not be able to create names in it, as they can in /tmp. Raises :exc:`UnsafePathError`.
    """
    with _walk(path, shared=shared, make=mode) as (walk, _):
        if private and walk.is_open:
            raise UnsafePathError(f"everyone may write {walk.path}: choose a directory of your own")
        return walk.path


def read_code(path: str, most: int) -> bytes:
    """
    The first *most* bytes of the file *path*, which is to be run.

    Nobody but this user and root may write it. If root runs the program, nobody else may write a directory on the way
    either; for other users, the file may be in somebody else's home, as the program itself may. Raises
    :exc:`UnsafePathError`.
    """
    with _walk(path, foreign=os.geteuid() != 0) as (walk, name), open(walk.open(name, os.O_RDONLY), "rb") as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a file")
        return file.read(most) or b""  # None: from a terminal without input


def open_to_ask(path: str) -> tuple[int, int]:
    """
    The file *path*, open for reading, and its owner, who may be any user.

    From the first directory of another user on, everything must belong to that user, and no link is followed: that user
    may have moved anything there, even a file of root's. Elsewhere, for example in /tmp, the file must belong to this
    user or root. Raises :exc:`UnsafePathError`.
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
    """This user and root. In a container, root may appear as a different user, who owns /."""
    return {0, os.geteuid(), os.stat("/").st_uid} - _unknown()


def user_name(uid: int) -> str:
    """The name of the user *uid*, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


# --- The walk


class _MissingError(FileNotFoundError):
    """A directory on the way is missing; *rest* is the whole path, without the links before that directory."""

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
    Walk to the directory of *path*, or with *make*, a mode, to *path* itself. Gives the walk and the last name.

    *foreign*: whether the directories may belong to another user; *asking*: whether the file must then belong to that
    user; *last_link*: whether the file itself may be a link.
    """
    walk = _Walk(shared=shared, foreign=foreign, asking=asking)
    try:
        yield walk, walk.go(path, make, last_link=last_link)
    finally:
        walk.close()


class _Walk:
    """The position of a walk: an open directory."""

    def __init__(self, *, shared: bool, foreign: bool, asking: bool) -> None:
        self._shared = shared and os.geteuid() != 0
        self._foreign = foreign
        self._asking = asking
        #: The other user in whose directory the walk is, if the path is only for asking.
        self._host: int | None = None
        self._is_own_descriptor = False
        self.fd, self.path = -1, "/"
        #: Whether others may create names here, but not change our names: the sticky bit, as in /tmp.
        self.is_open = False
        self._move(os.open("/", DIRECTORY), "/")

    def close(self) -> None:
        os.close(self.fd)

    def go(self, path: str, make: int | None, *, last_link: bool) -> str:
        """Walk along *path* and return its last name; with *make*, a mode, walk to its end, creating it."""
        parts, links = _parts(path), 0
        while parts:
            name = parts.pop()
            there = os.path.join(self.path, name)
            if name == "..":
                self._move(os.open("..", DIRECTORY, dir_fd=self.fd), os.path.dirname(self.path))
                continue
            try:
                found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            except FileNotFoundError:
                if make is None and not parts:
                    return name
                if make is None:
                    raise _MissingError(os.path.join(there, *reversed(parts))) from None
                with contextlib.suppress(FileExistsError):  # another process has just created it
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
                    self._move(os.open("/", DIRECTORY), "/")
                parts += _parts(target)
            elif parts or make is not None:
                self._move(os.open(name, DIRECTORY, dir_fd=self.fd), there)
            else:
                return name
        return "."

    def open(self, name: str, flags: int, mode: int = 0) -> int:
        """Open the last name of the walk, and judge what was opened."""
        flags |= os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO would wait for a writer
        if self._is_own_descriptor:
            return os.open(name, flags, mode, dir_fd=self.fd)
        fd = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=self.fd)
        try:
            self._judge_file(os.fstat(fd), fd, os.path.join(self.path, name))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _move(self, fd: int, path: str) -> None:
        """Move to the open directory *fd*, if it may be trusted."""
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
        """Judge a link, or an entry of a directory where others may create names, by its owner."""
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
            raise UnsafePathError(f"{path} has another name, too, and is not written: remove it")
        _judge_writers(found, fd, path)


def _found_to_ask(path: str, is_kind: Callable[[int], bool], refusal: str) -> tuple[int, int]:
    """
    A descriptor of what *path* leads to, with O_PATH, as opening a device or a FIFO may have effects; and its owner.

    Raises :exc:`OSError` with the text *refusal* if it is of another kind.
    """
    with _walk(path, foreign=True, asking=True) as (walk, name):
        fd = walk.open(name, os.O_PATH)
    found = os.fstat(fd)
    if not is_kind(found.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, refusal)
    return fd, found.st_uid


def _address(fd: int) -> str:
    """A path to what is open as *fd*, whatever its name leads to by now."""
    return f"/proc/self/fd/{fd}"


def _parts(path: str) -> list[str]:
    """The names in *path*, last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


# --- Who may write


def _judge_writers(found: os.stat_result, fd: int, path: str, *, any_owner: bool = False) -> None:
    """Raise :exc:`UnsafePathError` if others may write what is open as *fd*, saying who, and what to do about it."""
    if found.st_uid not in ours() and not any_owner:
        owner = user_name(found.st_uid)
        if os.geteuid() == 0:
            raise UnsafePathError(
                f"{path} belongs to {owner}, and root uses only what nobody else may write: run it as {owner}: "
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
    """The name of the group *gid*, if it has members other than *known*; otherwise ""."""
    members = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    groups = [group for group in grp.getgrall() if group.gr_gid == gid]  # several groups may share a number
    with contextlib.suppress(KeyError):
        groups.append(grp.getgrgid(gid))  # the list may lack groups from a directory service
    for name in {name for group in groups for name in group.gr_mem}:
        with contextlib.suppress(KeyError):
            members.add(pwd.getpwnam(name).pw_uid)
    names = [group.gr_name for group in groups] or [str(gid)]
    return names[0] if members - known else ""


@functools.cache
def _unknown() -> set[int]:
    """
    The number that stands for every user who is unknown in this user namespace; empty if all are known.

    See user_namespaces(7), "Unmapped user and group IDs".
    """
    with contextlib.suppress(OSError), open("/proc/self/uid_map", "rb") as known:
        if sum(int(line.split()[2]) for line in known) < ALL_USERS:
            with open("/proc/sys/kernel/overflowuid", "rb") as number:
                return {int(number.read())}
    return set()


def _listed(fd: int, known: set[int], path: str) -> str:
    """Who, other than *known*, may write by the access control list of *fd*, which is open at *path*; "" for nobody."""
    try:
        acl = os.getxattr(_address(fd), ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return ""
        raise UnsafePathError(f"{path}: can't find out who may write it: {error.strerror}") from error
    entries = [ACL_ENTRY.unpack_from(acl, at) for at in range(4, len(acl) - ACL_ENTRY.size + 1, ACL_ENTRY.size)]
    mask = next((may for tag, may, _ in entries if tag == ACL_MASK), ACL_WRITE)
    for tag, may, who in entries:
        if may & mask & ACL_WRITE:
            if tag == ACL_USER and who not in known:
                return user_name(who)
            if tag == ACL_GROUP and (group := _group_of_others(who, known)):
                return f"the group {group}"
    return ""
