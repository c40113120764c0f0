import contextlib
import errno
import grp
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from program import SOURCE, root_alone

from powermeter import safe_path
from powermeter.errors import UnsafePathError
from powermeter.safe_path import make_directory, open_file, open_to_ask, read_code, resolved, socket_to_ask

#: No users of a test machine.
STRANGER, USER = 54321, 54322


@pytest.fixture
def place():
    """A directory that every user may walk to."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp")).resolve()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def as_user(uid):
    """This process with the rights of *uid*."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def made(path, *, owner=0, mode=0o755):
    """The directory *path*, made."""
    path.mkdir()
    path.chmod(mode)
    os.chown(path, owner, owner)
    return path


def write(path, text="x", **options):
    """Write *text* as the program would."""
    fd = open_file(str(path), os.O_WRONLY | os.O_CREAT, **options)
    os.write(fd, text.encode())
    os.close(fd)


# --- What is followed


def test_links_are_resolved(tmp_path):
    """A path is resolved as the kernel would, including links in its middle and at its end."""
    (tmp_path / "stick" / "deep").mkdir(parents=True)
    (tmp_path / "data").symlink_to("stick/deep")
    (tmp_path / "stick" / "deep" / "power.csv").symlink_to("../other.csv")
    (tmp_path / "far").symlink_to(tmp_path / "data")
    for path in ("data/power.csv", "far/power.csv", "far/./power.csv", "data/new.csv", "stick/new/deeper.csv"):
        assert resolved(str(tmp_path / path)) == os.path.realpath(tmp_path / path)
        assert make_directory(str((tmp_path / path).parent)) == os.path.realpath((tmp_path / path).parent)
        write(tmp_path / path, path)
        assert (tmp_path / path).read_text().startswith(path)


@pytest.mark.parametrize("path", ["/dev/stderr", "/proc/self/fd/2", "/dev/null", "/"])
def test_the_kernel_s_links(path):
    """The kernel follows the links of /proc; a device is allowed."""
    assert os.path.exists(resolved(path)) == os.path.exists(path)


def test_own_descriptor():
    """A descriptor of this process, which the shell may have opened, is written as it is."""
    reader, writer = os.pipe()
    write(Path(f"/proc/self/fd/{writer}"), "told")
    assert os.read(reader, 9) == b"told"
    os.close(reader)
    os.close(writer)


def test_links_without_an_end(tmp_path):
    """Links in a circle are an error, as they are for the kernel."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        resolved(str(tmp_path / "a"))


def test_no_link_in_the_place_of_the_file(tmp_path):
    """With O_NOFOLLOW a link there is refused, and one on the way is not."""
    (tmp_path / "run").symlink_to("elsewhere")
    (tmp_path / "elsewhere").mkdir()
    os.close(open_file(str(tmp_path / "run" / "x"), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW))
    (tmp_path / "y").symlink_to("elsewhere/x")
    with pytest.raises(OSError, match="Too many levels"):
        open_file(str(tmp_path / "y"), os.O_WRONLY | os.O_NOFOLLOW)


@root_alone
def test_a_link_of_another_user_s(place):
    """Another user's link is refused and named, wherever it is, even on the way."""
    made(place / "victim")
    for name, path in (("link", "link"), ("on-the-way", "on-the-way/power.csv")):
        (place / name).symlink_to("victim")
        assert resolved(str(place / path))
        os.lchown(place / name, STRANGER, STRANGER)
        for use in (resolved, make_directory):
            with pytest.raises(UnsafePathError, match=f"{place}/{name} belongs to .*{STRANGER}, and is not followed"):
                use(str(place / path))
    assert list((place / "victim").iterdir()) == []


# --- Who may write


@root_alone
@pytest.mark.parametrize("kind", ["file", "directory", "socket"])
def test_in_a_directory_like_tmp(place, kind):
    """There, anything that another user has put is refused, but not what the program's user owns."""
    laid = made(place / "public", mode=0o1777) / "x"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(laid))
    elif kind == "file":
        laid.touch()
    else:
        laid.mkdir()
    path = str(laid / "power.csv" if kind == "directory" else laid)
    assert resolved(path) == path
    os.chown(laid, STRANGER, STRANGER)
    with pytest.raises(UnsafePathError, match=f"{laid} belongs to"):
        resolved(path)


