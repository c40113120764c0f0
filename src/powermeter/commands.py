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
from collections.abc import Callable, Mapping

from powermeter.errors import (
    ForbiddenError,
    JournalError,
    PowerError,
    ProcessError,
    SettingsError,
    UnsafePathError,
    why,
)

TYPE_CHECKING = False  # typing itself is half the time of --help
if TYPE_CHECKING:
    from typing import Literal

    from powermeter.settings.values import Outline, Settings, ShownAs

#: Resolved, as src may be reached by a link.
SOURCE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
TOP = os.path.dirname(SOURCE)

#: The exit statuses of --status (LSB, "Init Script Actions").
RUNNING, DEAD, NOT_RUNNING, UNKNOWN = 0, 1, 3, 4

#: The exit status of a wrong command line, as argparse has it.
WRONG_USAGE = 2

#: The exit status of a failure; and for systemd of wrong settings, which no second try mends (LSB, "not configured").
FAILED, NOT_CONFIGURED = 1, 6

#: The pidfile of the service that install_init_script.py installs.
SERVICE_PIDFILE = "/run/power/power.pid"

#: Where its data are unless its settings say otherwise, the file that names these, and the command that finds it.
SERVICE_STATE, SERVICE_DEFAULT, SERVICE_COMMAND = "/var/lib/power", "/etc/default/power", "/usr/local/bin/power"

#: --simulate: watts, True for a household's day, None for the real pins.
Simulate = float | bool | None


def require(modules: Mapping[str, str]) -> None:
    """Raise :exc:`ProcessError` if one of *modules* (module: its name on PyPI) is missing."""
    missing = sorted(name for module, name in modules.items() if importlib.util.find_spec(module) is None)
    if missing:
        venv = os.path.join(TOP, "venv")
        python = os.path.join(venv, "bin", "python")
        # Debian's own Python refuses to install. The README's virtual environment has them, or says what it lacks.
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
        raise ProcessError(f"missing: {', '.join(missing)}: {sys.executable} -m pip install -r {TOP}/requirements.txt")


def failed(error: PowerError) -> int:
    """The exit status of *error*; a service manager is told its first line too."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return FAILED
    from powermeter.process.systemd import notify

    notify(f"STATUS={str(error).splitlines()[0]}")
    return NOT_CONFIGURED if isinstance(error, SettingsError) else FAILED


def _settings(args: argparse.Namespace, simulate: Simulate, path: str | None = None) -> "Settings":
    """The settings for a run, checked, with their warnings said; in the file *path*, if it was found before."""
    import dataclasses

    from powermeter.settings import reading
    from powermeter.views import page as page_view
    from powermeter.writers import writer_type

    example = os.path.join(TOP, "settings.py.example")
    path = path or args.settings or reading.find(TOP, SOURCE) or (None if simulate is None else example)
    if path is None:
        raise ProcessError(f"no settings.py: cp {TOP}/settings.py.example {TOP}/settings.py, or try --simulate")
    invented_for: Literal["file", "all", None] = None if simulate is None else "all" if args.settings else "file"
    read = reading.read(path, simulated=invented_for)
    if path == example and not args.settings:
        # Whoever has no settings yet wants to see what there is.
        read = dataclasses.replace(read, page=page_view.DEFAULT)
    if isinstance(simulate, float) and (small := [m.name for m in read.meters if m.max_watts < simulate]):
        raise ProcessError(f"--simulate {simulate:g}: more than max_watts of the meter {small[0]} allows")
    libraries = dict(library for w in read.writers if (library := writer_type(w.type).library))
    require(libraries | (page_view.LIBRARIES if read.page else {}))
    for warning in read.warnings:
        print(f"power: {warning}", file=sys.stderr)
    if read.left_out:
        print(
            f"power: left out by --simulate: {', '.join(read.left_out)}; --settings PATH includes all", file=sys.stderr
        )
    return read


def _pidfile(args: argparse.Namespace) -> str:
    if args.pidfile:
        return str(args.pidfile)
    if os.geteuid() == 0:
        return "/run/power.pid"
    if runtime := _runtime_dir():
        return os.path.join(runtime, "power.pid")
    try:
        return os.path.join(_data_dir(args), "power.pid")
    except SettingsError as error:
        if args.command not in (kill, status):
            raise
        raise ProcessError(f"{error}; or name its pidfile with --pidfile") from error


def _runtime_dir() -> str | None:
    """The user's own directory of a login session, if there is one (XDG Base Directory Specification)."""
    from powermeter.safe_path import resolved

    path = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(path):
        return None
    with contextlib.suppress(OSError):
        # su keeps the variable of the user before, who could exchange what it leads to.
        path = resolved(path)
        found = os.stat(path)
        if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return path
    return None


