"""
A simulated meter in place of the pins: edges from a load, and lamps that can be read.

A load is a series of steps, each a power that lasts for a time. The flashes come
when a real meter would give them for the load's energy, to the nanosecond.
"""

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator

from powermeter.boards import EdgeQueue
from powermeter.lamps import Lamp
from powermeter.meter import JOULES_PER_KWH, NS_PER_S, Edge
from powermeter.settings.values import Settings

#: A step of a load: how long it lasts, in s, and its power in watts. A load is an endless stream of steps.
Step = tuple[float, float]
Load = Iterator[Step]

DAY_S = 86400

#: How many days of history a household has in a new journal.
PAST_DAYS = 35


def constant(watts: float) -> Load:
    """
    A load that never changes.

    >>> next(constant(1200.0))
    (86400, 1200.0)
    """
    return itertools.repeat((DAY_S, watts))


def household(from_s: float, seed: str) -> Load:
    """
    A household's load from *from_s* on, a local time of day in s.

    Every day has a base load that is lower at night, a fridge that cycles, a
    kettle now and then, and an oven in the evening; *seed* and the day's number
    decide when. The powers are typical of such appliances, not of a real house.
    """
    for day in itertools.count():
        steps = _day(random.Random(f"{seed} {day}"))
        if day == 0:
            steps = _after(from_s, steps)
        yield from steps


def past(until_s: float, seed: str) -> tuple[int, Load]:
    """
    The same household's load before *until_s*: the local day so far, and the :data:`PAST_DAYS` days before it.

    Returns the time at which it begins, and its steps, which end at *until_s*. Both times are in s since 1970 (UTC).
    """
    now = time.localtime(until_s)
    days = range(-PAST_DAYS, 1)
    # mktime() accepts days outside the month, and takes them as days of the months before and after it.
    midnights_s = [round(time.mktime((now.tm_year, now.tm_mon, now.tm_mday + day, 0, 0, 0, 0, 0, -1))) for day in days]
    lengths_s = [end_s - begin_s for begin_s, end_s in itertools.pairwise([*midnights_s, until_s])]
    return midnights_s[0], itertools.chain.from_iterable(
        _lasting(length_s, _day(random.Random(f"{seed} {day}"))) for day, length_s in zip(days, lengths_s, strict=True)
    )


def _day(chance: random.Random) -> list[Step]:
    """A day's steps, from the times at which appliances are switched on and off."""
    uses: list[tuple[float, float, float]] = [(0, DAY_S, 90.0), (6.5 * 3600, 23 * 3600, 160.0)]
    at_s = chance.uniform(0, 2400)
    while at_s < DAY_S:  # the fridge
        on_s = chance.uniform(700, 1100)
        uses.append((at_s, min(at_s + on_s, DAY_S), 95.0))
        at_s += on_s + chance.uniform(1500, 2600)
    for hour in (7, 10, 16, 20):  # the kettle
        at_s = hour * 3600 + chance.uniform(0, 3000)
        uses.append((at_s, at_s + chance.uniform(90, 240), 2000.0))
    at_s = 17.5 * 3600 + chance.uniform(0, 3600)
    uses.append((at_s, at_s + 600, 2400.0))  # the oven heats up, then its thermostat switches
    turns = range(int(chance.uniform(8, 20)))
    uses += [(at_s + 600 + 150 * turn, at_s + 660 + 150 * turn, 2400.0) for turn in turns]
    edges = sorted({edge for start, end, _ in uses for edge in (start, end)})
    return [
        (end - start, sum(watts for begins, ends, watts in uses if begins <= start < ends))
        for start, end in itertools.pairwise(edges)
    ]


def _after(from_s: float, steps: list[Step]) -> list[Step]:
    """The part of *steps* after *from_s*."""
    left = []
    for duration_s, watts in steps:
        skipped_s = min(duration_s, from_s)
        from_s -= skipped_s
        if duration_s > skipped_s:
            left.append((duration_s - skipped_s, watts))
    return left


def _lasting(seconds: float, steps: list[Step]) -> list[Step]:
    """*steps* cut off after *seconds*; if they are shorter, as on a day of 25 hours, the last one is extended."""
    lasting = []
    for duration_s, watts in steps:
        lasting.append((min(duration_s, seconds), watts))
        seconds -= lasting[-1][0]
    return [*lasting, (seconds, steps[-1][1])]


def flashes(load: Load, impulses_per_kwh: float, start_ns: int) -> Iterator[int]:
    """
    The times of a meter's flashes under *load*, in ns of the same clock as *start_ns*.

    The first comes when the energy of one pulse has been used.

    >>> list(itertools.islice(flashes(constant(3600.0), 1000, 0), 3))
    [1000000000, 2000000000, 3000000000]
    """
    joules_per_flash = JOULES_PER_KWH / impulses_per_kwh
    missing = joules_per_flash
    at_ns = start_ns
    for duration_s, watts in load:
        left_s = duration_s
        while watts > 0 and watts * left_s >= missing:
            step_s = missing / watts
            left_s -= step_s
            yield at_ns + round((duration_s - left_s) * NS_PER_S)
            missing = joules_per_flash
        missing -= watts * left_s
        at_ns += round(duration_s * NS_PER_S)


class SimulatedBoard:
    """
    The meters of *settings*, each with its own load, which *load* gives for its name.

    The loads begin at *start_ns* (monotonic), None for now; if that is in the
    past, the flashes since then come at once. :attr:`lit` holds the state of the lamps.
    """

    sees_ends = False

    def __init__(self, settings: Settings, load: Callable[[str], Load], start_ns: int | None = None) -> None:
        start_ns = time.monotonic_ns() if start_ns is None else start_ns
        self._flashes = heapq.merge(
            *(
                zip(flashes(load(meter.name), meter.impulses_per_kwh, start_ns), itertools.repeat(index))
                for index, meter in enumerate(settings.meters)
            )
        )
        self.lit = {Lamp.L1: False, Lamp.L2: False}
        self._edges = EdgeQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """Report each flash at its time."""
        self._thread = threading.Thread(target=self._run, name="simulated meter", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for at_ns, index in self._flashes:
            wait_s = (at_ns - time.monotonic_ns()) / NS_PER_S
            if self._stop.wait(wait_s) if wait_s > 0 else self._stop.is_set():
                return
            self._edges.put(Edge(index, at_ns))

    def fileno(self) -> int:
        """The queue's file descriptor."""
        return self._edges.fileno()

    def take(self) -> list[Edge]:
        """The flashes since the last call."""
        return self._edges.take()

    def sees_light(self, meter: int) -> bool:  # noqa: ARG002 - the port has it
        """Never: a simulated flash has no length."""
        return False

    def unwatch(self) -> None:
        """Stop the flashes."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def light(self, lamp: Lamp, lit: bool) -> None:
        """Record what the lamp shows."""
        self.lit[lamp] = lit

    def close(self) -> None:
        """Stop the flashes and close the queue."""
        self.unwatch()
        self._edges.close()


def simulated_load(watts: float | None) -> Callable[[str], Load]:
    """The loads for ``--simulate``: *watts* for every meter, or without it a household's load from now on."""
    if watts is not None:
        return lambda _meter: constant(watts)
    now = time.localtime()
    return lambda meter: household(now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec, seed=meter)
