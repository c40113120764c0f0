"""
The power of the whole machine fails at random moments, again and again.

The program counts in a virtual machine, with its journal and its file on an ext4 disk. Killing the virtual machine
loses everything that its disk had not flushed. At the next boot, SQLite's integrity_check must find the journal intact,
with every count once and none missing between the first and the last. Of the flashes before the cut, at most those of
one COMMIT_INTERVAL may be missing. Once the program has delivered what was waiting, the CSV file must contain every
pulse of the journal once, in order, with the same time and register. At the end, e2fsck must find nothing to repair.

Each life of the machine has its own rate and COMMIT_INTERVAL. In every second one, the clock of the virtual machine
skips the time in which nothing happens, so that hours of pulses and SQLite's checkpoints are tried too; the others run
in real time, with 20 pulses per second.
"""

import itertools
import math
import random

import guests
from rig import Row, times

TITLE = "Power cut"
PROMISE = "A power cut costs at most one COMMIT_INTERVAL of pulses"
MEASURED = "missing after a cut, as a share of COMMIT_INTERVAL"

#: A tenth of them hit a boot before it has looked at the journal, and are judged with the next.
CUTS = 110

#: The most cuts that one disk goes through.
CUTS_A_DISK = 10

#: Pulses a second and COMMIT_INTERVAL of a life whose clock jumps.
JUMPING = ((0.127, 1), (0.127, 60), (1, 5), (1, 60), (20, 1), (20, 5))

#: Those at the world's pace.
STEADY = ((20, 1), (20, 2))

#: From the cut back to the first missing pulse it is COMMIT_INTERVAL and the time that a commit takes, in s.
COMMIT_S = 0.5

#: For the boot, the check of what is left, and the start of the program, on a busy host, in s.
BOOT_S = 120


class Disk:
    """A disk, and the lives that were cut off on it."""

    def __init__(self, rig, number, cuts):
        self.image = guests.image(rig.directory / f"{number}.img", "128M")
        #: How many cuts it is to go through.
        self.cuts = cuts
        self._kernel = rig.kernel
        self._chance = random.Random(f"{rig.seed} {number}")
        #: Of the last life: its flashes as (number, time), and what it was; before it: the pulses there were.
        self._flashes, self._commit_s, self._before = [], 0, 0
        #: Of each cut: the pulses missing, how many s of them, in shares of COMMIT_INTERVAL.
        self.missing = []
        self.made = self.kept = 0
        #: Boots that looked at the journal, and deliveries that were looked at in the file.
        self.opened = self.delivered = 0

    def live(self, cut):
        """One life and its cut."""
        jumping = cut % 2 == 1
        per_s, commit_s = self._chance.choice(JUMPING if jumping else STEADY)
        # Some are cut in the boot, in the making of the journal, in the delivery of what the cut before left to do.
        early = cut == 0 or self._chance.random() < 0.1
        length_s = self._chance.uniform(*((0.5, 2.5) if early else (0, 6)))
        with guests.Life(
            self._kernel, "life", jumping=jumping, image=self.image, per_s=per_s, commit_s=commit_s
        ) as life:
            if early or life.live(BOOT_S, until="flash"):
                life.live(length_s)
            life.cut()
            self._judge(life.said, commit_s)

    def end(self):
        """The last life: none cuts it off."""
        with guests.Life(
            self._kernel, "life", jumping=True, image=self.image, per_s=1, commit_s=5, flashing_s=10
        ) as life:
            life.end(BOOT_S)
            self._judge(life.said, 5)
            last = life.said[-1]
        assert last["integrity"] == ["ok"], last
        assert not last["wrong"], last["wrong"]
        assert last["kept"] == self._flashes[-1][0], last
        self.kept = last["kept"]
        guests.sound(self.image)

    def _judge(self, said, commit_s):
        """What a life found of the one before it, and what it made itself."""
        found = next((what for what in said if "found" in what), None)
        if found is None:
            return  # cut off in its boot: the next one looks
        assert found["integrity"] == ["ok"], found
        assert found["holes"] == [], found
        self.opened += 1
        kept = found["found"]
        assert kept >= self._before, f"{kept} pulses are left of {self._before} that a boot had found"
        if self._flashes:
            self._judge_missing(kept)
        delivered = next((what for what in said if "wrong" in what), None)
        if delivered is not None:
            assert not delivered["wrong"], delivered["wrong"]
            assert delivered["counted"] == kept, delivered
            self.delivered += 1
        flashes = [(what["flash"], what["at_ns"]) for what in said if "flash" in what]
        self._flashes, self._commit_s, self._before = flashes, commit_s, kept
        self.made += len(flashes)

    def _judge_missing(self, kept):
        missing = [at_ns for number, at_ns in self._flashes if number > kept]
        seconds = (self._flashes[-1][1] - missing[0]) / 1e9 if missing else 0
        assert seconds <= self._commit_s + COMMIT_S, (
            f"{len(missing)} of {len(self._flashes)} pulses, {seconds:.3f} s of them, are missing at COMMIT_INTERVAL "
            f"{self._commit_s}; {kept} are kept, before that life {self._before}"
        )
        self.missing.append((len(missing), seconds / self._commit_s))


def run(part, rig):
    cuts = times(CUTS, part)
    count = max(guests.AT_ONCE, math.ceil(cuts / CUTS_A_DISK))
    disks = [Disk(rig, number, len(range(number, cuts, count))) for number in range(count)]

    def cut_off(disk):
        for cut in range(disk.cuts):
            disk.live(cut)
        disk.end()

    guests.each(cut_off, disks)
    missing = list(itertools.chain.from_iterable(disk.missing for disk in disks))
    shares = [share for _, share in missing]
    made, kept = sum(disk.made for disk in disks), sum(disk.kept for disk in disks)
    # A cut in the boot before it has looked leaves that to the next one.
    opened, delivered = (sum(getattr(disk, name) for disk in disks) for name in ("opened", "delivered"))
    return [
        Row("power cuts", f"{cuts}"),
        Row("boots that checked the journal and found it intact", f"{opened} of {opened}", "all"),
        Row("flashes made; saved", f"{made:,}, {kept:,}"),
        Row(
            "missing after a cut, as a share of COMMIT_INTERVAL",
            f"{sum(shares) / len(shares):.2f} on average, {max(shares):.2f} at most",
            "1, and the time of a commit",
        ),
        Row("pulses missing after a cut, at most", f"{max(count for count, _ in missing)}"),
        Row("files that agreed with the journal after the next delivery", f"{delivered} of {delivered}", "all"),
        Row("file systems in which e2fsck -fn finds something to repair", "none", "none"),
    ]