def _pidfile_of_running(args: argparse.Namespace) -> str:
    """The pidfile of the one that is asked or stopped: where nothing is named and nobody holds ours, the service's."""
    from powermeter.process.pidfile import holder

    path = _pidfile(args)
    if args.pidfile or args.settings or holder(path) is not None:
        return path
    return path if holder(SERVICE_PIDFILE) is None else SERVICE_PIDFILE


def _data_dir(args: argparse.Namespace) -> str:
    """DATA_DIR, whatever else is wrong in the settings."""
    from powermeter.settings import reading

    path = args.settings or reading.find(TOP, SOURCE)
    return reading.data_dir_of(path) if path else reading.default_data_dir(as_root=os.geteuid() == 0)


def _has_another_pidfile(args: argparse.Namespace) -> int | None:
    """
    The process id of who runs on DATA_DIR; None without one, where a pidfile was named, and for root.

    For where nobody holds the pidfile: in a login session it is another than for cron. Root runs no settings to learn
    where DATA_DIR is: they may be another user's.
    """
    from powermeter.process.pidfile import holder

    if args.pidfile or os.geteuid() == 0:
        return None
    for lock in ("lock", os.path.join("simulated", "lock")):
        with contextlib.suppress(PowerError):  # of wrong settings nothing is known
            if (pid := holder(os.path.join(_data_dir(args), lock))) is not None:
                return pid
    return None


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
    # As the daemon: a library of pins may make files where it is.
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
        except ProcessError as error:  # it is no condition of counting
            print(f"power: {error}", file=sys.stderr)
    return settings, _pidfile(args)


def kill(args: argparse.Namespace) -> int:
    """Stop the running one, if there is one."""
    _stop(args, _pidfile_of_running(args))
    return 0


def _stop(args: argparse.Namespace, pidfile: str) -> None:
    from powermeter.process.control import stop

    pid = stop(pidfile)
    if pid is None and (other := _has_another_pidfile(args)) is not None:
        raise ProcessError(f"running, pid {other}; it has another pidfile: name it with --pidfile")
    print("power: not running" if pid is None else f"power: stopped, pid {pid}")


def restart(args: argparse.Namespace) -> int:
    """Stop the running one, if there is one, and start a daemon with the same load."""
    import json

    from powermeter.process.control import ask
    from powermeter.process.pidfile import holder

    path = _pidfile(args)
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
    """Print how the running one does."""
    from powermeter.process.control import ask
    from powermeter.process.pidfile import holder

    try:
        path = _pidfile_of_running(args)
        pid = holder(path)
    except PowerError as error:
        print(f"power: {error}", file=sys.stderr)
        return UNKNOWN
    if pid is None and (other := _has_another_pidfile(args)) is not None:
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
    """Try DATA_DIR, the log, the pins and every writer."""
    from powermeter import check as checking
    from powermeter.process.pidfile import holder

    settings = _settings(args, None)
    print(f"settings: ok, {settings.path}")
    running = None
    with contextlib.suppress(ProcessError):  # a DATA_DIR that can't be looked into is said with all else that is tried
        # By the lock of DATA_DIR: the pins may be another pidfile's, and a simulated one has none.
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
        journal, simulated, shown_as, note = _journal_to_read(args)

        from powermeter.journal.history import History
        from powermeter.process.pidfile import holder
        from powermeter.report import build
        from powermeter.views import report as view

        # It ends in a moment. To look for garbage until then, and once more at the end, takes a tenth of its time.
        gc.disable()
        gc.freeze()
        # From here on nothing may be imported: root's Python, and the program, may be closed to the owner.
        _become_owner(args, journal)
        running = holder(os.path.join(os.path.dirname(journal), "lock")) is not None
        with History(journal) as history:
            found = build(history, span, shown_as, now_ns=now_ns, running=running, simulated=simulated)
    except periods.SpanError as error:
        print(f"power: --report: {error}", file=sys.stderr)
        return WRONG_USAGE
    except sqlite3.Error as error:
        raise JournalError(f"{journal}: the journal can't be read: {error}") from error

    if args.csv or args.json:
        write_out(view.as_csv(found) if args.csv else view.as_json(found))
    else:
        bold = sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
        write_out(view.as_text(found, columns=_columns(), encoding=sys.stdout.encoding, bold=bold))
    if note:
        print(f"power: labels are left out: {note}", file=sys.stderr)
    if found.damage:
        print(
            f"power: {journal}: the journal is damaged, and what can't be read is left out: {found.damage}",
            file=sys.stderr,
        )
        return FAILED
    return 0


