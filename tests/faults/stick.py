"""
Two CSV files on a memory stick with FAT or exFAT, where files get new inode numbers at each mount.

The program counts in a virtual machine, with its journal on an ext4 disk and two files of the same pulses on the stick,
which are renamed from time to time, as logrotate does. The power fails at random moments, or the stick is pulled out
and put back while the program counts. Once the program has delivered what was waiting, each pulse of the journal is in
the files of each writer exactly once.
"""

import itertools
import random

import guests
from rig import Row, times

TITLE = "A file on a stick"
PROMISE = "Each pulse is in the CSV file exactly once, also on a stick that is pulled out"
MEASURED = "vfat: checks of the files that found each pulse exactly once"

#: Lives on a stick of each kind; one in four is a stick taken out and put back, the others end with the power.
LIVES = 60
KINDS = ("vfat", "exfat")

#: The most lives of one stick.
LIVES_A_STICK = 10

BOOT_S = 120


class Stick:
    """A disk and a stick, and their lives."""

    def __init__(self, rig, number, kind, lives):
        self.kind, self.lives = kind, lives
        self.image = guests.image(rig.directory / f"{number}-{kind}.img", "64M")
        self.stick = guests.fat_image(rig.directory / f"{number}-{kind}.stick", kind)
        self._kernel, self._chance = rig.kernel, random.Random(f"{rig.seed} {number} {kind}")
        self.judged, self.lines, self.renamed, self.taken_out = 0, 0, 0, 0

    def live(self, *, last=False):
        chance = self._chance
        taken_out = chance.random() < 0.25
        self.taken_out += taken_out
        arguments = {
            "image": self.image,
            "stick": self.stick,
            "kind": self.kind,
            "seed": chance.randrange(2**32),
            "taken_out": taken_out,
            "last": last,
        }
        with guests.Life(self._kernel, "life_with_stick", jumping=True, **arguments) as life:
            if last:
                life.end(BOOT_S)
            elif life.live(BOOT_S, until="flash"):
                life.live(chance.uniform(0, 4))
                life.cut()
            for what in life.said:
                if "wrong" in what:
                    assert not what["wrong"], what["wrong"]
                    self.judged, self.lines, self.renamed = self.judged + 1, what["lines"], what["files"]


def run(part, rig):
    lives = times(LIVES, part)
    sticks = [
        Stick(rig, number, kind, len(range(number, lives, -(-lives // LIVES_A_STICK))))
        for kind in KINDS
        for number in range(-(-lives // LIVES_A_STICK))
    ]

    def use(stick):
        for _ in range(stick.lives):
            stick.live()
        stick.live(last=True)

    guests.each(use, sticks)
    rows = []
    for kind, of_kind in itertools.groupby(sticks, key=lambda stick: stick.kind):
        some = list(of_kind)
        rows += [
            Row(
                f"{kind}: lives; of these, with the stick pulled out and put back",
                f"{lives}, {sum(s.taken_out for s in some)}",
            ),
            Row(
                f"{kind}: lines in the end; files",
                f"{sum(s.lines for s in some):,}, {sum(s.renamed for s in some)}",
            ),
            Row(
                f"{kind}: checks of the files that found each pulse exactly once",
                f"{sum(s.judged for s in some)} of {sum(s.judged for s in some)}",
                "all",
            ),
        ]
    return rows
