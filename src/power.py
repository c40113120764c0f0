#!/usr/bin/env python3
"""power: counts the flashes of an electricity meter and takes each one to a file, to Librato and to InfluxDB."""

import io
import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - one line, where an older one would end in a traceback
    sys.exit("power: needs Python 3.11 or newer, this is " + sys.version.split()[0])

# Before the first import, which may make __pycache__: nobody else may write that.
os.umask(os.umask(0o022) | 0o022)

from powermeter import arguments, commands  # noqa: E402 - see above
from powermeter.errors import ForbiddenError, PowerError  # noqa: E402

#: The modules that every way of running needs, with their names on PyPI.
REQUIRED = {"daemon": "python-daemon", "lockfile": "lockfile"}

#: The exit status where the user has no permission, and after Ctrl-C in a command that does not count (128 + SIGINT).
FORBIDDEN = 4
INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command of *argv* and return its exit status. In a daemon it returns the daemon's."""
    _open_streams()
    _take_any_letter()
    args = arguments.parse(argv)
    try:
        commands.require(REQUIRED)
        from powermeter.process.confined import no_core_dump  # not needed where something is missing

        no_core_dump()
        status = int(args.command(args))
        commands.write_out()
        return status
    except KeyboardInterrupt:
        print("power: interrupted", file=sys.stderr)
        return INTERRUPTED
    except ForbiddenError as error:
        print(f"power: {error}", file=sys.stderr)
        return FORBIDDEN
    except PowerError as error:
        print("\n".join(f"power: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return commands.failed(error)


def _open_streams() -> None:
    """Open those of the three streams that the caller has closed: else the next file or pipe gets that number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # open(2) takes the lowest free number, which is the stream's own.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process lives


def _take_any_letter() -> None:
    """Keep a command from ending at a character that the terminal's encoding lacks: a server may send any."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
