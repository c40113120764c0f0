"""
What the command line asks for: each command takes the parsed arguments and returns an exit status.

What a command needs is imported inside it, so that asking and stopping stay
light, and so that nothing heavy is there before the fork.
"""

import argparse
import contextlib
import importlib.util
import os
import shlex
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping

from powermeter.errors import AlreadyRunningError, ForbiddenError, JournalError, PowerError, ProcessError, SettingsError
from powermeter.subject import (
    SOURCE,
    TOP,
    become_owner,
    closed,
    has_another_pidfile,
    journal_to_read,
    meters_of,
    pidfile_for,
    pidfile_of_running,
)

TYPE_CHECKING = False  # typing itself is half the time of --help
if TYPE_CHECKING:
    from typing import Literal

    from powermeter.settings.values import Settings

#: The exit statuses of --status (LSB, "Init Script Actions").
RUNNING, DEAD, NOT_RUNNING, UNKNOWN = 0, 1, 3, 4

#: The exit status of a wrong command line, as argparse has it.
WRONG_USAGE = 2

#: The exit status of a failure; and for systemd of wrong settings, which no second try mends (LSB, "not configured").
FAILED, NOT_CONFIGURED = 1, 6

#: How long a reading may take to be on the disk, in s: a commit may be under way, and be waited for.
READING_S = 30.0

#: --simulate: watts, True for a household's day, None for the real pins.
Simulate = float | bool | None


def require(modules: Mapping[str, str]) -> None:
    """Raise :exc:`ProcessError` if one of *modules* (module: its name on PyPI) is missing."""
    missing = sorted(name for module, name in modules.items() if importlib.util.find_spec(module) is None)
    if missing:
        venv = os.path.join(TOP, "venv")
        python = os.path.join(venv, "bin", "python")
        # The README's virtual environment has them, or names what it lacks.
        if os.access(python, os.X_OK) and os.path.realpath(sys.prefix) != os.path.realpath(venv):
            from powermeter.safe_path import ours, user_name

            # Whoever owns it decides what is run: it is run as that user.
            owner = os.stat(venv).st_uid
            as_owner = "" if owner in ours() else f"sudo -u {shlex.quote(user_name(owner))} "
            raise ProcessError(f"missing: {', '.join(missing)}: call it with {as_owner}{python} {SOURCE}/power.py")
        if sys.prefix != sys.base_prefix and not os.path.isdir(sysconfig.get_path("purelib")):
            # A system that was upgraded in place has another Python, and so its virtual environments have no packages.
            raise ProcessError(
                f"missing: {', '.join(missing)}: {sys.prefix} was made for another Python: "
                f"python3 -m venv --upgrade --system-site-packages {sys.prefix} && "
                f"{sys.executable} -m pip install -r {TOP}/requirements.txt"
            )
        if sys.prefix != sys.base_prefix:
            raise ProcessError(
                f"missing: {', '.join(missing)}: {sys.executable} -m pip install -r {TOP}/requirements.txt"
            )
        # Never the system's pip: Debian has none, and where it is installed it refuses (PEP 668). A venv with a broken
        # link in place of its Python can't be made again without --clear.
        clear = "--clear " if os.path.lexists(venv) else ""
        raise ProcessError(
            f"missing: {', '.join(missing)}: make a virtual environment, and call {python} {SOURCE}/power.py: "
            f"{sys.executable} -m venv {clear}--system-site-packages {venv} && "
            f"{python} -m pip install -r {TOP}/requirements.txt"
        )


