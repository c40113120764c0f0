"""What the service manager is told, and what it wants to be told (sd_notify(3))."""

import contextlib
import os
import socket

from powermeter.safe_path import ours, socket_to_ask


def notify(*lines: str) -> None:
    """Tell the service manager *lines*, such as READY=1 (sd_notify(3)); nothing where none of this user's listens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    message = "\n".join(lines).encode()
    # A manager that does not read is none of our trouble, and never in the way of counting.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
        telling.setblocking(False)
        if path.startswith("@"):  # an abstract name, which has no owner
            telling.sendto(message, "\0" + path[1:])
            return
        with socket_to_ask(path) as (address, owner):
            if owner in ours():  # su keeps the variable of the user before
                telling.sendto(message, address)


def watchdog_s() -> float | None:
    """How often the service manager wants to hear WATCHDOG=1, in s; None for not at all (sd_watchdog_enabled(3))."""
    try:
        asked_us = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return asked_us / 1e6 if ours and asked_us > 0 else None