def test_a_second_name_of_a_file(tmp_path):
    """Where everyone may create names, a file with a second name may be a trap and is refused; elsewhere it is not."""
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    (tmp_path / "shadow").touch(mode=0o600)
    (public / "power.log").hardlink_to(tmp_path / "shadow")
    with pytest.raises(UnsafePathError, match="has another name, too"):
        write(public / "power.log")
    write(tmp_path / "shadow")


@pytest.mark.parametrize(("mode", "who"), [(0o777, "everyone"), (0o757, "everyone")])
def test_a_directory_that_others_may_write(tmp_path, mode, who):
    """Where others may replace files, nothing is written or read, and the line says what to type."""
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(mode)
    words = f"{public}: {who} may write it: chmod o-w {public}"
    for use in (resolved, make_directory, write, open_to_ask, lambda path: read_code(path, 9)):
        with pytest.raises(UnsafePathError) as refused:
            use(str(public / "x"))
        assert str(refused.value) == words
    assert list(public.iterdir()) == []


@root_alone
def test_a_group(place):
    """A group with other members that may write is named; a user's own group, as Debian makes one, is allowed."""
    shared = made(place / "shared", mode=0o775)
    assert resolved(str(shared / "x"))
    os.chown(shared, 0, 65534)
    with pytest.raises(UnsafePathError, match=f"{shared}: the group nogroup may write it: chmod g-w {shared}"):
        resolved(str(shared / "x"))


@root_alone
def test_a_second_group_of_the_same_number(place, monkeypatch):
    """Its members may write, too."""
    shared = made(place / "shared", mode=0o775)
    os.chown(shared, 0, STRANGER)
    one, two = (grp.struct_group((name, "x", STRANGER, users)) for name, users in (("one", []), ("two", ["nobody"])))
    monkeypatch.setattr(grp, "getgrall", lambda: [one, two])
    monkeypatch.setattr(grp, "getgrgid", lambda _: one)
    with pytest.raises(UnsafePathError, match="the group one may write it"):
        resolved(str(shared / "x"))


@root_alone
def test_an_access_control_list_that_is_not_shown(place, monkeypatch):
    """If it can't be read, for example without /proc, nobody knows who may write, and nothing is written."""
    shared = made(place / "shared", mode=0o775)

    def fail_with(number):
        def getxattr(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "getxattr", getxattr)

    for none in (errno.ENODATA, errno.ENOTSUP):
        fail_with(none)
        assert resolved(str(shared / "x"))
    for failure in (errno.ENOENT, errno.EACCES):
        fail_with(failure)
        for use in (resolved, write):
            with pytest.raises(UnsafePathError, match=f"{shared}: can't find out who may write it: "):
                use(str(shared / "x"))


@root_alone
@pytest.mark.parametrize("option", ["--map-root-user", "--user"])
def test_a_user_whom_the_namespace_does_not_know(option):
    """If all other users share one number, a file with that number belongs to another user, whoever this one is."""
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\nfrom powermeter.safe_path import ours; print(ours())"
    line = ["unshare", "--user", option, sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.stdout, done.stderr) == ("{0}\n", "")


