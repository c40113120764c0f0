"""
What the journal costs an SD card, and what its dial, COMMIT_INTERVAL, buys.

The program counts in a guest, on an ext4 file system of 4 KiB blocks, mounted with noatime. A household
flashes 0.127 times a second (4 million pulses a year at 1,000 imp/kWh; evenly here), a load of 3.6 kW once a
second; each runs for long enough that SQLite takes its log back into the journal. What was written is asked of
the block device (``/sys/block/*/stat``), so ext4's own journal and metadata are in it. With the default writer the
CSV file and its sync every 30 s come on top. What the card makes of a write inside is not known: it erases
blocks that are larger than any write here, so that flushes wear it as well as bytes.
"""

import tempfile
from pathlib import Path

import guest
import guests
from rig import Row

TITLE = "Wear of the card"

INTERVALS_S = (1, 5, 10, 60)

#: Pulses a second: a household's mean over a year, and 3.6 kW at 1,000 imp/kWh.
RATES = (0.127, 1)
PULSES_A_YEAR = 4_000_000

#: The least pulses, and commits, that are measured. A log of 1,000 pages is taken back after some 300 commits.
PULSES, COMMITS = 6000, 350

#: The most that a commit may cost, and a sync of the file, in KB.
MOST_KB = 80

#: The pace of the file, in s.
FILE_S = 30


def run(part, rig):
    whole = part == 1
    measured = [
        (per_s, interval_s, with_file)
        for per_s in (RATES if whole else RATES[:1])
        for interval_s in (INTERVALS_S if whole else (5, 60))
        for with_file in ((False, True) if whole else (False,))
    ]

    def measure(numbered):
        number, (per_s, interval_s, with_file) = numbered
        image = guests.image(place / f"{number}.img", "256M")
        pulses = round(max(PULSES, COMMITS * per_s * interval_s) * max(part, 0.2))
        found = guests.run(
            rig.kernel,
            "wear",
            image=image,
            per_s=per_s,
            commit_s=interval_s,
            pulses=pulses,
            with_file=with_file,
        )
        return [figure / pulses for figure in found]

    # No figure here is of the host's disk: memory does as well, and is faster.
    with tempfile.TemporaryDirectory(prefix="power-wear.", dir=guest.memory_directory("2G")) as name:
        place = Path(name)
        found = guests.each(measure, enumerate(measured))
    rows = []
    for (per_s, interval_s, with_file), (octets, writes, flushes) in zip(measured, found, strict=True):
        what = f"{per_s:g} pulses/s, COMMIT_INTERVAL {interval_s}{', with the file' if with_file else ''}"
        figures = f"{octets / 1000:.1f} KB, {writes:.2f} writes, {flushes:.2f} flushes a pulse"
        if per_s == RATES[0]:
            figures += f"; {octets * PULSES_A_YEAR / 1e9:.0f} GB a year"
        syncs = 1 / max(1, per_s * interval_s) + (1 / max(1, per_s * FILE_S) if with_file else 0)
        assert octets / 1000 <= MOST_KB * syncs, f"{what}: {figures}"
        rows.append(
            Row(what, figures, f"{MOST_KB * syncs:.1f} KB: {MOST_KB} a commit{' or sync' if with_file else ''}")
        )
    return rows