def failed(error: PowerError) -> int:
    """The exit status of *error*; a service manager also gets its first line."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return FAILED
    from powermeter.process.systemd import notify

    notify(f"STATUS={str(error).splitlines()[0]}")
    return NOT_CONFIGURED if isinstance(error, SettingsError) else FAILED


def _settings(args: argparse.Namespace, simulate: Simulate, path: str | None = None) -> "Settings":
    """The settings for a run, checked, with their warnings printed; from the file *path*, if it was found before."""
    import dataclasses

    from powermeter.settings import reading
    from powermeter.views import mqtt as mqtt_view
    from powermeter.views import page as page_view
    from powermeter.writers import writer_type

    example = os.path.join(TOP, "settings.py.example")
    path = path or args.settings or reading.find(TOP, SOURCE) or (None if simulate is None else example)
    if path is None:
        raise ProcessError(f"no settings.py: cp {TOP}/settings.py.example {TOP}/settings.py, or try --simulate")
    invented_for: Literal["file", "all", None] = None if simulate is None else "all" if args.settings else "file"
    read = reading.read(path, simulated=invented_for)
    if path == example and not args.settings:
        # Without settings of their own, people want to see what there is.
        read = dataclasses.replace(read, page=page_view.DEFAULT)
    if isinstance(simulate, float) and (small := [m.name for m in read.meters if m.max_watts < simulate]):
        raise ProcessError(f"--simulate {simulate:g}: more than max_watts of the meter {small[0]} allows")
    libraries = dict(library for w in read.writers if (library := writer_type(w.type).library))
    libraries |= page_view.LIBRARIES if read.page else {}
    libraries |= mqtt_view.LIBRARIES if read.mqtt else {}
    require(libraries)
    for warning in read.warnings:
        print(f"power: {warning}", file=sys.stderr)
    if read.left_out:
        print(
            f"power: left out by --simulate: {', '.join(read.left_out)}; --settings PATH includes all", file=sys.stderr
        )
    return read


def daemon(args: argparse.Namespace) -> int:
    """Start a daemon; return once it counts or has failed."""
    return _start(args, args.simulate, *_prepared(args, args.simulate))


def _start(args: argparse.Namespace, simulate: Simulate, settings: "Settings", pidfile: str) -> int:
    from powermeter import run
    from powermeter.process.daemon import daemonize
    from powermeter.process.pidfile import PidFile

    def work(ready: Callable[[], None]) -> int:
        return run.run(
            settings,
            pidfile,
            simulate=simulate,
            verbose=args.verbose,
            as_daemon=True,
            # Not looked for again: a relative $POWER_SETTINGS begins at the caller's directory, which was left.
            reread=lambda: _settings(args, simulate, settings.path),
            ready=ready,
        )

    return daemonize(PidFile(pidfile), settings.data_dir, work)


def foreground(args: argparse.Namespace) -> int:
    """Count in the foreground until a signal."""
    from powermeter import run
    from powermeter.process.pidfile import PidFile

    settings, pidfile = _prepared(args, args.simulate)
    if sys.stdout.isatty():
        require({"rich": "rich"})
    # As the daemon does: a library of pins may make files in the working directory.
    os.chdir(settings.data_dir)
    with PidFile(pidfile):
        return run.run(
            settings,
            pidfile,
            simulate=args.simulate,
            verbose=args.verbose,
            as_daemon=False,
            reread=lambda: _settings(args, args.simulate, settings.path),
        )


def _prepared(args: argparse.Namespace, simulate: Simulate) -> "tuple[Settings, str]":
    """The settings, with DATA_DIR made and the log tried, and the path of the pidfile."""
    from powermeter import check as checking
    from powermeter.log import try_log
    from powermeter.process.daemon import UMASK

    settings = _settings(args, simulate)
    os.umask(UMASK)
    checking.prepare_data_dir(settings.data_dir)
    if settings.log_file or args.command is not foreground:
        try:
            try_log(settings.log_file or os.path.join(settings.data_dir, "power.log"))
        except ProcessError as error:  # counting does not depend on it
            print(f"power: {error}", file=sys.stderr)
    return settings, pidfile_for(args)


def kill(args: argparse.Namespace) -> int:
    """Stop the running one, if there is one."""
    _stop(args, pidfile_of_running(args))
    return 0


def _stop(args: argparse.Namespace, pidfile: str) -> None:
    from powermeter.process.control import stop

    pid = stop(pidfile)
    if pid is None and (other := has_another_pidfile(args)) is not None:
        raise ProcessError(f"running, pid {other}; it has another pidfile: name it with --pidfile")
    print("power: not running" if pid is None else f"power: stopped, pid {pid}")


def restart(args: argparse.Namespace) -> int:
    """Stop the running one, if there is one, and start a daemon with the same load."""
    import json

    from powermeter.process.control import ask
    from powermeter.process.holder import holder

    path = pidfile_for(args)
    pid = holder(path)
    simulate = None
    if pid is not None:
        try:
            simulate = json.loads(ask(path, "json"))["simulate"]
        except ForbiddenError:
            raise
        except (ProcessError, LookupError, RecursionError, TypeError, ValueError) as error:
            why = error if isinstance(error, ProcessError) else "its answer is not understood"
            raise ProcessError(f"pid {pid}: {why}: nothing was stopped; --kill it, then start it") from error
    prepared = _prepared(args, simulate)  # mistakes are found before anything is stopped
    _stop(args, path)
    return _start(args, simulate, *prepared)


def status(args: argparse.Namespace) -> int:
    """Print how the running one is doing."""
    from powermeter.process.control import ask
    from powermeter.process.holder import holder

    try:
        path = pidfile_of_running(args)
        pid = holder(path)
    except PowerError as error:
        print(f"power: {error}", file=sys.stderr)
        return UNKNOWN
    if pid is None and (other := has_another_pidfile(args)) is not None:
        if args.json:
            print(f'{{"running": true, "pid": {other}}}')
        print(f"power: running, pid {other}; it has another pidfile: name it with --pidfile", file=sys.stderr)
        return RUNNING
    if pid is None:
        left = os.path.lexists(path)
        if args.json:
            print('{"running": false}')
        else:
            print(f"power: not running, but {path} was left" if left else "power: not running")
        return DEAD if left else NOT_RUNNING
    try:
        print(ask(path, "json" if args.json else "text"), end="")
    except ForbiddenError as error:
        if args.json:
            print(f'{{"running": true, "pid": {pid}}}')
        print(f"power: running, pid {pid}; {error}", file=sys.stderr)
    except ProcessError as error:
        print(f"power: pid {pid} holds {path}, but {error}", file=sys.stderr)
        return UNKNOWN
    return RUNNING


def check(args: argparse.Namespace) -> int:
    """Try DATA_DIR, the log, the pins, every writer and every view."""
    from powermeter import check as checking
    from powermeter.process.holder import holder

    settings = _settings(args, None)
    print(f"settings: ok, {settings.path}")
    running = None
    with contextlib.suppress(ProcessError):  # a DATA_DIR that can't be opened is reported with the rest
        # By the lock of DATA_DIR: who has the pins may use another pidfile, and a simulated program has no pins.
        running = holder(os.path.join(settings.data_dir, "lock"))
    return checking.check(settings, running)


# --- Reports


def report(args: argparse.Namespace) -> int:
    """Print what was counted in a span of time. Nothing is written, and no commit waits for it."""
    import gc
    import sqlite3
    import time

    from powermeter import periods

    now_ns = time.time_ns()
    try:
        span = periods.parse(args.report, now_ns) if args.report else None
        subject = journal_to_read(args)

        from powermeter.journal.history import History
        from powermeter.process.holder import holder
        from powermeter.report import build
        from powermeter.views import report as view

        # It ends in a moment. To look for garbage until then, and once more at the end, takes a tenth of its time.
        gc.disable()
        gc.freeze()
        # From here on nothing may be imported: root's Python, and the program, may be closed to the owner.
        shown_as, note = (None, "") if subject.from_running else meters_of(subject)
        become_owner(args, subject.path)
        if subject.from_running:
            shown_as, note = meters_of(subject)
        running = holder(os.path.join(os.path.dirname(subject.path), "lock")) is not None
        with History(subject.path) as history:
            found = build(history, span, shown_as, now_ns=now_ns, running=running, simulated=subject.simulated)
    except periods.SpanError as error:
        print(f"power: --report: {error}", file=sys.stderr)
        return WRONG_USAGE
    except sqlite3.Error as error:
        raise JournalError(f"{subject.path}: the journal can't be read: {error}") from error

    if args.csv or args.json:
        write_out(view.as_csv(found) if args.csv else view.as_json(found))
    else:
        bold = sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
        write_out(view.as_text(found, columns=_columns(), encoding=sys.stdout.encoding, bold=bold))
    if note:
        print(f"power: labels are left out: {note}", file=sys.stderr)
    if found.damage:
        print(
            f"power: {subject.path}: the journal is damaged, and what can't be read is left out: {found.damage}",
            file=sys.stderr,
        )
        return FAILED
    return 0


def reading(args: argparse.Namespace) -> int:
    """Set the register to what the meter's face shows, and print how far the two have drifted apart."""
    from powermeter.process.holder import holder

    pidfile = pidfile_of_running(args)
    try:
        name, typed = _meter_and_kwh(args.reading)
        if holder(pidfile) is not None:
            words = _read_by_running(args, pidfile, name, typed)
        else:
            words = _read_into_journal(args, name, typed)
    except _UsageError as error:
        print(f"power: --reading: {error}", file=sys.stderr)
        return WRONG_USAGE
    write_out(words)
    return 0


