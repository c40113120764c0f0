"""
What a command is about: which running program, which settings, and which journal.

If nothing is named, it is the user's own running program, else the installed service's; where neither runs, the
service's journal, else the user's own.
"""

import argparse
import contextlib
import os
import shlex
import sys

from powermeter.errors import ForbiddenError, PowerError, ProcessError, SettingsError, UnsafePathError, why

TYPE_CHECKING = False  # typing itself is half the time of --help
if TYPE_CHECKING:
    from collections.abc import Mapping

    from powermeter.settings.values import ShownAs

#: Resolved, as src may be reached by a link.
SOURCE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
TOP = os.path.dirname(SOURCE)

#: The pidfile of the service that install_init_script.py installs.
SERVICE_PIDFILE = "/run/power/power.pid"

#: Where its data is unless its settings name another place, the file that names these, and the command that finds it,
#: which exists as long as it is installed.
SERVICE_STATE, SERVICE_DEFAULT, SERVICE_COMMAND = "/var/lib/power", "/etc/default/power", "/usr/local/bin/power"


def pidfile_for(args: argparse.Namespace) -> str:
    """The pidfile of one that is started. Raises :exc:`SettingsError` where DATA_DIR, which has it, is not known."""
    if args.pidfile:
        return str(args.pidfile)
    if os.geteuid() == 0:
        return "/run/power.pid"
    if runtime := _runtime_dir():
        return os.path.join(runtime, "power.pid")
    return os.path.join(_data_dir(args), "power.pid")


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


def pidfile_of_running(args: argparse.Namespace) -> str:
    """The pidfile of the one to ask or stop: the service's, if nothing is named and no process holds the user's own."""
    try:
        return _pidfile_of_running(args)
    except SettingsError as error:
        raise ProcessError(f"{error}; or name its pidfile with --pidfile") from error


def _pidfile_of_running(args: argparse.Namespace) -> str:
    from powermeter.process.holder import holder

    path = pidfile_for(args)
    if args.pidfile or args.settings or holder(path) is not None:
        return path
    return path if holder(SERVICE_PIDFILE) is None else SERVICE_PIDFILE


def _data_dir(args: argparse.Namespace) -> str:
    """DATA_DIR, whatever else is wrong in the settings."""
    from powermeter.settings import reading

    path = args.settings or reading.find(TOP, SOURCE)
    return reading.data_dir_of(path) if path else reading.default_data_dir(as_root=os.geteuid() == 0)


def has_another_pidfile(args: argparse.Namespace) -> int | None:
    """
    The process id of the program that uses DATA_DIR; None without one, if a pidfile was named, and for root.

    For when no process holds the pidfile: a login session has another one than cron. Root runs no settings to learn
    where DATA_DIR is: they may be another user's.
    """
    from powermeter.process.holder import holder

    if args.pidfile or os.geteuid() == 0:
        return None
    for lock in ("lock", os.path.join("simulated", "lock")):
        with contextlib.suppress(PowerError):  # wrong settings name no DATA_DIR
            if (pid := holder(os.path.join(_data_dir(args), lock))) is not None:
                return pid
    return None


class Subject:
    """
    The *path* of a journal, whether it is a *simulated* one, and the path of its *settings*, None without any.

    If they are *from_running*, the running program named them, and so its user chose the file that is executed.
    """

    # Not by typing or dataclasses: each takes as long to load as all that --status needs.
    __slots__ = ("from_running", "path", "settings", "simulated")

    def __init__(self, path: str, settings: str | None, *, simulated: bool, from_running: bool) -> None:
        self.path, self.settings, self.simulated, self.from_running = path, settings, simulated, from_running


