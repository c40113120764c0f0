"""
What the journal writes to an SD card, and what COMMIT_INTERVAL changes about it.

The program counts in a virtual machine, on an ext4 file system with blocks of 4 KiB, mounted with noatime. A household
makes 0.127 flashes per second (4 million pulses per year at 1,000 imp/kWh; evenly spaced here), a load of 3.6 kW makes
one per second. Each run is long enough for SQLite to move its log into the journal. The figures come from the block
device (``/sys/block/*/stat``), so they include ext4's own journal and metadata. The default writer adds the CSV file
and its sync every 30 s. What the card does with a write internally is not known: it erases blocks that are larger than
any write here, so flushes wear it as well as bytes.
"""

import tempfile
from pathlib import Path

import guest
import guests
from rig import Row

TITLE = "Wear of the card"
PROMISE = "The journal wears the card little: per pulse of a household, with the default settings"
MEASURED = "0.127 pulses/s, COMMIT_INTERVAL 5, with the file"

INTERVALS_S = (1, 5, 10, 60)

#: Pulses a second: a household's mean over a year, and 3.6 kW at 1,000 imp/kWh.
RATES = (0.127, 1)
PULSES_A_YEAR = 4_000_000

#: The least pulses, and commits, that are measured. A log of 1,000 pages is taken back after some 300 commits.
PULSES, COMMITS = 6000, 350

#: The most that a commit may cost, and a sync of the file, in KB.
MAX_KB = 80

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
        figures = f"{octets / 1000:.1f} KB, {writes:.2f} writes, {flushes:.2f} flushes per pulse"
        if per_s == RATES[0]:
            figures += f"; {octets * PULSES_A_YEAR / 1e9:.0f} GB per year"
        syncs = 1 / max(1, per_s * interval_s) + (1 / max(1, per_s * FILE_S) if with_file else 0)
        assert octets / 1000 <= MAX_KB * syncs, f"{what}: {figures}"
        rows.append(
            Row(what, figures, f"{MAX_KB * syncs:.1f} KB: {MAX_KB} per commit{' or sync' if with_file else ''}")
        )
    return rows
