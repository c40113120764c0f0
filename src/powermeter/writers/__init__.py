"""
The port to the places where pulses go: :class:`Writer`, and the table of writers.

A writer knows its service's library, and only the pulses, the errors and the
kinds of setting of this program. It neither buffers nor retries; the delivery
does both, for all writers.
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

    *batch_size*: the maximum number of pulses in a batch. *interval_s*: the
    shortest time between batches that are not full. *period_ns*: not 0 for a
    writer that sends aggregates; its batches hold whole periods of that length,
    counted from 1970, and may be larger if a single period is.
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

    The first *taken* pulses need not be sent again; the service refused *refused*
    of them, for *reason*. *place* is the writer's own note of its position. The
    writer receives it with the next batch, even after a restart.
    """

    taken: int
    place: str = ""
    refused: int = 0
    reason: str = ""


class Writer(Protocol):
    """
    One place that pulses are taken to; used by one thread.

    It is made from its options in the settings, without using the network.
    """

    pace: Pace

    def deliver(self, pulses: Sequence[Pulse], place: str, /) -> Receipt:
        """
        Take *pulses*, in order; return once they are stored safely.

        *place* is that of the last receipt, or "" before the first one. A
        receipt that takes no pulses asks for its place to be made durable, and
        for the same pulses again.

        Raises :exc:`~powermeter.errors.DeliveryError` if that failed. The
        pulses then come again, so it must do no harm if some of them were stored.
        """
        ...

    def check(self, pulses: Sequence[Pulse] = (), /) -> str:
        """
        Try everything that can be tried without leaving a trace; return what answered.

        *pulses* are some that were counted before: if delivering a pulse again
        changes nothing, that is the best check.
        Raises :exc:`~powermeter.errors.DeliveryError`.
        """
        ...

    def close(self) -> None:
        """Close files and connections; may be called twice."""
        ...


#: The type in the settings, the module and the class. A module is imported only if its type is in the settings.
WRITERS = {
    "file": ("powermeter.writers.file", "FileWriter"),
    "librato": ("powermeter.writers.librato", "LibratoWriter"),
    "influxdb": ("powermeter.writers.influxdb", "InfluxdbWriter"),
}


class WriterType(NamedTuple):
    """
    The contents of a module with a type of writer.

    *writer*: the class. *keys* (``KEYS``): the keys of its entry in the settings,
    which are its arguments. *library* (``LIBRARY``): the module and the name on
    PyPI of the library that it needs; None if Python's own are enough. *mistakes*
    and *warnings* are functions that the module may have. They receive the options
    of an entry; *mistakes* yields mistakes that only several options together
    show, *warnings* what the user should know. Options that are themselves wrong
    are not passed to *mistakes*.
    """

    writer: Callable[..., Writer]
    keys: Mapping[str, Key]
    library: tuple[str, str] | None
    mistakes: Callable[[Values], Iterable[Mistake]]
    warnings: Callable[[Values], Iterable[Remark]]


def writer_type(name: str) -> WriterType:
    """
    The type of writer that the settings call *name*, one of ``WRITERS``.

    Its library is not imported yet: libraries of services are large, and not
    everyone has installed all of them.
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
    The writer for *settings*; *beside* are all writers, including this one.

    Raises :exc:`ImportError` if its library is missing.
    """
    options = dict(settings.options)
    if settings.type == "file":
        options["others"] = [other.options["path"] for other in beside if other.type == "file" and other != settings]
    return writer_type(settings.type).writer(**options)