def journal_to_read(args: argparse.Namespace) -> Subject:
    """The running program's journal; where none runs, the installed service's, else the user's own."""
    from powermeter.settings import reading
    from powermeter.settings.values import JOURNAL

    data_dir, path, simulated = None, None, False
    if args.pidfile or not args.settings:
        data_dir, path, simulated = _asked_where(args)
    of_service = None if os.environ.get("POWER_SETTINGS") else _settings_of_service()
    from_running = path is not None and not args.settings
    path = args.settings or path or of_service or reading.find(TOP, SOURCE)
    if data_dir is None:
        try:
            data_dir = reading.outline_of(path).data_dir if path else None
        except SettingsError:
            # Root runs no settings that others may write, and the service's may be closed to this user.
            if args.settings or not os.path.exists(SERVICE_COMMAND):
                raise
        data_dir = data_dir or _default_data_dir(args)
    for directory, invented in ((data_dir, simulated), (os.path.join(data_dir, "simulated"), True)):
        journal = os.path.join(directory, JOURNAL)
        try:
            os.stat(journal)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise closed(args, journal) from error
        except OSError as error:
            raise ProcessError(f"{journal}: {why(error)}") from error
        return Subject(journal, path, simulated=invented, from_running=from_running)
    raise ProcessError(f"no journal in {data_dir}: nothing has been counted there yet: start power first")


def meters_of(subject: Subject) -> "tuple[Mapping[str, ShownAs] | None, str]":
    """
    How the meters are shown, by its settings; None if these can't be read, and why.

    Call it as the journal's owner if the running program named them.
    """
    from powermeter.settings import reading

    try:
        return reading.outline_of(subject.settings).meters if subject.settings else None, ""
    except SettingsError as error:
        return None, str(error).splitlines()[0]


def _asked_where(args: argparse.Namespace) -> tuple[str | None, str | None, bool]:
    """What the running one answers: where its journal is, the path of its settings, and whether it is simulated."""
    from powermeter.process.holder import holder

    try:
        pidfile = _pidfile_of_running(args)
    except SettingsError:  # settings that can't be read name no DATA_DIR
        pidfile = SERVICE_PIDFILE
    if holder(pidfile) is None:
        return None, None, False

    import json

    from powermeter.process.control import ask

    try:
        answer = json.loads(ask(pidfile, "json"))
        return str(answer["data_dir"]), str(answer["settings"]), answer["simulate"] is not None
    except ForbiddenError as error:
        raise closed(args, "the journal of the running power") from error
    except (ProcessError, LookupError, RecursionError, TypeError, ValueError):
        return None, None, False  # its journal can be read even if it hangs


def _settings_of_service() -> str | None:
    """POWER_SETTINGS as :data:`SERVICE_DEFAULT` sets it."""
    with contextlib.suppress(OSError, ValueError), open(SERVICE_DEFAULT, encoding="utf-8") as file:
        for word in shlex.split(file.read(), comments=True):
            name, _, value = word.partition("=")
            if name == "POWER_SETTINGS" and value:
                return value
    return None


def _default_data_dir(args: argparse.Namespace) -> str:
    """DATA_DIR if the settings do not name it: the service's, if there is one and nothing names another."""
    from powermeter.settings import reading

    if not args.settings and not os.environ.get("STATE_DIRECTORY") and os.path.exists(SERVICE_COMMAND):
        return SERVICE_STATE
    return reading.default_data_dir(as_root=os.geteuid() == 0)


def become_owner(args: argparse.Namespace, journal: str) -> None:
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
        raise closed(args, journal) from error
    except OSError as error:
        raise ProcessError(f"{journal}: {why(error)}") from error
    if owner == 0:
        return
    with contextlib.suppress(KeyError):
        group = pwd.getpwuid(owner).pw_gid
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(owner, owner, owner)


def closed(args: argparse.Namespace, what: str) -> ForbiddenError:
    """The error if only another user may read *what*: it names the command line that can."""
    command = "power" if os.path.exists(SERVICE_COMMAND) else shlex.join([sys.executable, f"{SOURCE}/power.py"])
    named = [word for name in ("pidfile", "settings") if (path := getattr(args, name)) for word in (f"--{name}", path)]
    wanted = ["--reading", args.reading] if args.reading else ["--report", *([args.report] if args.report else [])]
    wanted += [f"--{name}" for name in ("force", "csv", "json") if getattr(args, name)]
    words = shlex.join([*named, *wanted])
    return ForbiddenError(f"{what} can be read only by its owner and by root: sudo {command} {words}")
