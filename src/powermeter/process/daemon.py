"""Detaching from the caller."""

import contextlib
import os
import sys
from collections.abc import Callable

from powermeter.errors import PowerError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from powermeter.process.pidfile import PidFile

#: Files that the program creates can be written only by its user, and read by its group.
UMASK = 0o027

#: What the daemon writes to its caller once it counts.
READY = b"ready"


def daemonize(pidfile: "PidFile", working_directory: str, work: Callable[[Callable[[], None]], int]) -> int:
    """
    Run *work* in a daemon that holds *pidfile*, and return once it is ready or has failed.

    *work* is given the function to call when it is ready, and returns the
    daemon's exit status. This returns twice: in the caller 0 or 1, with the
    reason on stderr; and in the daemon the exit status of *work*.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        return _daemon(pidfile, working_directory, work, writing)
    os.close(writing)
    with open(reading, "rb") as from_daemon:
        message = printable(from_daemon.read().decode(errors="replace")).strip()
    os.waitpid(child, 0)
    ready, _, rest = message.partition(" ")
    if ready == READY.decode():
        print(f"power: counting, pid {rest}")
        return 0
    print(f"power: {message or 'the daemon ended before it could count: see its log'}", file=sys.stderr)
    return 1


def _daemon(pidfile: "PidFile", working_directory: str, work: Callable[[Callable[[], None]], int], writing: int) -> int:
    import daemon  # not needed to stop or ask one

    reported = False

    def report(message: bytes) -> None:
        nonlocal reported
        if not reported:
            reported = True
            with contextlib.suppress(BrokenPipeError):  # the caller was interrupted; the daemon goes on
                os.write(writing, message)
            os.close(writing)

    # No signal_map: Control handles the signals. No core dump: it would contain passwords.
    context = daemon.DaemonContext(
        working_directory=working_directory,
        umask=UMASK,
        detach_process=True,
        files_preserve=[writing],
        pidfile=pidfile,
        signal_map={},
    )
    try:
        with context:
            return work(lambda: report(READY + b" %d" % os.getpid()))
    except (PowerError, daemon.daemon.DaemonError) as error:
        report(str(error).encode())
        return 1
    except BaseException as error:
        report(f"ended by a bug: {type(error).__name__}: {error}".encode())
        raise
