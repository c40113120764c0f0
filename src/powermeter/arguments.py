"""The command line: what may be typed, and which command it is."""

import argparse
import os

from powermeter import __version__, commands

ABOUT = "power: counts the flashes of an electricity meter and takes each one to a file, to Librato and to InfluxDB."


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="power.py", description=ABOUT, allow_abbrev=False)
    parser.add_argument(
        "--pidfile", metavar="PATH", type=_path, help="the process that holds its lock is the running one"
    )
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
        ("--status", commands.status, "show how the running one is doing"),
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
    group.add_argument(
        "--reading",
        metavar="[METER=]KWH",
        help="what the meter's face shows: set the register to it, and show the drift",
    )
    parser.add_argument(
        "--force", action="store_true", help="with --reading: accept one that can't follow the last one"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="with --status and --report: for programs")
    form.add_argument("--csv", action="store_true", help="with --report: for a spreadsheet")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"power {__version__}")
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments in *argv*, None for the process's own; ends with status 2 where they are wrong."""
    line = parser()
    args = line.parse_args(argv)
    if args.report is not None:
        args.command = commands.report
    if args.reading is not None:
        args.command = commands.reading
    if args.force and args.reading is None:
        line.error("--force goes with --reading")
    if args.simulate is not None and args.command not in (commands.daemon, commands.foreground):
        line.error("--simulate goes with starting, as a daemon or with --nodaemon")
    if args.json and args.command not in (commands.status, commands.report):
        line.error("--json goes with --status and --report")
    if args.csv and args.command is not commands.report:
        line.error("--csv goes with --report")
    return args


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
