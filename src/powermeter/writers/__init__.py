"""
The port to where pulses go: :class:`Writer`, and the writers there are.

A writer knows its service's library and, of ours, only pulses, errors and what
a setting may be. It neither buffers nor tries again; delivery does, for all of
them.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from powermeter.meter import NS_PER_S, Pulse
from powermeter.settings.schema import Key, Mistake, Remark
from powermeter.settings.values import Values, WriterSettings


@dataclass(frozen=True, slots=True)
class Pace:
    """
    When a writer wants pulses, and how many.

    *batch_size*: the most pulses a batch. *interval_s*: the least time
    between batches, where none was full. *period_ns*: not 0 for a writer
    that sends aggregates; its batches hold whole periods of that length, a
    multiple of it since 1970, and may be larger where one period is.
    """

    batch_size: int
    interval_s: float = 0.0
    period_ns: int = 0

    @classmethod
    def aggregated(cls, period_s: int, batch_size: int) -> "Pace":
        """The pace of a writer that sends one aggregate every *period_s*."""
        return cls(batch_size, 0.0, period_s * NS_PER_S)


class Receipt(NamedTuple):
    """
    What became of a batch.

    The first *taken* pulses need not come again; *refused* of them the
    service did not want, for *reason*. *place* is the writer's own note of how
    far it is, given back to it with the next batch, also after a restart.
    """

    taken: int
    place: str = ""
    refused: int = 0
    reason: str = ""


class Writer(Protocol):
    """
    One place that pulses are taken to; used by one thread.

    Made from its options in the settings, without touching the network.
    """

    pace: Pace

    def deliver(self, pulses: Sequence[Pulse], place: str, /) -> Receipt:
        """
        Take *pulses*, in order; return once they are safe there.

        *place* is that of the last receipt, "" if there was none. A receipt
        with nothing taken asks for its place to be made durable, and for the
        same pulses again.

        Raises :exc:`~powermeter.errors.DeliveryError` if that failed: the
        pulses come again, so what was taken in spite of it must do no harm.
        """
        ...

    def check(self, pulses: Sequence[Pulse] = (), /) -> str:
        """
        Try all that can be tried without leaving a trace; return what answered.

        *pulses* are some that were counted before: where delivering a pulse
        again changes nothing, that is the best try.
        Raises :exc:`~powermeter.errors.DeliveryError`.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections; may be called twice."""
        ...


#: The type in the settings, the module and the class. A module is imported where its type is in the settings.
WRITERS = {
    "file": ("powermeter.writers.file", "FileWriter"),
    "librato": ("powermeter.writers.librato", "LibratoWriter"),
    "influxdb": ("powermeter.writers.influxdb", "InfluxdbWriter"),
}


class WriterType(NamedTuple):
    """
    What the module of a type of writer holds.

    *writer*: the class. *keys* (``KEYS``): the keys of its entry in the settings,
    which are its arguments. *library* (``LIBRARY``): the module and the name on
    PyPI of the library that it needs; None if Python's own are enough. *mistakes*
    and *warnings*, functions that the module may have: they get the options of an
    entry and yield what only several of them show, or what the user should know.
    The options that *mistakes* gets lack those that have a mistake of their own.
    """

    writer: Callable[..., Writer]
    keys: Mapping[str, Key]
    library: tuple[str, str] | None
    mistakes: Callable[[Values], Iterable[Mistake]]
    warnings: Callable[[Values], Iterable[Remark]]


def writer_type(name: str) -> WriterType:
    """
    The type of writer that the settings call *name*, one of ``WRITERS``.

    Its library is not imported yet: those of services are heavy, and not
    everyone has all of them.
    """
    module_name, class_name = WRITERS[name]
    module = importlib.import_module(module_name)
    return WriterType(
        getattr(module, class_name),
        module.KEYS,
        module.LIBRARY,
        getattr(module, "mistakes", _nothing),
        getattr(module, "warnings", _nothing),
    )


def _nothing(_options: Values) -> tuple[()]:
    return ()


def open_writer(settings: WriterSettings, beside: Iterable[WriterSettings] = ()) -> Writer:
    """
    The writer of *settings*; *beside* are those there are, this one among them.

    Raises :exc:`ImportError` where its library is missing.
    """
    options = dict(settings.options)
    if settings.type == "file":
        options["others"] = [other.options["path"] for other in beside if other.type == "file" and other != settings]
    return writer_type(settings.type).writer(**options)