class _UsageError(Exception):
    """The command line is wrong in a way that argparse does not notice."""


def _meter_and_kwh(text: str) -> tuple[str, str]:
    """The meter's name in *text*, "" without one, and what its face shows."""
    from powermeter.journal.readings import parse

    name, sign, typed = text.rpartition("=")
    if sign and not name:
        raise _UsageError(f"found {text!r}, allowed: KWH, or the name of a meter before =KWH")
    try:
        parse(typed)
    except ValueError as error:
        raise _UsageError(str(error)) from None
    return name, typed


def _which(name: str, meters: Iterable[str]) -> str:
    """The meter *name* of *meters*; without a name the only one."""
    known = list(meters)
    if name in known or (not name and len(known) == 1):
        return name or known[0]
    problem = f"{name}: no such meter" if name else "which meter?"
    raise _UsageError(f"{problem}: {', '.join(f'--reading {known_name}=KWH' for known_name in known)}")


def _read_by_running(args: argparse.Namespace, pidfile: str, name: str, typed: str) -> str:
    """What the running one answers about the face, once that is on its disk."""
    import json
    import time

    from powermeter.process.control import ask

    try:
        meter = _which(name, json.loads(ask(pidfile, "json"))["meters"])
        answer = json.loads(ask(pidfile, json.dumps({"meter": meter, "kwh": typed, "force": args.force})))
        end_s = time.monotonic() + READING_S
        while "asked" in answer and time.monotonic() < end_s:
            time.sleep(0.05)
            question = json.dumps({"asked": answer["asked"]})
            with contextlib.suppress(ProcessError):  # it is busy: the face is taken, and is asked for again
                answer = json.loads(ask(pidfile, question))
        if "asked" in answer:
            raise ProcessError(
                f"meter {meter}: the reading is not on the disk after {READING_S:g} s, as --status may tell: "
                "it is taken once it can be written, and --report shows it then"
            )
        if "impossible" in answer:
            raise ProcessError(f"meter {meter}: {typed} kWh is not taken: {answer['impossible']}")
        if "refused" in answer:
            raise _refused(meter, typed, answer["refused"])
        return str(answer["said"])
    except ForbiddenError as error:
        raise closed(args, "the journal of the running power") from error
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ProcessError("the running program is of another version, and takes no reading: restart it") from error