def write_out(text: str = "") -> None:
    """
    Print *text* and all that was printed before. Raises :exc:`PowerError`.

    The interpreter's own try, at its end, would say in words of its own that it can't be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise PowerError(f"standard output can't be written: {error.strerror}") from error


def _columns() -> int:
    """How wide the terminal is, in columns; 80 where there is none."""
    with contextlib.suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with contextlib.suppress(OSError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    return 80


def _journal_to_read(args: argparse.Namespace) -> "tuple[str, bool, Mapping[str, ShownAs] | None, str]":
    """
    The path of the journal, whether it is a simulated one, and how its meters are shown.

    The latter is None where the settings are not known, and the last one says why. It is the running program's journal;
    where none runs, the installed service's, else the user's own.
    """
    from powermeter.settings import reading
    from powermeter.settings.values import JOURNAL

    data_dir, path, simulated = None, None, False
    if args.pidfile or not args.settings:
        data_dir, path, simulated = _asked_where(args)
    of_service = None if os.environ.get("POWER_SETTINGS") else _settings_of_service()
    path = args.settings or path or of_service or reading.find(TOP, SOURCE)
    outline: Outline | None = None
    note = ""
    try:
        outline = reading.outline_of(path) if path else None
    except SettingsError as error:
        # Root runs no settings that others may write, and the service's may be closed to this user.
        if data_dir is None and (args.settings or not os.path.isdir(SERVICE_STATE)):
            raise
        note = str(error).splitlines()[0]
    if data_dir is None:
        data_dir = (outline and outline.data_dir) or _default_data_dir(args)
    for directory, invented in ((data_dir, simulated), (os.path.join(data_dir, "simulated"), True)):
        journal = os.path.join(directory, JOURNAL)
        try:
            os.stat(journal)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise _closed(args, journal) from error
        except OSError as error:
            raise ProcessError(f"{journal}: {why(error)}") from error
        return journal, invented, outline and outline.meters, note
    raise ProcessError(f"no journal in {data_dir}: nothing has been counted there yet")


def _asked_where(args: argparse.Namespace) -> tuple[str | None, str | None, bool]:
    """What the running one says: where its journal is, the path of its settings, and whether it is simulated."""
    from powermeter.process.pidfile import holder

    try:
        pidfile = _pidfile_of_running(args)
    except SettingsError:  # of the settings that can't be read DATA_DIR is not known
        pidfile = SERVICE_PIDFILE
    if holder(pidfile) is None:
        return None, None, False

    import json

    from powermeter.process.control import ask

    try:
        answer = json.loads(ask(pidfile, "json"))
        return str(answer["data_dir"]), str(answer["settings"]), answer["simulate"] is not None
    except ForbiddenError as error:
        raise _closed(args, "the journal of the running power") from error
    except (ProcessError, LookupError, RecursionError, TypeError, ValueError):
        return None, None, False  # one that hangs keeps nobody from its journal


def _settings_of_service() -> str | None:
    """POWER_SETTINGS as :data:`SERVICE_DEFAULT` sets it."""
    with contextlib.suppress(OSError, ValueError), open(SERVICE_DEFAULT, encoding="utf-8") as file:
        for word in shlex.split(file.read(), comments=True):
            name, _, value = word.partition("=")
            if name == "POWER_SETTINGS" and value:
                return value
    return None


def _default_data_dir(args: argparse.Namespace) -> str:
    """DATA_DIR where the settings name none: the service's, if there is one and nothing names another."""
    from powermeter.settings import reading

    if not args.settings and not os.environ.get("STATE_DIRECTORY") and os.path.isdir(SERVICE_STATE):
        return SERVICE_STATE
    return reading.default_data_dir(as_root=os.geteuid() == 0)


def _become_owner(args: argparse.Namespace, journal: str) -> None:
    """
    As root, become the owner of *journal* for good: root opens no file that others may have made.

    Raises :exc:`ForbiddenError` where another user may not read it.
    """
    import pwd

    from powermeter.safe_path import open_to_ask

    try:
        if os.geteuid() != 0:
            os.close(os.open(journal, os.O_RDONLY | os.O_CLOEXEC))
            return
        fd, owner = open_to_ask(journal)
        group = os.fstat(fd).st_gid
        os.close(fd)
    except UnsafePathError as error:
        raise ProcessError(str(error)) from error
    except PermissionError as error:
        raise _closed(args, journal) from error
    except OSError as error:
        raise ProcessError(f"{journal}: {why(error)}") from error
    if owner == 0:
        return
    with contextlib.suppress(KeyError):
        group = pwd.getpwuid(owner).pw_gid
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(owner, owner, owner)


def _closed(args: argparse.Namespace, what: str) -> ForbiddenError:
    command = "power" if os.path.exists(SERVICE_COMMAND) else shlex.join([sys.executable, f"{SOURCE}/power.py"])
    named = ["--settings", args.settings] if args.settings else []
    words = shlex.join([*named, "--report", *([args.report] if args.report else [])])
    return ForbiddenError(f"{what} can be read only by its owner and by root: sudo {command} {words}")
