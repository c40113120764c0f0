#!/usr/bin/env python3
"""
power: counts the flashes of an electricity meter and takes each one to a file, to Librato and to InfluxDB.

The composition root: arguments to settings to one command to its exit status.
What a command needs is imported inside it, so that asking and stopping stay light.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping

from powermeter import __version__
from powermeter.errors import ForbiddenError, PowerError, ProcessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from powermeter.settings import Settings

#: Resolved, as src may be reached by a link.
SOURCE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(SOURCE)

#: The modules that every way of running needs, with their names on PyPI.
REQUIRED = {"daemon": "python-daemon", "lockfile": "lockfile"}

#: Exit statuses: of --status by LSB ("Init Script Actions"), and where the user has no permission.
RUNNING, DEAD, NOT_RUNNING, UNKNOWN = 0, 1, 3, 4
FORBIDDEN = 4

#: --simulate: watts, True for a household's day, None for the real pins.
Simulate = float | bool | None


def main(argv: list[str] | None = None) -> int:
    """Run the command of *argv* and return its exit status. In a daemon it returns the daemon's."""
    args = _parse(argv)
    try:
        _require(REQUIRED)
        return int(args.command(args))
    except ForbiddenError as error:
        print(f"power: {error}", file=sys.stderr)
        return FORBIDDEN
    except PowerError as error:
        print("\n".join(f"power: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="power.py", description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--pidfile", metavar="PATH", type=os.path.abspath, help="who holds its lock is the running one")
    parser.add_argument(
        "--settings",
        metavar="PATH",
        type=os.path.abspath,
        help="a settings.py; else $POWER_SETTINGS, else beside the example",
    )
    parser.add_argument(
        "--simulate",
        metavar="WATTS",
        nargs="?",
        type=_watts,
        const=True,
        help="a simulated meter in place of the pins: a constant load, or without WATTS a household's day",
    )
    commands = parser.add_mutually_exclusive_group()
    for flag, command, text in (
        ("--nodaemon", _foreground, "run in the foreground"),
        ("--kill", _kill, "stop the running one"),
        ("--restart", _restart, "stop the running one, if any, and start a daemon"),
        ("--status", _status, "tell how the running one does"),
        ("--check", _check, "check settings, pins and every writer; start nothing"),
    ):
        commands.add_argument(flag, dest="command", action="store_const", const=command, default=_daemon, help=text)
    parser.add_argument("--json", action="store_true", help="with --status: for programs")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"power {__version__}")
    return parser


def _parse(argv: list[str] | None) -> argparse.Namespace:
    line = parser()
    args = line.parse_args(argv)
    if args.simulate is not None and args.command not in (_daemon, _foreground):
        line.error("--simulate goes with starting, as a daemon or with --nodaemon")
    if args.json and args.command is not _status:
        line.error("--json goes with --status")
    return args


def _watts(text: str) -> float:
    try:
        watts = float(text)
    except ValueError:
        watts = 0.0
    if not 0.1 <= watts <= 1e8:
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: watts from 0.1 to 100,000,000")
    return watts


def _require(modules: Mapping[str, str]) -> None:
    """Raise :exc:`ProcessError` if one of *modules* (module: its name on PyPI) is missing."""
    missing = sorted(name for module, name in modules.items() if importlib.util.find_spec(module) is None)
    if missing:
        raise ProcessError(f"missing: {', '.join(missing)}: {sys.executable} -m pip install -r {TOP}/requirements.txt")


def _settings(args: argparse.Namespace, simulate: Simulate) -> "Settings":
    """The settings for a run, checked, with their warnings said."""
    from powermeter import settings
    from powermeter.writers import LIBRARIES

    path = args.settings or settings.find(TOP, SOURCE)
    if path is None and simulate is None:
        raise ProcessError(f"no settings.py: cp {TOP}/settings.py.example {TOP}/settings.py, or try --simulate")
    invented_for: "Literal['file', 'all', None]" = None if simulate is None else "all" if args.settings else "file"
    read = settings.read(path or os.path.join(TOP, "settings.py.example"), simulated=invented_for)
    if isinstance(simulate, float) and (small := [m.name for m in read.meters if m.max_watts < simulate]):
        raise ProcessError(f"--simulate {simulate:g}: more than max_watts of the meter {small[0]} allows")
    _require({module: name for w in read.writers if w.type in LIBRARIES for module, name in [LIBRARIES[w.type]]})
    for warning in read.warnings:
        print(f"power: {warning}", file=sys.stderr)
    return read


def _pidfile(args: argparse.Namespace) -> str:
    if args.pidfile:
        return str(args.pidfile)
    if os.geteuid() == 0:
        return "/run/power.pid"
    if os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(os.environ["XDG_RUNTIME_DIR"], "power.pid")
    from powermeter import settings

    path = args.settings or settings.find(TOP, SOURCE)
    return os.path.join(settings.data_dir_of(path) if path else settings.default_data_dir(as_root=False), "power.pid")


# --- The commands: each takes the arguments and returns an exit status


def _daemon(args: argparse.Namespace) -> int:
    return _start(args, args.simulate)


def _start(args: argparse.Namespace, simulate: Simulate) -> int:
    from powermeter import journal, process, run

    settings = _settings(args, simulate)
    journal.prepare_dir(settings.data_dir)
    pidfile = process.PidFile(_pidfile(args))

    def work(ready: Callable[[], None]) -> int:
        return run.run(settings, pidfile.path, simulate=simulate, verbose=args.verbose, as_daemon=True, ready=ready)

    return process.daemonize(pidfile, settings.data_dir, work)


def _foreground(args: argparse.Namespace) -> int:
    from powermeter import journal, process, run

    settings = _settings(args, args.simulate)
    journal.prepare_dir(settings.data_dir)
    if sys.stdout.isatty():
        _require({"rich": "rich"})
    with process.PidFile(_pidfile(args)) as pidfile:
        return run.run(settings, pidfile.path, simulate=args.simulate, verbose=args.verbose, as_daemon=False)


def _kill(args: argparse.Namespace) -> int:
    from powermeter import process

    pid = process.stop(_pidfile(args))
    print("power: not running" if pid is None else f"power: stopped, pid {pid}")
    return 0


def _restart(args: argparse.Namespace) -> int:
    import json

    from powermeter import process

    path = _pidfile(args)
    running = json.loads(process.ask(path, "json")) if process.holder(path) is not None else {"simulate": None}
    simulate = running["simulate"]
    _settings(args, simulate)  # mistakes are found before anything is stopped
    _kill(args)
    return _start(args, simulate)


def _status(args: argparse.Namespace) -> int:
    from powermeter import process

    path = _pidfile(args)
    pid = process.holder(path)
    if pid is None:
        left = os.path.lexists(path)
        if args.json:
            print('{"running": false}')
        else:
            print(f"power: not running, but {path} was left" if left else "power: not running")
        return DEAD if left else NOT_RUNNING
    try:
        print(process.ask(path, "json" if args.json else "text"), end="")
    except ForbiddenError as error:
        print(f"power: running, pid {pid}; {error}", file=sys.stderr)
    except ProcessError as error:
        print(f"power: pid {pid} holds {path}, but {error}", file=sys.stderr)
        return UNKNOWN
    return RUNNING


def _check(args: argparse.Namespace) -> int:
    from powermeter import check, process

    settings = _settings(args, None)
    print(f"settings: ok, {settings.path}")
    return check.check(settings, process.holder(_pidfile(args)))


if __name__ == "__main__":
    sys.exit(main())
