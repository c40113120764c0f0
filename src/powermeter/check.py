"""``--check``: the pins and every writer tried, nothing started."""

from collections.abc import Callable

from powermeter.boards import open_board
from powermeter.errors import PowerError
from powermeter.settings import Settings, WriterSettings
from powermeter.writers import open_writer


def check(settings: Settings, running: int | None) -> int:
    """
    Try what *settings* name, say what was found, and return the exit status.

    *running* is the process id of the program that has the pins, None without one.
    """
    parts: list[tuple[str, Callable[[], str]]] = [("pins", lambda: _pins(settings, running))]
    for writer in settings.writers:
        parts.append((f"writer {writer.name}", lambda writer=writer: _writer(writer)))  # type: ignore[misc]
    return max([_said(name, try_it) for name, try_it in parts])


def _said(name: str, try_it: Callable[[], str]) -> int:
    try:
        print(f"{name}: ok, {try_it()}")
    except PowerError as error:
        print(f"{name}: {error}")
        return 1
    return 0


def _pins(settings: Settings, running: int | None) -> str:
    if running is not None:
        return f"in use by the running one, pid {running}, and so not tried"
    board = open_board(settings)
    try:
        board.watch(lambda edge: None)
    finally:
        board.close()
    return ", ".join(f"{meter.name} on {meter.pin}" for meter in settings.meters)


def _writer(settings: WriterSettings) -> str:
    writer = open_writer(settings)
    try:
        return writer.check()
    finally:
        writer.close()
