"""
The disk is full, read-only or gone for an hour, while the meter keeps flashing.

The program counts in a virtual machine, with its journal and its CSV file on an ext4 disk and a server of InfluxDB's
protocol on loopback; a flash comes every 3 s. *Full* means to the last block. *Read-only*: after an error of the file
system, as the kernel does it (errors=remount-ro), or forced (sysrq u). *Gone*: the block device fails every access;
half an hour later it is unmounted; after the hour it returns as another device. Throughout, every flash must be
counted, lamp L2 must blink slowly, and ``--status`` must report that the journal fails and how many pulses are kept in
memory. Once the disk is back, the journal must have every pulse with its time, the file and the server must get each
once, and L2 must be steady.

*Too long*: a simulated meter of 5,000 pulses per second, without a virtual machine, where no file may grow
(RLIMIT_FSIZE), until there are more than the 100,000 pulses that are kept in memory. The pulses after those must be
counted and reported, so that the register and the energy in the file are right to the pulse.
"""

import contextlib
import itertools
import json
import math
import re
import resource
import sqlite3
from pathlib import Path

import guests
from program import Program, wait_until
from rig import Row

TITLE = "Failing disk"
PROMISE = "A disk that fails for an hour costs no pulse"
MEASURED = "full, 60 minutes"

WAYS = {
    "full": "full",
    "read_only": "read-only, by an error",
    "forced_read_only": "read-only, by force",
    "gone": "gone",
}

#: The most pulses in memory; and of the simulated meter the load, and how many that are at 1,000,000 imp/kWh.
BOUND = 100_000
PULSES_A_S = 5000
WATTS = 3.6 * PULSES_A_S

#: How far a time may be from that of the flash as it was made, in ms: who makes the flashes may have to wait between
#: the look at its clock and the flash.
OFF_MS = 200

#: The size that no file may grow beyond while writes fail, in bytes: less than a commit has.
FULL_BYTES = 65_536

#: The most points that the server may get again: those of the last commit, and of the 60 s until a cursor is noted.
SENT_AGAIN = 30


def run(part, rig):
    # What happens in the second half of an hour is what happens in the first.
    minutes = 60 if part == 1 else 10

    def fail(way):
        if way is None:
            return _too_long(rig.directory / "too long")
        image = guests.image(rig.directory / f"{way}.img", "32M")
        return guests.run(rig.kernel, "failing_disk", image=image, way=way, minutes=minutes)

    too_long, *found = guests.each(fail, [None, *WAYS])
    rows = [_judged(f"{WAYS[way]}, {minutes} minutes", kept) for way, kept in zip(WAYS, found, strict=True)]
    return [*rows, too_long]


def _judged(what, kept):
    made = kept["made"]
    assert kept["counted"] == kept["kept"] == made, f"{what}: {kept}"
    assert kept["integrity"] == ["ok"], f"{what}: {kept}"
    assert kept["off_ms"] <= OFF_MS, f"{what}: {kept}"
    assert not kept["file"], f"{what}: {kept['file']}"
    assert kept["server"], f"{what}: {kept}"
    # What was delivered, and the disk went before that was noted: InfluxDB takes the same point twice as one.
    assert kept["sent_again"] <= SENT_AGAIN, f"{what}: {kept}"
    assert "journal: failing: " in kept["said"], f"{what}: {kept['said']}"
    inner = kept["blinks"][1:-1]
    assert len(inner) >= 6, f"{what}: L2 was {kept['blinks']}"
    for (level, seconds), (other, _) in itertools.pairwise(inner):
        assert level != other
        assert abs(seconds - 0.5) < 0.1, f"{what}: L2 was {kept['blinks']}"
    assert [level for level, _ in kept["after"]] == [1], f"{what}: L2 was {kept['after']}"
    found = (
        f"{made:,} flashes, {kept['in_memory']:,} of them in memory at the end; counted, in the journal, the file and "
        f"on the server {made:,} ({kept['sent_again']} came twice), times right to {kept['off_ms']:.1f} ms; "
        f"L2 1 Hz, then steady; reported: {kept['failing']}"
    )
    return Row(what, found, f"all, once; {OFF_MS} ms")


def _dropped(program):
    """Its status, once more than a second's pulses found no place; a busy machine may answer too late now and then."""
    done = program.run("--status", "--json")
    now = json.loads(done.stdout) if done.returncode == 0 else None
    return now and now["journal"]["dropped"] > PULSES_A_S and now


def _waiting(program):
    """How many pulses wait for the file; too many if the status does not come in time."""
    done = program.run("--status", "--json")
    waiting = json.loads(done.stdout)["writers"]["file"]["waiting"] if done.returncode == 0 else None
    return BOUND if waiting is None else waiting


def _too_long(directory):
    more = f"METERS = {{'house': {{'pin': 18, 'impulses_per_kwh': 1_000_000, 'max_watts': {2 * WATTS}}}}}"
    with Program(directory, f"{more}\nCOMMIT_INTERVAL = 1\nLOG_FILE = {str(directory / 'power.log')!r}") as program:
        program.foreground("--simulate", str(WATTS))
        path = wait_until(lambda: next(program.data_dir.rglob("journal.db"), None))
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] > PULSES_A_S)
        # The limit of the size of a file, as ulimit -f: a write beyond it fails.
        _, hard = resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
        assert hard == resource.RLIM_INFINITY, "the limit of the size of a file is set already"
        failing = wait_until(lambda: _dropped(program))
        memory = Path(f"/proc/{program.pid}/status").read_text()
        resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (hard, hard))
        wait_until(lambda: not program.status()["journal"]["failing"])
        # It gets its lines every 30 s, and then all there are.
        wait_until(lambda: _waiting(program) < BOUND / 2)
        assert program.run("--kill").returncode == 0
        log = (directory / "power.log").read_text()
    with contextlib.closing(sqlite3.connect(path)) as db:
        integrity = db.execute("PRAGMA integrity_check").fetchall()
        rows, last = db.execute("SELECT count(*), max(count) FROM pulses").fetchone()
    # The rest of what the file is to have comes with the next start, which makes no pulses of its own.
    lines = (path.parent / "power.csv").read_text().splitlines()[1:]
    energy_wh = math.fsum(float(line.split(",")[3]) for line in lines)
    register_kwh = float(lines[-1].split(",")[4])
    assert integrity == [("ok",)], integrity
    assert failing["journal"]["uncommitted"] == BOUND + 1, failing  # and the newest
    missing = last - rows
    assert missing >= failing["journal"]["dropped"], failing
    assert f"{missing} pulses did not fit into memory" in log, log
    # The file is as far as it is: there its energy is the register's, to less than a pulse of 1 mWh.
    assert register_kwh > (BOUND + missing) / 1_000_000, register_kwh
    assert abs(energy_wh / 1000 - register_kwh) < 1e-7, (energy_wh, register_kwh)
    rss_mib = int(re.search(r"VmRSS:\s+(\d+)", memory)[1]) / 1024
    return Row(
        f"writes fail for too long, {PULSES_A_S:,} pulses/s",
        f"{BOUND:,} pulses kept in memory ({rss_mib:.0f} MiB RSS), {missing:,} only counted, and reported; the "
        f"register and the file's energy right to the pulse",
        f"{BOUND:,}; to the pulse",
    )
