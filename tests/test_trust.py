import os
import socket

import pytest

from powermeter.trust import trusted

#: No user of a test machine.
STRANGER = 54321


@pytest.fixture
def public(tmp_path):
    """A directory that all may write, as /tmp."""
    path = tmp_path / "public"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def of_a_stranger(monkeypatch):
    """Makes paths another user's, in what the program asks; root alone could make them so."""
    theirs = set()
    ask = {name: getattr(os, name) for name in ("stat", "lstat")}

    def asked(name, path):
        found = ask[name](path)
        if str(path) not in theirs:
            return found
        return os.stat_result([*found[:4], STRANGER, *found[5:]])

    monkeypatch.setattr("powermeter.trust.os.stat", lambda path: asked("stat", path))
    monkeypatch.setattr("powermeter.trust.os.lstat", lambda path: asked("lstat", path))
    return lambda path: theirs.add(str(path))


def test_links_are_resolved(tmp_path):
    """A path comes back as the kernel would follow it, links in its middle and at its end too."""
    (tmp_path / "stick" / "deep").mkdir(parents=True)
    (tmp_path / "data").symlink_to("stick/deep")
    (tmp_path / "stick" / "deep" / "power.csv").symlink_to("../other.csv")
    (tmp_path / "far").symlink_to(tmp_path / "data")
    for path in ("data/power.csv", "far/power.csv", "far/./power.csv", "data/new.csv", "stick/new/deeper.csv"):
        assert trusted(str(tmp_path / path)) == os.path.realpath(tmp_path / path)


@pytest.mark.parametrize("path", ["/dev/stderr", "/proc/self/fd/2", "/dev/null", "/"])
def test_the_kernel_s_links(path):
    """What /proc links to is the kernel's to follow, and a device is one."""
    assert os.path.exists(trusted(path)) == os.path.exists(path)


def test_a_link_of_another_user_s(tmp_path, of_a_stranger):
    """A link of another user's is refused wherever it is, and named; one on the way there too."""
    (tmp_path / "victim").mkdir()
    for name, path in (("link", "link"), ("on-the-way", "on-the-way/power.csv")):
        (tmp_path / name).symlink_to("victim")
        assert trusted(str(tmp_path / path))
        of_a_stranger(tmp_path / name)
        with pytest.raises(PermissionError, match=f"{tmp_path}/{name} is another user's, and is not followed"):
            trusted(str(tmp_path / path))


@pytest.mark.parametrize("kind", ["file", "directory", "socket"])
def test_in_a_directory_that_all_may_write(public, of_a_stranger, kind):
    """There what another user has laid is refused, whatever it is; what is the program's own is not."""
    laid = public / "x"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(laid))
    elif kind == "file":
        laid.touch()
    else:
        laid.mkdir()
    path = str(laid / "power.csv" if kind == "directory" else laid)
    assert trusted(path) == path
    of_a_stranger(laid)
    with pytest.raises(PermissionError, match="another user's"):
        trusted(path)


def test_a_second_name_of_a_file(public):
    """Where all may write, a file may be another one by a second name, and is refused; elsewhere it is not."""
    (public.parent / "shadow").touch()
    (public / "power.log").hardlink_to(public.parent / "shadow")
    with pytest.raises(PermissionError, match="a file of another name too"):
        trusted(str(public / "power.log"))
    assert trusted(str(public.parent / "shadow"))


def test_what_is_honest(public, of_a_stranger):
    """Another user's directory that is not open to all holds what its user likes; so does a stick open to all."""
    home = public.parent / "home"
    home.mkdir()
    (home / "power.csv").touch()
    of_a_stranger(home)
    of_a_stranger(home / "power.csv")
    assert trusted(str(home / "power.csv")) == str(home / "power.csv")
    (public / "power.csv").touch()
    of_a_stranger(public)
    of_a_stranger(public / "power.csv")
    assert trusted(str(public / "power.csv")) == str(public / "power.csv")


def test_links_without_an_end(tmp_path):
    """Links in a circle are an error, as for the kernel."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        trusted(str(tmp_path / "a"))