@root_alone
def test_an_access_control_list(place):
    """An access control list shows who may write, which the mode does not."""
    listed = made(place / "listed")
    everyone = 0xFFFFFFFF
    entries = [(0x01, 7, everyone), (0x02, 7, STRANGER), (0x04, 5, everyone), (0x10, 7, everyone), (0x20, 5, everyone)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(listed, safe_path.ACL, acl)
    except OSError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{place} takes no access control list: {error}")
    with pytest.raises(UnsafePathError, match=f"{STRANGER} may write it, by its access control list: setfacl -b"):
        resolved(str(listed / "x"))


@root_alone
def test_root_uses_nothing_of_others(place):
    """Root neither writes nor runs anything of another user's; the message names the user to become."""
    home = made(place / "home", owner=STRANGER)
    (home / "x").touch(mode=0o600)
    (place / "x").touch(mode=0o600)
    os.chown(place / "x", STRANGER, STRANGER)
    for path, culprit in ((home / "x", home), (place / "x", place / "x")):
        for use in (write, lambda path: read_code(path, 9)):
            with pytest.raises(
                UnsafePathError, match=f"{culprit} belongs to .*{STRANGER}, and root uses only .* sudo -u"
            ):
                use(str(path))
    assert (home / "x").read_bytes() == b""


@root_alone
def test_a_user_uses_what_is_root_s_or_his(place):
    """A user's program writes in the user's own and root's directories, and not where a third user may write."""
    own, other = made(place / "own", owner=USER), made(place / "other", owner=STRANGER, mode=0o777)
    with as_user(USER):
        write(own / "x")
        assert read_code(str(own / "x"), 9) == b"x"
        with pytest.raises(UnsafePathError, match=f"{other} belongs to .*{STRANGER}, who may change what is there"):
            write(other / "x")
    os.chown(own / "x", STRANGER, STRANGER)
    (own / "x").chmod(0o644)
    with as_user(USER), pytest.raises(UnsafePathError, match=f"x belongs to .*{STRANGER}, who may change"):
        read_code(str(own / "x"), 9)


@root_alone
def test_a_stick_for_everyone(place, monkeypatch):
    """On a file system with made-up modes a user may write, which everyone may see; root may not; no code is run."""
    monkeypatch.setattr(safe_path, "SHARED", (safe_path.file_system(str(place)),))
    stick = made(place / "stick", owner=STRANGER, mode=0o777)
    with as_user(USER):
        write(stick / "power.csv", shared=True)
        assert make_directory(str(stick), shared=True) == str(stick)
        for use in (write, lambda path: read_code(path, 9)):
            with pytest.raises(UnsafePathError):
                use(str(stick / "power.csv"))
    with pytest.raises(UnsafePathError):
        write(stick / "power.csv", shared=True)


@root_alone
@pytest.mark.parametrize("link", ["power.csv", "directory"])
def test_a_link_on_a_stick_for_everyone(place, monkeypatch, link):
    """There, a link may be anybody's, whoever seems to own it, and is not followed."""
    monkeypatch.setattr(safe_path, "SHARED", (safe_path.file_system(str(place)),))
    stick = made(place / "stick", mode=0o777)
    own = made(place / "own", owner=USER)
    (stick / link).symlink_to(own / "power.csv" if link == "power.csv" else own)
    path = stick / "power.csv" if link == "power.csv" else stick / link / "power.csv"
    with as_user(USER):
        for use in (resolved, write):
            with pytest.raises(UnsafePathError, match=f"{stick}/{link} is a link on a stick or a share, and is not"):
                use(str(path), shared=True)
    assert list(own.iterdir()) == []


def test_a_private_directory(tmp_path):
    """A directory in which others may create names is not private, even if they can't change anything there."""
    (tmp_path / "public").mkdir()
    (tmp_path / "public").chmod(0o1777)
    assert make_directory(str(tmp_path / "public" / "own"), private=True)
    with pytest.raises(UnsafePathError, match="choose a directory of your own"):
        make_directory(str(tmp_path / "public"), private=True)


@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    """Code from a FIFO is refused at once; no more is read from a device than was asked for."""
    path = tmp_path / "settings.py"
    if kind == "FIFO":
        os.mkfifo(path, 0o600)
        with pytest.raises(OSError, match="is not a file"):
            read_code(str(path), 9)
    else:
        path.symlink_to("/dev/zero")
        assert read_code(str(path), 9) == bytes(9)


@root_alone
def test_asking_another_s(place):
    """A command that asks may read a file in its owner's directory, and learns the owner; not a third user's file."""
    run = made(place / "run", owner=USER)
    (run / "power.pid").touch(mode=0o644)
    os.chown(run / "power.pid", USER, USER)
    fd, owner = open_to_ask(str(run / "power.pid"))
    os.close(fd)
    assert owner == USER
    os.chown(run / "power.pid", STRANGER, STRANGER)
    with pytest.raises(UnsafePathError, match=f"belongs to .*{STRANGER}, and is not followed"):
        open_to_ask(str(run / "power.pid"))


@root_alone
@pytest.mark.parametrize(
    "kind", ["root's file", "root's directory", "a third one's directory", "a link", "root's link"]
)
def test_asking_what_another_has_laid(place, kind):
    """In another user's directory only that user's files count, and no links: root's files may have been moved."""
    run = made(place / "run", owner=USER)
    path = run / "power.pid"
    if kind == "root's file":
        path.touch(mode=0o644)
    elif "directory" in kind:
        owner = STRANGER if "third" in kind else 0
        (made(run / "d", owner=owner) / "power.pid").touch(mode=0o644)
        path = run / "d" / "power.pid"
        os.chown(path, USER, USER)
    else:
        (place / "theirs").touch(mode=0o644)
        os.chown(place / "theirs", USER, USER)
        path.symlink_to(place / "theirs")
        if kind == "a link":
            os.lchown(path, USER, USER)
    for ask in (open_to_ask, lambda path: socket_to_ask(path).__enter__()):
        with pytest.raises(UnsafePathError, match=f"{run}/.* belongs to .*, and is not followed"):
            ask(str(path))


def test_asking_opens_nothing_but_a_file(tmp_path, monkeypatch):
    """Anything that is not a file is not opened: opening a FIFO or a device would have effects."""
    path = tmp_path / "power.pid"
    os.mkfifo(path)
    opened = []

    def spied(name, flags, *args, **options):
        opened.append((str(name), flags))
        return os_open(name, flags, *args, **options)

    os_open = os.open
    monkeypatch.setattr(os, "open", spied)
    with pytest.raises(OSError, match="is not a file"):
        open_to_ask(str(path))
    assert [flags & os.O_PATH for name, flags in opened if name.endswith("power.pid")] == [os.O_PATH]
    assert not [name for name, flags in opened if not flags & os.O_PATH]
    with pytest.raises(OSError, match="is not a socket"), socket_to_ask(str(path)):
        pass


def test_the_text_of_a_path_is_printable(tmp_path):
    """A file's name can't control the terminal, and the line stays one line."""
    public = tmp_path / "\x1b[2J\n"
    public.mkdir()
    public.chmod(0o777)
    with pytest.raises(UnsafePathError) as refused:
        resolved(str(public / "x"))
    assert str(refused.value).startswith(rf"{tmp_path}/\x1b[2J\n: everyone may write it: ")
    assert refused.value.strerror == str(refused.value)


# --- Between the look and the use


def test_exchanged_in_between(tmp_path):
    """
    A directory exchanged for a link while it is walked leads nowhere else.

    Here the one who exchanges is the same user, so that the link is followed: what is written is then at its target,
    whole, and what is returned names that place. What is not is a walk that judged one directory and used another.
    """
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("b")
    ended = threading.Event()

    def exchange():
        spare, name, link = tmp_path / "spare", tmp_path / "a", tmp_path / "link"
        while not ended.is_set():
            name.rename(spare)
            link.rename(name)
            name.rename(link)
            spare.rename(name)

    exchanging = threading.Thread(target=exchange)
    exchanging.start()
    try:
        for number in range(3000):
            with contextlib.suppress(OSError):  # it was exchanged meanwhile
                fd = open_file(str(tmp_path / "a" / f"{number}"), os.O_WRONLY | os.O_CREAT)
                assert stat.S_ISREG(os.fstat(fd).st_mode)
                os.close(fd)
    finally:
        ended.set()
        exchanging.join()
    assert {path.parent.name for path in tmp_path.rglob("[0-9]*")} <= {"a", "b"}


@root_alone
def test_exchanged_by_another_user(place):
    """Another user who swaps a directory for a link to root's own gains nothing in thousands of tries."""
    victim = made(place / "victim", mode=0o700)
    home = made(place / "home", owner=STRANGER)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            os.chdir(home)
            while True:
                os.mkdir("d")
                os.rmdir("d")
                os.symlink(victim, "d")
                os.unlink("d")
        finally:
            os._exit(0)
    try:
        for _ in range(3000):
            with contextlib.suppress(OSError):
                write(home / "d" / "x")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert list(victim.iterdir()) == []
