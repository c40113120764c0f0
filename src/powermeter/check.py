"""What a start needs, tried: DATA_DIR and the log before one; for ``--check`` pins, writers and views too."""

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterator, Sequence

from powermeter.boards import open_board
from powermeter.errors import BrokerError, PowerError, ProcessError, TakenError, UnsafePathError, why
from powermeter.journal.history import about, delivered_pulses
from powermeter.journal.journal import prepare_dir
from powermeter.log import try_log
from powermeter.mounts import not_mounted, volatile
from powermeter.periods import unknown_zone, zone
from powermeter.safe_path import resolved
from powermeter.settings.values import JOURNAL, OWN_FILES, MqttSettings, PageSettings, Settings, WriterSettings
from powermeter.views.mqtt import place
from powermeter.views.mqtt.broker import read_retained
from powermeter.views.page import url
from powermeter.views.page.server import listening
from powermeter.writers import open_writer


def check(settings: Settings, running: int | None) -> int:
    """
    Try what *settings* name, print what was found, and return the exit status.

    *running* is the process id of the program that has the pins, None without
    one. Nothing is started, and nothing new is left behind.
    """
    with _data_dir_as_it_was(settings.data_dir):
        found = [_report("data", lambda: _data(settings.data_dir))]
        if log_file := settings.log_file:
            found.append(_report("log", lambda: try_log(log_file, keep=False)))  # it may be in DATA_DIR
    found.append(_report("time zone", _zone))
    found.append(_report("pins", lambda: _pins(settings, running)))
    # In a DATA_DIR that can't be used nothing is opened: its owner may have laid links where SQLite makes files.
    path = None if found[0] else os.path.join(settings.data_dir, JOURNAL)
    found += [_report(f"writer {writer.name}", functools.partial(_writer, writer, path)) for writer in settings.writers]
    if page := settings.page:
        found.append(_report("view page", lambda: _page(page, running)))
    if (mqtt := settings.mqtt) is not None:
        meters = [meter.name for meter in settings.meters]
        found.append(_report("view mqtt", functools.partial(_mqtt, mqtt, meters, path)))
    return max(found)


def prepare_data_dir(path: str) -> None:
    """Make DATA_DIR at *path*. Raises :exc:`PowerError` where it can't be used."""
    with contextlib.suppress(OSError):  # what can't be walked can't be made either, which is reported then
        if missing := not_mounted(resolved(path)):
            raise ProcessError(f"{path}: DATA_DIR can't be used: its disk is not mounted at {missing}")
    prepare_dir(path)
    for name in sorted(OWN_FILES):
        try:
            resolved(os.path.join(path, name))
        except UnsafePathError as error:
            raise ProcessError(f"{path}: DATA_DIR can't be used: {error}") from error
        except OSError:  # what else is wrong is reported where it matters
            continue


@contextlib.contextmanager
def _data_dir_as_it_was(path: str) -> Iterator[None]:
    """Remove what is made of the directories of *path*, in the end."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        yield
    finally:
        for made in missing:
            with contextlib.suppress(OSError):  # it could not be made, or somebody uses it already
                os.rmdir(made)


def _report(name: str, try_it: Callable[[], str]) -> int:
    try:
        print(f"{name}: ok, {try_it()}")
    except PowerError as error:
        print(f"{name}: {error}")
        return 1
    return 0


def _data(path: str) -> str:
    prepare_data_dir(path)
    kind = volatile(path)
    return path if kind is None else f"{path}, but it is on {kind}: pulses and register are gone after a reboot"


def _zone() -> str:
    if (unknown := unknown_zone()) is not None:
        raise ProcessError(
            f"TZ={unknown}: there is no such zone, so that days begin by UTC: use a name that "
            "timedatectl list-timezones shows"
        )
    return zone()


def _pins(settings: Settings, running: int | None) -> str:
    if running is not None:
        return f"in use by the running one, pid {running}, and so not tried"
    try:
        board = open_board(settings)
        try:
            board.watch()
        finally:
            board.close()
    except TakenError as error:
        if not error.by_power:
            raise
        # The service's, most likely: it has a DATA_DIR of its own.
        return "in use by a running power, and so not tried"
    # A flash's worth too: 1.000 is one, not a thousand.
    return "; ".join(f"{meter.name} on {meter.pin}, {meter.impulses_per_kwh:.10g} imp/kWh" for meter in settings.meters)


def _writer(settings: WriterSettings, path: str | None) -> str:
    """Try the writer of *settings*, by what it has of the journal at *path*, if that may be read."""
    writer = open_writer(settings)
    try:
        return writer.check(delivered_pulses(path, settings.name) if path else ())
    finally:
        writer.close()


def _page(settings: PageSettings, running: int | None) -> str:
    """Try to listen where *settings* say."""
    try:
        listening(settings).close()
    except OSError as error:
        if running is not None and error.errno == errno.EADDRINUSE:
            return f"{url(settings)} is in use, by the running one, pid {running}, most likely, and so not tried"
        raise ProcessError(f"{settings.address} port {settings.port}: {why(error)}") from error
    return url(settings)


def _mqtt(settings: MqttSettings, meters: Sequence[str], path: str | None) -> str:
    """Try the broker of *settings*, and say what it has retained; the journal at *path* knows whose that is."""
    retained = read_retained(settings, meters)
    own_id = about(path).get("id") if path else None
    if retained.monitor and own_id and retained.monitor != own_id:
        raise BrokerError(
            f"another monitor publishes below {settings.topic} at {place(settings)}: its id is {retained.monitor}, "
            f"ours {own_id}"
        )
    broker = f"{retained.version or 'a broker'} at {place(settings)}, by MQTT {'5' if retained.mqtt5 else '3.1.1'}"
    found = [f"the monitor {retained.monitor}{', ours' if own_id else ''}"] if retained.monitor else []
    found += [f"{name} with {kwh:,.3f} kWh" for name, kwh in retained.energies.items()]
    return f"{broker}; it lets us read {settings.topic}, and has {', '.join(found) or 'nothing'} retained there"
