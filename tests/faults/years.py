"""
A journal of ten years, at 4 million pulses per year, with one writer that keeps up and one whose service never answers.

It is filled as the program fills it, batch after batch, and thinned as the years pass (``KEEP_DAYS = 400``). Its size
stays within the bound, however many years there are; the energy of each day is what was counted; and the writer whose
service was away delivers the energy of all pulses and learns how many of them are no longer available one by one.
"""

import contextlib
import time

from rig import NS_PER_S, History, Journal, JournalRow, Row

TITLE = "Ten years, and a service that never returns"
PROMISE = "The journal stays small, however many years it runs"
MEASURED = "the journal"

YEARS, A_YEAR, KEEP_DAYS = 10, 4_000_000, 400
BATCH = 20_000
DAY_NS = 86400 * NS_PER_S
#: 2016-11-24T00:00:00Z.
START_NS = 1_479_945_600 * NS_PER_S
#: Bytes a pulse that is kept whole, and of all else: quarters of an hour, free pages, the log.
A_PULSE, ALL_ELSE = 30, 16 * 2**20


def run(part, rig):
    path = str(rig.directory / "journal.db")
    years = YEARS * part
    pulses, spacing_ns = round(A_YEAR * years), 365 * DAY_NS // A_YEAR
    with Journal(path) as journal:
        key = journal.enter("house", 1000).name
        with (
            contextlib.closing(journal.add_cursor("follows")) as follows,
            contextlib.closing(journal.add_cursor("away")) as away,
        ):
            per_day = _fill(journal, key, follows, pulses, spacing_ns, rig.random)
            bytes_kept = (rig.directory / "journal.db").stat().st_size
            bound = round(min(KEEP_DAYS / 365, years) * A_YEAR * A_PULSE) + ALL_ELSE
            assert bytes_kept <= bound, f"the journal has {bytes_kept:,} bytes, and may have {bound:,}"
            with History(journal.path) as history:
                days = [START_NS + day * DAY_NS for day in range(len(per_day) + 1)]
                began = time.perf_counter()
                found = history.energy("house", days)
                took_s = time.perf_counter() - began
                waits, _ = history.waiting(away.position)
            assert [day.pulses for day in found] == per_day, "a day's pulses are not what was counted"
            energy_wh, skipped, got = 0.0, 0, 0
            while batch := away.read(50_000):
                skipped += away.advance(batch, "")
                energy_wh += sum(pulse.watt_hours for pulse in batch)
                got += len(batch)
            assert (got, got + skipped) == (waits, pulses), f"{got:,} got, {skipped:,} skipped, of {pulses:,}"
            assert round(energy_wh) == pulses, f"{energy_wh:,.3f} Wh, and {pulses:,} Wh were counted"
    return [
        Row("pulses", f"{pulses:,} in {years:g} years"),
        Row("the journal", f"{bytes_kept / 2**20:.0f} MiB", f"<= {bound / 2**20:.0f} MiB, whatever the years"),
        Row("days whose energy is what was counted", f"{len(per_day):,} of {len(per_day):,}", "all"),
        Row("kWh of each of these days, read in", f"{took_s * 1000:.0f} ms"),
        Row("pulses delivered by the writer whose service was away", f"{got:,}"),
        Row("pulses that were no longer available to it one by one", f"{skipped:,}"),
        Row("energy that it delivered", f"{energy_wh / 1000:,.3f} kWh", f"{pulses / 1000:,.3f} kWh"),
    ]


def _fill(journal, key, follows, pulses, spacing_ns, chance):
    """Count *pulses*, and thin as time passes; return how many each day has."""
    per_day, time_ns, kept_ns = [], START_NS, KEEP_DAYS * DAY_NS
    for first in range(1, pulses + 1, BATCH):
        rows = []
        for number in range(first, min(first + BATCH, pulses + 1)):
            interval_ns = chance.randrange(spacing_ns // 2, spacing_ns * 3 // 2)
            time_ns += interval_ns
            rows.append(JournalRow(key, number, time_ns, interval_ns))
            day = (time_ns - START_NS) // DAY_NS
            per_day += [0] * (day + 1 - len(per_day))
            per_day[day] += 1
        journal.append(rows)
        while batch := follows.read(BATCH):
            follows.advance(batch, "")
        while journal.thin(time_ns - kept_ns):
            pass
    return per_day
