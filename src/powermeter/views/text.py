"""How the running program is doing, for people: the text of ``--status``, and the live line."""

import math
import time
from typing import NamedTuple

from powermeter.journal.readings import Drift, Reading, shown
from powermeter.meter import NS_PER_S
from powermeter.status import MeterStatus, Status, ViewStatus, WriterStatus
from powermeter.views import duration


class Part(NamedTuple):
    """
    What is shown for one part of the program: its *name*, such as "meter house", and the *words*.

    *advice* is what to do, or what not to worry about, where it *is_wrong*; "" where the words include that already.
    """

    name: str
    words: str
    is_wrong: bool = False
    advice: str = ""


def text(status: Status) -> str:
    """The lines that ``--status`` prints for *status*."""
    lines = [headline(status)]
    if status.left_out:
        lines.append(f"left out by --simulate: {', '.join(status.left_out)}")
    lines += [f"{part.name}: {part.words}" for part in parts(status)]
    return "\n".join(lines) + "\n"


def headline(status: Status) -> str:
    """Which program runs, and for how long."""
    simulate = status.simulate
    simulated = "" if simulate is None else f", simulated {'household' if simulate is True else f'{simulate:g} W'}"
    return f"power {status.version}: running, pid {status.pid}, for {duration(status.uptime_s)}{simulated}"


def parts(status: Status) -> list[Part]:
    """What is shown for each meter, writer and view, and for anything else that does not do what it should."""
    found = [Part(f"meter {_name(name, of)}", _meter(of), of.faulty) for name, of in status.meters.items()]
    # While these two hold pulses back, a writer's next batch waits for them.
    held_back = status.clock.waiting or bool(status.journal.failing)
    found += [_writer(name, writer, held_back=held_back) for name, writer in status.writers.items()]
    found += [Part(f"view {name}", _state(view), view.state == "failing") for name, view in status.views.items()]
    if status.clock.waiting:
        found.append(
            Part(
                "clock",
                "not known to be right yet: pulses are kept, and delivered with their right time in at most "
                f"{duration(status.clock.waits_s)}",
            )
        )
    journal = status.journal
    if journal.failing:
        dropped = f"; {journal.dropped:,} more only counted" if journal.dropped else ""
        words = f"failing: {journal.failing}; {journal.uncommitted:,} pulses kept in memory{dropped}"
        advice = "Check the disk: is it full, or worn out? What was counted is written once it can be."
        found.append(Part("journal", words, is_wrong=True, advice=advice))
    if status.log.failing:
        advice = "Check the disk: is it full, or may the program not write there? Counting goes on."
        found.append(Part("log", f"failing: {status.log.failing}", is_wrong=True, advice=advice))
    return found


def _meter(meter: MeterStatus) -> str:
    today = "not known"
    if meter.pulses_today is not None:
        today = f"{_pulses(meter.pulses_today)}, {meter.kwh_today or 0.0:.3f} kWh"
    return (
        f"{watts(meter)}; today {today}; register {_register(meter)}; {meter.rejected:,} edges rejected{_input(meter)}"
    )


def _writer(name: str, writer: WriterStatus, *, held_back: bool) -> Part:
    refused = f"; {writer.refused:,} pulses refused" if writer.refused else ""
    skipped = f"; {writer.skipped:,} pulses no longer exist, it has their energy" if writer.skipped else ""
    words = f"{_state(writer)}; {_waiting(writer, held_back=held_back)}{refused}{skipped}"
    if writer.state != "failing":
        return Part(f"writer {name}", words)
    advice = "Nothing is lost: its pulses wait in the journal until it works again. power.py --check tries it."
    return Part(f"writer {name}", words, is_wrong=True, advice=advice)


