"""``--check``: the pins and every writer tried, nothing started."""

import functools
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
    pins = _said("pins", lambda: _pins(settings, running))
    writers = [_said(f"writer {writer.name}", functools.partial(_writer, writer)) for writer in settings.writers]
    return max([pins, *writers])


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
        board.watch()
    finally:
        board.close()
    return ", ".join(f"{meter.name} on {meter.pin}" for meter in settings.meters)


def _writer(settings: WriterSettings) -> str:
    writer = open_writer(settings)
    try:
        return writer.check()
    finally:
        writer.close()
