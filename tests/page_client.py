"""A page as its visitors meet it: its settings, requests to it, and the process that answers them."""

import contextlib
import http.client
import os
import socket
from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """What was answered to a request; the names of *headers* are in small letters."""

    status: int
    headers: dict
    text: str


def page_settings(port, **more):
    """The line of settings.py for a page at *port*."""
    return f"PAGE = { ({'port': port} | more)!r}"


def get(port, path="/healthz", *, address="127.0.0.1", method="GET", **headers):
    """Ask for *path*; *headers* by their names, with an underscore for a hyphen."""
    with contextlib.closing(http.client.HTTPConnection(address, port, timeout=60)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        text = answer.read().decode()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, text)


def sent(port, raw, *, end=False):
    """What is answered to the bytes *raw* until the connection is closed; *end*: nothing more is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        found = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(raw)
            if end:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                found += part
        return found


def page_of(pid):
    """The process id of the page of the program *pid*; None without one."""
    found = [child for child in children_of(pid) if b"views.page.child" in _read(f"/proc/{child}/cmdline")]
    assert len(found) <= 1, "more than one page"
    return found[0] if found else None


def children_of(pid):
    """The process ids of the children of *pid*."""
    listed = [_read(path) for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for line in listed for child in line.split()]


def field(pid, name):
    """What /proc says of the process *pid* under *name*, such as "VmRSS"."""
    (line,) = [line for line in _read(f"/proc/{pid}/status").decode().splitlines() if line.startswith(f"{name}:")]
    return line.partition(":")[2].strip()


def ended(pid):
    """Whether the process *pid* has ended."""
    state = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return not state or state[0] == b"Z"


def _read(path):
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()
    return b""


def open_files(pid):
    """What the process *pid* has open."""
    return sorted(os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