def _read_into_journal(args: argparse.Namespace, name: str, typed: str) -> str:
    """What is printed for a face that is written to the journal, which no program uses."""
    import sqlite3
    import time

    from powermeter.clock import REAL_CLOCK
    from powermeter.journal.journal import Face, Journal
    from powermeter.journal.readings import parse
    from powermeter.process.daemon import UMASK
    from powermeter.process.pidfile import PidFile
    from powermeter.settings.reading import read
    from powermeter.views import text
    from powermeter.writers import WRITERS, writer_type

    found = journal_to_read(args)
    path = found.settings or (os.path.join(TOP, "settings.py.example") if found.simulated else None)
    if path is None:
        raise ProcessError("no settings.py, which says what the meter's pulses are worth: name it with --settings")
    for name_of_type in WRITERS:
        writer_type(name_of_type)  # which the settings are checked by: root's Python may be closed to the owner
    become_owner(args, found.path)
    os.umask(UMASK)
    settings = read(path)
    meters = {meter.name: meter for meter in settings.meters}
    meter = meters[_which(name, meters)]
    if REAL_CLOCK.wait_left_s(settings.clock_wait_s):
        raise ProcessError(f"meter {meter.name}: {typed} kWh is not taken: the clock is not known to be right yet")
    try:
        with PidFile(os.path.join(os.path.dirname(found.path), "lock"), 0o600), Journal(found.path) as journal:
            count, now_ns = journal.enter(meter.name, meter.impulses_per_kwh).count, time.time_ns()
            # What was not counted until now belongs to the time before the reading.
            journal.begin_cover(meter.name, count, now_ns)
            journal.end_cover(meter.name, now_ns)
            face = Face(meter.name, 0, now_ns, *parse(typed), meter.max_watts, args.force)
            (judged,) = journal.append([face], begins={meter.name: count})
    except AlreadyRunningError as error:
        raise ProcessError(f"running, pid {error.pid}; it has another pidfile: name it with --pidfile") from error
    except sqlite3.Error as error:
        raise JournalError(f"{found.path}: the journal can't be written: {error}") from error
    if judged.refused:
        raise _refused(meter.name, typed, judged.refused)
    return text.reading(judged.reading, judged.drift, simulated=found.simulated)


def _refused(meter: str, typed: str, reason: str) -> ProcessError:
    return ProcessError(
        f"meter {meter}: {typed} kWh is not taken: {reason}: --force takes it, after a typing error or with a new meter"
    )


def write_out(text: str = "") -> None:
    """
    Print *text* and all that was printed before. Raises :exc:`PowerError`.

    The interpreter's own try, at its end, would say in words of its own that it can't be written.
    """
    try:
        if text:  # a terminal that has gone takes not even nothing
            sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise PowerError(f"standard output can't be written: {error.strerror}") from error


def _columns() -> int:
    """How wide the terminal is, in columns; 80 without one."""
    with contextlib.suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with contextlib.suppress(OSError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    return 80
