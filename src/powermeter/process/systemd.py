"""Notifications to the service manager, and how often it expects them (sd_notify(3))."""

import contextlib
import os
import socket

from powermeter.safe_path import ours, socket_to_ask


def notify(*lines: str) -> None:
    """Send *lines*, such as READY=1, to the service manager (sd_notify(3)), if root or this user runs one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    message = "\n".join(lines).encode()
    # A manager that does not read is not our problem, and must never hold up counting.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
        telling.setblocking(False)
        if path.startswith("@"):  # an abstract name, which has no owner
            telling.sendto(message, "\0" + path[1:])
            return
        with socket_to_ask(path) as (address, owner):
            if owner in ours():  # su keeps the variable of the previous user
                telling.sendto(message, address)


def watchdog_s() -> float | None:
    """How often the service manager expects WATCHDOG=1, in s; None if never (sd_watchdog_enabled(3))."""
    try:
        asked_us = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return asked_us / 1e6 if ours and asked_us > 0 else None