def reading(read: Reading, drift: Drift | None, *, simulated: bool) -> str:
    """What is shown for a reading that was taken, and its *drift*, if there was one before."""
    face = shown(read.face_kwh, read.decimals)
    lines = [
        f"meter {read.meter}: the register is {face} kWh from the next pulse on; it was {read.register_kwh:.3f} kWh"
    ]
    if simulated:
        lines.insert(0, "SIMULATED: no real meter counted this")
    if drift is None:
        lines.append("the next reading shows how far face and count drift apart")
        return "\n".join(lines) + "\n"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(drift.since.time_ns // NS_PER_S))
    moved = shown(drift.moved_kwh, max(read.decimals, drift.since.decimals))
    lines.append(f"since {since} the face moved by {moved} kWh, and {drift.counted_kwh:.3f} kWh were counted")
    per_cent = "" if drift.per_cent is None else f", {drift.per_cent:+.2f} %"
    lines.append(
        f"drift: {drift.difference_kwh:+.3f} kWh{per_cent}, {drift.flashes:+.0f} flashes; "
        f"the last digit can explain {drift.explained_kwh:g} kWh{'' if drift.is_explained else ', not this'}"
    )
    if round(drift.uncovered_s):
        lines.append(f"nothing could be counted for {duration(drift.uncovered_s)} of that time")
    return "\n".join(lines) + "\n"


#: What is wrong with an input, in the words of the live line.
TROUBLES = {
    "silent": "no flashes",
    "stuck": "the LED is stuck on",
    "flickers": "never dark",
    "noisy": "far more edges than pulses",
}

#: How much of a writer's reason the live line shows, in characters: --status and the log have the rest.
MAX_REASON = 60


def line(status: Status, columns: int | None = None) -> str:
    """
    The live line for *status*: what fails first, then power now, energy today and the writers.

    A view is in it only where it fails. It takes *columns* at the most, None for any number.
    """
    several = len(status.meters) > 1
    failing = [f"{part} failing" for part, state in (("journal", status.journal), ("log", status.log)) if state.failing]
    healthy: list[str] = []
    for name, meter in status.meters.items():
        today = "not known" if meter.kwh_today is None else f"{meter.kwh_today:.3f} kWh"
        trouble = [words for key, words in TROUBLES.items() if getattr(meter, key)]
        label = f"{meter.label or name} " if several else ""
        (failing if trouble else healthy).append(", ".join([f"{label}{watts(meter)}", f"today {today}", *trouble]))
    for name, writer in status.writers.items():
        (failing if writer.state == "failing" else healthy).append(f"{name} {fitted(_state(writer), MAX_REASON)}")
    failing += [
        f"view {name} {fitted(_state(view), MAX_REASON)}"
        for name, view in status.views.items()
        if view.state == "failing"
    ]
    clock = ["waiting for the clock"] if status.clock.waiting else []
    return fitted(" | ".join([*failing, *healthy, *clock]), columns)


def fitted(text: str, columns: int | None) -> str:
    """
    *text*, or as much of it as *columns* have room for.

    >>> fitted("1,234 W, today 12.345 kWh", 12)
    '1,234 W, ...'
    """
    if columns is None or len(text) <= columns:
        return text
    return text[: columns - 3] + "..." if columns > 3 else text[: max(0, columns)]


def _pulses(pulses: int) -> str:
    return "1 pulse" if pulses == 1 else f"{pulses:,} pulses"


def _name(name: str, meter: MeterStatus) -> str:
    """The meter's name, behind its label where it has one."""
    shown = f"{meter.label} ({name})" if meter.label else name
    return f"{shown}, export" if meter.direction == "export" else shown


def watts(meter: MeterStatus) -> str:
    """The power now; "at most" that, and why, while no flash comes and it sinks."""
    if meter.watts is None:
        return "waiting for two flashes"
    return f"at most {meter.watts:,.0f} W until the next flash" if meter.watts_is_bound else f"{meter.watts:,.0f} W"


def _register(meter: MeterStatus) -> str:
    return "not known" if meter.register_kwh is None else f"{meter.register_kwh:,.3f} kWh"


def _input(meter: MeterStatus) -> str:
    """What else is shown for a meter's input."""
    words = [
        f"{getattr(meter, key):,} {what}"
        for key, what in (
            ("rejected_after_stall", "rejected after a stall"),
            ("too_short", "flashes too short"),
            ("counted_without_being_seen", "flashes counted without being seen"),
        )
        if getattr(meter, key)
    ]
    if meter.flash_ms is not None:
        length = meter.flash_ms
        words.append(f"last flash {length:,.0f} ms" if length >= 100 else f"last flash {length:.3g} ms")
    if meter.silent:
        words.append("no flashes: is the sensor in its place?")
    if meter.stuck:
        words.append('the LED is stuck on, or other light falls on the sensor, or "lit" is the other way round')
    if meter.flickers:
        words.append('never dark: other light flickers on the sensor, or "lit" is the other way round')
    if meter.noisy:
        words.append("far more edges than pulses: does the sensor see the pulse LED, and nothing else?")
    return "".join(f"; {each}" for each in words)


def _state(of: WriterStatus | ViewStatus) -> str:
    state = "catching up" if isinstance(of, WriterStatus) and of.state == "waiting" else of.state
    return f"{state}: {of.reason}" if of.reason else state


def _waiting(writer: WriterStatus, *, held_back: bool) -> str:
    if writer.waiting is None:
        return "how many pulses wait is not known"
    if writer.oldest_s is None:
        return "nothing is waiting"
    # To wait for a batch is how a healthy writer works. What is overdue, but for a second's work, has no such promise.
    if writer.state == "ok" and not held_back and writer.oldest_s <= writer.batch_s + 1:
        return f"{_pulses(writer.waiting)} in the next batch, within {_no_longer(writer.batch_s)}"
    waiting = "1 pulse waits" if writer.waiting == 1 else f"{writer.waiting:,} pulses wait"
    return f"{waiting}, the oldest for {duration(writer.oldest_s)}"


def _no_longer(seconds: float) -> str:
    """*seconds* as people say it, rounded up: a promise is not to be shortened."""
    return f"{math.ceil(seconds)} s" if seconds <= 120 else duration(60 * math.ceil(seconds / 60))
