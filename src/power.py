#!/usr/bin/env python3
"""power: counts the flashes of an electricity meter and takes each one to a file, to Librato and to InfluxDB."""

import argparse
import io
import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - said in one line, where an older one would end in a traceback
    sys.exit("power: needs Python 3.11 or newer, this is " + sys.version.split()[0])

# Before the first import, which may make __pycache__: nobody else may write that.
os.umask(os.umask(0o022) | 0o022)

from powermeter import __version__, commands  # noqa: E402 - see above
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
    args = _parse(argv)
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="power.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--pidfile", metavar="PATH", type=_path, help="who holds its lock is the running one")
    parser.add_argument(
        "--settings",
        metavar="PATH",
        type=_path,
        help="a settings.py; else $POWER_SETTINGS, else beside the example",
    )
    parser.add_argument(
        "--simulate",
        metavar="WATTS",
        nargs="?",
        type=_watts,
        const=True,
        help="a simulated meter in place of the pins: a constant load, or without WATTS a household with a past",
    )
    group = parser.add_mutually_exclusive_group()
    for flag, command, text in (
        ("--nodaemon", commands.foreground, "run in the foreground"),
        ("--kill", commands.kill, "stop the running one"),
        ("--restart", commands.restart, "stop the running one, if any, and start a daemon"),
        ("--status", commands.status, "tell how the running one does"),
        ("--check", commands.check, "check settings, pins and every writer; start nothing"),
    ):
        group.add_argument(
            flag, dest="command", action="store_const", const=command, default=commands.daemon, help=text
        )
    group.add_argument(
        "--report",
        metavar="SPAN",
        nargs="?",
        const="",
        help="show what was counted in a span: today, yesterday, a date, 2026-11, 2026, all, or a date..date; "
        "without SPAN an overview",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="with --status and --report: for programs")
    form.add_argument("--csv", action="store_true", help="with --report: for a spreadsheet")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"power {__version__}")
    return parser


def _parse(argv: list[str] | None) -> argparse.Namespace:
    line = parser()
    args = line.parse_args(argv)
    if args.report is not None:
        args.command = commands.report
    if args.simulate is not None and args.command not in (commands.daemon, commands.foreground):
        line.error("--simulate goes with starting, as a daemon or with --nodaemon")
    if args.json and args.command not in (commands.status, commands.report):
        line.error("--json goes with --status and --report")
    if args.csv and args.command is not commands.report:
        line.error("--csv goes with --report")
    return args


def _open_streams() -> None:
    """Open what of the three streams the caller has closed: else the next file or pipe has its number, and is one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # By the lowest number that is free (open(2)), so its own.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process lives


def _take_any_letter() -> None:
    """Let no letter that the terminal's encoding lacks end a command: a server may say anything."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _path(text: str) -> str:
    """*text* as an absolute path: a daemon leaves the caller's directory."""
    try:
        return os.path.abspath(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: the current directory is gone: {error.strerror}") from error


def _watts(text: str) -> float:
    try:
        watts = float(text)
    except ValueError:
        watts = 0.0
    if not 0.1 <= watts <= 1e8:
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: watts from 0.1 to 100,000,000")
    return watts


if __name__ == "__main__":
    sys.exit(main())
