"""What a service may do, tried from inside it, in place of the program: the answers go to $STATE_DIRECTORY."""

import contextlib
import ctypes
import errno
import json
import os
import socket
import stat
import sys
import time
from pathlib import Path


def outcome(attempt):
    """None where *attempt* succeeds, else the name of its error."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def write(directory):
    """Make a file in *directory*, and remove it."""
    path = Path(directory, "power-probe")
    path.touch()
    path.unlink()


def devices():
    """The devices in /dev that open."""
    opened = []
    for directory, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
                    opened.append(path)
    return sorted(opened)


def clock():
    """What adjtimex(2) tells of the clock without a wish to change it: its state, or the error's name."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = (ctypes.c_uint * 64)()
    state = libc.adjtimex(timex)
    return state if state >= 0 else errno.errorcode[ctypes.get_errno()]


def main():
    """Try it all."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    families = ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET")
    state = os.environ["STATE_DIRECTORY"]
    found = {
        "uid": os.getuid(),
        "status": {key: status[key] for key in status if key.startswith("Cap") or key in ("NoNewPrivs", "Seccomp")},
        "write": {path: outcome(lambda path=path: write(path)) for path in [*sys.argv[1:], state]},
        "devices": devices(),
        "sockets": {
            name: outcome(lambda name=name: socket.socket(getattr(socket, name), socket.SOCK_DGRAM).close())
            for name in families
        },
        "set the clock": outcome(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time())),
        "ask the clock": clock(),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()),
    }
    Path(state, "probe.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
