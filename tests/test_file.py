import csv
import datetime as dt
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from program import root_alone

from powermeter.errors import UnreachableError
from powermeter.meter import NS_PER_S, Pulse
from powermeter.writers.file import HEADER, FileWriter, csv_line

SRC = Path(__file__).parent.parent / "src"
START_NS = 1_795_418_000_123_456_789


@pytest.fixture
def path(tmp_path):
    """The path for the file, in an empty directory."""
    return tmp_path / "data" / "power.csv"


@pytest.fixture
def writer(path):
    """A writer to it."""
    writer = FileWriter(str(path))
    yield writer
    writer.close()


def deliver(writer, pulses, place=""):
    """Deliver as the delivery does, with a place made durable when asked for; return the last place."""
    for _ in range(4):
        receipt = writer.deliver(pulses, place)
        place, pulses = receipt.place, pulses[receipt.taken :]
        if not pulses:
            return place
    raise AssertionError("the writer takes nothing")


def expected(pulses):
    """The complete file for *pulses*."""
    return HEADER + b"".join(csv_line(pulse) for pulse in pulses)


# --- What is written


def test_numbers_and_times_read_back(writer, path, pulses):
    """Every number is read back as the same float, every time as the same ns; no power is an empty field."""
    sent = pulses(100)
    sent[5] = sent[5]._replace(time_ns=sent[5].time_ns // NS_PER_S * NS_PER_S + 7)
    deliver(writer, sent)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    for row, pulse in zip(rows, sent, strict=True):
        whole, ns = row["time"].rstrip("Z").split(".")
        assert len(ns) == 9
        seconds = dt.datetime.fromisoformat(whole + "+00:00").timestamp()
        assert int(seconds) * NS_PER_S + int(ns) == pulse.time_ns
        assert row["meter"] == pulse.meter
        assert (float(row["power_w"]) if row["power_w"] else None) == pulse.watts
        assert (float(row["energy_wh"]), float(row["register_kwh"])) == (pulse.watt_hours, pulse.register_kwh)
    assert rows[0]["power_w"] == ""


def test_the_line_of_the_promise(writer, path, pulses):
    """The header and a line are as documented, to the byte."""
    pulse = pulses(1)[0]._replace(time_ns=1795418000000000042, watts=1000.0, watt_hours=1.0, register_kwh=0.001)
    deliver(writer, [pulse])
    assert path.read_text() == (
        "time,meter,power_w,energy_wh,register_kwh\n2026-11-23T07:13:20.000000042Z,house,1000.0,1.0,0.001\n"
    )


def test_one_header(path, pulses):
    """The header is there once, after several batches and openings of the file."""
    sent, place = pulses(30), ""
    for start in range(0, 30, 5):
        writer = FileWriter(str(path))
        place = deliver(writer, sent[start : start + 5], place)
        writer.close()
    assert path.read_bytes() == expected(sent)


def test_others_may_not_read_it(writer, path, pulses):
    """The file shows when someone is at home: it is closed to others."""
    deliver(writer, pulses(1))
    assert path.stat().st_mode & 0o007 == 0
    assert path.parent.stat().st_mode & 0o007 == 0


# --- Rotated, deleted, emptied


def test_rotated_by_a_rename(writer, path, pulses):
    """After a rename the lines go on in a new file with its header, and the old one is left as it was."""
    sent = pulses(30)
    place = deliver(writer, sent[:10])
    old = path.rename(path.with_suffix(".csv.1"))
    place = deliver(writer, sent[10:20], place)
    place = deliver(writer, sent[20:], place)
    assert old.read_bytes() == expected(sent[:10])
    assert path.read_bytes() == expected(sent[10:])


def test_rotated_with_create(writer, path, pulses):
    """An empty file put in the place of the renamed one, as logrotate's create does, gets its header."""
    sent = pulses(20)
    place = deliver(writer, sent[:10])
    old = path.rename(path.with_suffix(".csv.1"))
    path.touch()
    deliver(writer, sent[10:], place)
    assert old.read_bytes() == expected(sent[:10])
    assert path.read_bytes() == expected(sent[10:])


def test_rotated_while_not_running(path, pulses):
    """The place shows a rotation between two runs."""
    sent = pulses(20)
    first, second = FileWriter(str(path)), FileWriter(str(path))
    place = deliver(first, sent[:10])
    first.close()
    old = path.rename(path.with_suffix(".csv.1"))
    deliver(second, sent[10:], place)
    second.close()
    assert old.read_bytes() == expected(sent[:10])
    assert path.read_bytes() == expected(sent[10:])


def test_rotated_between_asking_for_the_place_and_the_lines(writer, path, pulses):
    """A rotation before the first line of a new file makes another new one, each with its header."""
    sent = pulses(10)
    receipt = writer.deliver(sent, "")
    assert receipt.taken == 0
    old = path.rename(path.with_suffix(".csv.1"))
    deliver(writer, sent, receipt.place)
    assert old.read_bytes() == HEADER
    assert path.read_bytes() == expected(sent)


def test_deleted(writer, path, pulses):
    """A file that was deleted is created again with its header, and so is its directory."""
    sent = pulses(20)
    place = deliver(writer, sent[:5])
    path.unlink()
    place = deliver(writer, sent[5:10], place)
    assert path.read_bytes() == expected(sent[5:10])
    shutil.rmtree(path.parent)
    deliver(writer, sent[10:], place)
    assert path.read_bytes() == expected(sent[10:])


def test_emptied(writer, path, pulses):
    """A file that was emptied gets its header again."""
    sent = pulses(20)
    place = deliver(writer, sent[:10])
    os.truncate(path, 0)
    deliver(writer, sent[10:], place)
    assert path.read_bytes() == expected(sent[10:])


def test_what_others_append_stays(writer, path, pulses):
    """A line that someone else appended stays, and gets its end before ours begin."""
    sent = pulses(20)
    place = deliver(writer, sent[:10])
    with path.open("ab") as file:
        file.write(b"# a note without an end")
    deliver(writer, sent[10:], place)
    assert path.read_bytes() == expected(sent[:10]) + b"# a note without an end\n" + expected(sent[10:])[len(HEADER) :]


def test_what_others_had_there_stays(path, pulses):
    """A file that existed before is continued, and nothing in it is lost."""
    path.parent.mkdir()
    path.write_bytes(b"an older file")
    writer = FileWriter(str(path))
    deliver(writer, pulses(3))
    writer.close()
    assert path.read_bytes() == b"an older file\n" + expected(pulses(3))[len(HEADER) :]


# --- What can't be written


def in_the_way(path, kind):
    """Put something in the way of *path*; return the path to write to and how to take it away."""
    path.parent.mkdir()
    if kind == "a directory":
        path.mkdir()
        return path, path.rmdir
    if kind == "below a file":
        path.touch()
        return path / "power.csv", path.unlink
    os.mkfifo(path)
    return path, path.unlink


@pytest.mark.parametrize("kind", ["a directory", "below a file", "a pipe"])
def test_in_the_way(path, pulses, kind):
    """An obstacle is reported with the path and in words; once it is gone, the lines are written."""
    path, take_away = in_the_way(path, kind)
    writer = FileWriter(str(path))
    with pytest.raises(UnreachableError, match=str(path)):
        deliver(writer, pulses(3))
    take_away()
    deliver(writer, pulses(3))
    writer.close()
    assert path.read_bytes() == expected(pulses(3))


@pytest.mark.parametrize("kind", ["a directory", "below a file", "a pipe"])
def test_check_sees_what_is_in_the_way(path, kind):
    """A check fails where a delivery would."""
    path, _ = in_the_way(path, kind)
    writer = FileWriter(str(path))
    with pytest.raises(UnreachableError, match=str(path.parent)):
        writer.check()


def test_check_leaves_nothing(writer, path, pulses):
    """A check creates neither file nor directory, and changes no file."""
    assert writer.check() == str(path)
    assert not path.parent.exists()
    deliver(writer, pulses(3))
    before = path.stat()
    writer.check()
    assert path.stat() == before


def test_full_device(path, pulses):
    """A full device is reported in words."""
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    writer = FileWriter(str(path))
    with pytest.raises(UnreachableError, match="No space left"):
        deliver(writer, pulses(3))
    writer.close()


@root_alone
def test_link_of_another_user(writer, path, pulses):
    """A link that another user has made is not followed, at the start, after a rotation, or by a check."""
    victim = path.parent.parent / "victim"
    victim.write_text("")
    place = deliver(writer, pulses(3))
    path.unlink()
    path.symlink_to(victim)
    os.lchown(path, 54321, 54321)
    for use in (writer.check, lambda: deliver(writer, pulses(6)[3:], place)):
        with pytest.raises(UnreachableError, match=f"{path} belongs to .*54321, and is not followed"):
            use()
    assert victim.read_text() == ""


def test_link_of_one_s_own(writer, path, pulses):
    """A link of the user's own is followed, even if its file has to be created."""
    path.parent.mkdir()
    (path.parent / "stick").mkdir()
    path.symlink_to("stick/power.csv")
    deliver(writer, pulses(3))
    assert (path.parent / "stick" / "power.csv").read_bytes() == expected(pulses(3))


def test_much_that_others_appended(writer, path, pulses):
    """If somebody else made the file much longer, what was appended stays, and is not read into memory."""
    place = deliver(writer, pulses(3))
    with path.open("ab") as file:
        file.writelines([b"# a note\n" * 100_000] * 10)
        file.write(b"a long one " * 1_000_000)
    before = path.read_bytes()
    tracemalloc.start()
    deliver(writer, pulses(6)[3:], place)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert path.read_bytes() == before + b"\n" + b"".join(csv_line(pulse) for pulse in pulses(6)[3:])


def test_link_to_another_directory_is_synced_there(writer, path, pulses, monkeypatch):
    """A new file's name is made durable where the file is, which may be another disk than the link's."""
    path.parent.mkdir()
    (path.parent / "stick").mkdir()
    path.symlink_to("stick/power.csv")
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), sync(fd)))
    deliver(writer, pulses(3))
    assert synced == [(path.parent / "stick").stat().st_ino]


#: Delivers the pulses in batches of 4; a limit of size, as a full disk, stands until a delivery failed.
WITH_A_LIMIT = """
import resource, sys
from powermeter.errors import UnreachableError
from powermeter.meter import Pulse
from powermeter.writers.file import FileWriter

path, limit, restarts = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "restart"
pulses = [Pulse("house", n, 1795418000123456789 + n * 10**9, 1000.5, 1.0, n / 1000) for n in range(1, 21)]
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
writer, place, failures = FileWriter(path), "", 0
while pulses:
    try:
        receipt = writer.deliver(pulses[:4], place)
    except UnreachableError as error:
        assert path in str(error) and "File too large" in str(error), error
        failures += 1
        if failures == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        if restarts:
            writer.close()
            writer = FileWriter(path)
    else:
        place, pulses = receipt.place, pulses[receipt.taken:]
assert failures == 3, failures
"""


@pytest.mark.parametrize("restart", ["restart", "same"])
@pytest.mark.parametrize("limit", [0, 1, 20, len(HEADER), len(HEADER) + 1, 150, 300, 330])
def test_full_disk(path, pulses, limit, restart):
    """A disk that fills up at any point, even in the header, leaves nothing torn: later each line is there once."""
    command = [sys.executable, "-c", WITH_A_LIMIT, str(path), str(limit), restart]
    environment = {"PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    some = pulses(1)[0]._replace(watts=1000.5, watt_hours=1.0)
    sent = [some._replace(time_ns=1795418000123456789 + n * NS_PER_S, register_kwh=n / 1000) for n in range(1, 21)]
    assert path.read_bytes() == expected(sent)


def test_full_disk_leaves_whole_lines(path, tmp_path):
    """While the disk is full, the file ends with a whole line, for the programs that read it."""
    script = WITH_A_LIMIT.replace("failures += 1", "sys.exit(7)")
    command = [sys.executable, "-c", script, str(path), "500", "same"]
    environment = {"PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    content = path.read_bytes()
    assert content.startswith(HEADER)
    assert content.endswith(b"\n")


# --- After a crash


def each_line_once(directory, pulses):
    """Assert that the files of *directory*, in the order of their names, have each pulse once, in order."""
    lines = []
    for file in sorted(directory.iterdir(), reverse=True):
        content = file.read_bytes()
        assert content.startswith(HEADER)
        assert content.endswith(b"\n")
        lines += content[len(HEADER) :].splitlines(keepends=True)
    assert lines == [csv_line(pulse) for pulse in pulses]


def crashed(noted, written, cut, *, nuls, rotation):
    """
    A crash while the pulses from *noted* to *written* were written, and a second run that delivers all.

    The file keeps all but *cut* bytes of what was not noted, with *nuls* instead of them where it only
    got longer. *rotation*: after the crash it is renamed, and an empty one put there with "create".
    """
    pulses = [
        Pulse("house", n, START_NS + n * 3_000_000_007, 1000 / n if n > 1 else None, 1.25, n / 800)
        for n in range(1, 13)
    ]
    directory = Path(tempfile.mkdtemp(prefix="power-"))
    try:
        path = directory / "power.csv"
        first, second = FileWriter(str(path)), FileWriter(str(path))
        place = deliver(first, pulses[:noted]) if noted else first.deliver(pulses, "").place
        noted_size = path.stat().st_size
        deliver(first, pulses[noted:written], place)
        first.close()
        size = path.stat().st_size
        os.truncate(path, max(noted_size, size - cut))
        if nuls:
            os.truncate(path, size)
        if rotation:
            path.rename(directory / "power.csv.1")
        if rotation == "create":
            path.touch()
        # What comes again may be more than what came, as pulses went on.
        deliver(second, pulses[noted:], place)
        second.close()
        each_line_once(directory, pulses)
    finally:
        shutil.rmtree(directory)


@settings(max_examples=200)
@given(
    noted=st.integers(0, 5),
    more=st.integers(1, 5),
    cut=st.integers(0, 400),
    rotation=st.sampled_from([None, "rename", "create"]),
)
def test_crash_anywhere(noted, more, cut, rotation):
    """Whatever part of a batch a crash left in the file, rotated or not, each line is there once and complete."""
    crashed(noted, noted + more, cut, nuls=False, rotation=rotation)


@settings(max_examples=200)
@given(
    noted=st.integers(0, 5),
    more=st.integers(1, 5),
    cut=st.integers(0, 400),
    rotation=st.sampled_from([None, "rename", "create"]),
)
def test_power_cut_anywhere(noted, more, cut, rotation):
    """The same with NULs in place of what the file system had no time to write."""
    crashed(noted, noted + more, cut, nuls=True, rotation=rotation)


def test_crash_in_a_block(path, pulses):
    """NULs after whole lines, which a power cut leaves if one block was written and the next not, are cut off."""
    sent = pulses(200)
    first, second = FileWriter(str(path)), FileWriter(str(path))
    place = deliver(first, sent[:20])
    deliver(first, sent[20:], place)
    first.close()
    size = path.stat().st_size
    os.truncate(path, 4096)
    os.truncate(path, size)
    deliver(second, sent[20:], place)
    second.close()
    assert path.read_bytes() == expected(sent)


@pytest.mark.parametrize("kept", range(0, len(HEADER), 5))
def test_crash_in_the_header(path, pulses, kept):
    """A header that a crash tore is complete in the end."""
    path.parent.mkdir()
    path.write_bytes(HEADER[:kept])
    writer = FileWriter(str(path))
    deliver(writer, pulses(3))
    writer.close()
    assert path.read_bytes() == expected(pulses(3))


@pytest.mark.parametrize("gone", ["emptied", "deleted"])
def test_crash_after_the_file_was_emptied(path, pulses, gone):
    """Lines written before a crash but not noted are there once, even if the file was emptied or deleted."""
    sent = pulses(20)
    first, second = FileWriter(str(path)), FileWriter(str(path))
    place = deliver(first, sent[:10])
    if gone == "emptied":
        os.truncate(path, 0)
    else:
        path.unlink()
    receipt = first.deliver(sent[10:], place)
    if not receipt.taken:
        place = receipt.place
        first.deliver(sent[10:], place)
    first.close()
    # The crash: the place of the last receipt was not noted.
    deliver(second, sent[10:], place)
    second.close()
    assert path.read_bytes() == expected(sent[10:])


def test_crash_in_a_block_before_another(path, pulses):
    """The same if a later block was written: each line is there once."""
    sent = pulses(300)
    first, second = FileWriter(str(path)), FileWriter(str(path))
    place = deliver(first, sent[:20])
    deliver(first, sent[20:], place)
    first.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    deliver(second, sent[20:], place)
    second.close()
    assert path.read_bytes() == expected(sent)


def test_crash_with_many_batches_not_noted(path, pulses):
    """Far more lines than a batch, written but not noted while the writer catches up, are there only once."""
    sent = pulses(40)
    first, second = FileWriter(str(path)), FileWriter(str(path))
    noted = place = deliver(first, sent[:5])
    for start in range(5, 30, 5):
        place = deliver(first, sent[start : start + 5], place)
    first.close()
    os.truncate(path, path.stat().st_size - 9)
    for start in range(5, 40, 7):
        noted = deliver(second, sent[start : start + 7], noted)
    second.close()
    assert path.read_bytes() == expected(sent)


@pytest.mark.parametrize("batch", [2, 3, 4, 100])
@pytest.mark.parametrize("cut", [0, 9, 100, 300])
def test_crash_with_pulses_of_two_meters(path, pulses, batch, cut):
    """Lines that come again in another order, because of an earlier pulse of another meter, are there only once."""
    house, pump = pulses(8), pulses(2, "pump")
    first, second = FileWriter(str(path)), FileWriter(str(path))
    place = deliver(first, house[:2])
    deliver(first, [*house[2:5], pump[0], *house[5:7]], place)
    first.close()
    os.truncate(path, path.stat().st_size - cut)
    again = [*house[2:4], pump[0], *house[4:], pump[1]]
    while again:
        receipt = second.deliver(again[:batch], place)
        place, again = receipt.place, again[receipt.taken :]
    second.close()
    lines = path.read_bytes()[len(HEADER) :].splitlines(keepends=True)
    assert sorted(lines) == sorted(csv_line(pulse) for pulse in [*house, *pump])


def test_power_cut_and_back_to_a_copy(path, pulses):
    """NULs in place of lines that do not come again are cut off, too."""
    sent = pulses(20)
    first, second = FileWriter(str(path)), FileWriter(str(path))
    place = deliver(first, sent[:10])
    deliver(first, sent[10:15], place)
    first.close()
    os.truncate(path, path.stat().st_size + 100_000)
    deliver(second, sent[15:], place)
    second.close()
    assert path.read_bytes() == expected(sent)


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("more", [0, 2])
def test_back_to_a_copy_of_the_journal(path, pulses, batch, rotation, more):
    """No line is lost that the copy does not have; those that come again, as none was noted, are there only once."""
    sent = pulses(20)
    first, second = FileWriter(str(path)), FileWriter(str(path))
    place = deliver(first, sent[:10])
    deliver(first, sent[10:], place)
    first.close()
    if rotation:
        path.rename(path.with_suffix(".csv.1"))
    # Those that are in the copy and not noted there, and other ones that are counted from there on.
    new = [pulse._replace(time_ns=pulse.time_ns + 3600 * NS_PER_S) for pulse in sent[10 + more :]]
    again = [*sent[10 : 10 + more], *new]
    for start in range(0, len(again), batch):
        place = deliver(second, again[start : start + batch], place)
    second.close()
    each_line_once(path.parent, [*sent, *new])


def test_crash_and_what_others_appended(path, pulses):
    """What someone else appended after a crash stays, after our lines that the crash left."""
    sent = pulses(20)
    first, second = FileWriter(str(path)), FileWriter(str(path))
    place = deliver(first, sent[:10])
    deliver(first, sent[10:15], place)
    first.close()
    with path.open("ab") as file:
        file.write(b"# a note\n")
    deliver(second, sent[10:], place)
    second.close()
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines.count(b"# a note\n") == 1
    assert [line for line in lines if line != b"# a note\n"] == expected(sent).splitlines(keepends=True)


def test_what_has_the_old_inode_by_chance_is_left_alone(tmp_path, writer_of, pulses):
    """Another file beside the CSV that has the number of its last inode is neither truncated nor opened."""
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"of another program" + bytes(100))
    place = f"{stranger.stat().st_ino} 50"
    writer = writer_of("file", path=str(tmp_path / "power.csv"))
    receipt = writer.deliver(pulses(3), place)
    assert receipt.taken == 0
    assert writer.deliver(pulses(3), receipt.place).taken == 3
    assert stranger.read_bytes() == b"of another program" + bytes(100)


# --- Whatever happens to the files


def renumbered(directory):
    """Give every file of *directory* another inode, as FAT and exFAT do at every mount."""
    for path in sorted(directory.iterdir()):
        copy = path.with_name(".copy")
        shutil.copy2(path, copy)
        copy.rename(path)


class Files(RuleBasedStateMachine):
    """
    CSV writers in one directory that get the same pulses, and all that happens to files, in any order.

    What was delivered may be noted, or a crash forgets it and leaves a part of what was written; the disk is mounted
    again, even under the running program; the files are renamed, copied, written to by others.
    """

    names = ("power.csv", "spare.csv", "power.csv.old")

    @property
    def alone(self):
        """Whether a file may get any name: if other writers have files, too, nobody could tell whose it is."""
        return len(self.names) == 1

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="power-"))
        #: By writer: the files that were its own, in order; what is noted of it, and how many pulses it has then.
        self.renamed = {name: [] for name in self.names}
        self.places = dict.fromkeys(self.names, "")
        self.noted = dict.fromkeys(self.names, 0)
        #: What the running program knows beyond that, and the size that the noted pulses end at.
        self.now = dict.fromkeys(self.names, ("", 0))
        self.made = 0
        self.rotations = 0
        self.start()

    @property
    def pulses(self):
        return [
            Pulse("house", n, START_NS + n * 3_000_000_007, 1000 / n if n > 1 else None, 1.25, n / 800)
            for n in range(1, self.made + 1)
        ]

    def start(self):
        paths = [str(self.directory / name) for name in self.names]
        self.writers = {
            name: FileWriter(path, others=[other for other in paths if other != path])
            for name, path in zip(self.names, paths, strict=True)
        }

    @rule(more=st.integers(1, 4), which=st.integers(0, 2), batch=st.integers(1, 5))
    def deliver(self, more, which, batch):
        """Pulses come, and some of what waits for a writer goes out."""
        name = self.names[which % len(self.names)]
        self.made += more
        place, reached = self.now[name]
        receipt = self.writers[name].deliver(self.pulses[reached : reached + batch], place)
        if receipt.taken == 0:  # its place is made durable
            self.places[name], self.noted[name] = receipt.place, reached
        self.now[name] = receipt.place, reached + receipt.taken

    @rule(which=st.integers(0, 2))
    def note(self, which):
        """A commit saves the place."""
        name = self.names[which % len(self.names)]
        self.places[name], self.noted[name] = self.now[name]

    @rule(cut=st.integers(0, 200), nuls=st.booleans(), mounted=st.booleans())
    def crash(self, cut, nuls, mounted):
        """The program ends; if the power goes, too, what was not synced may be torn: here, what is not noted."""
        for name in self.names:
            self.writers[name].close()
            path = self.directory / name
            # Only what was written last can be torn, and none of what is noted.
            if path.exists() and (size := path.stat().st_size) > (least := self._least(name)):
                os.truncate(path, max(least, size - cut))
                if nuls:
                    os.truncate(path, size)
            self.now[name] = self.places[name], self.noted[name]
        if mounted:
            renumbered(self.directory)
        self.start()

    def _least(self, name):
        """Where the noted lines end in the file that has this name now."""
        noted = {csv_line(pulse) for pulse in self.pulses[: self.noted[name]]}
        end = at = 0
        for line in (self.directory / name).read_bytes().splitlines(keepends=True):
            at += len(line)
            if line in noted or line == HEADER or line.startswith(b"#"):
                end = at
        return end

    @rule()
    def mount(self):
        """The disk goes and comes back under the running program, with other numbers of its files."""
        renumbered(self.directory)

    @rule(which=st.integers(0, 2), create=st.booleans(), freely=st.booleans())
    def rotate(self, which, create, freely):
        """The file is renamed, by logrotate or somebody else; an empty one may be put in its place."""
        name = self.names[which % len(self.names)]
        path = self.directory / name
        if not path.exists():
            return
        self.rotations += 1
        to = self.directory / (f"march{self.rotations}.csv" if freely and self.alone else f"{name}.{self.rotations}")
        path.rename(to)
        self.renamed[name].append(to)
        if create:
            path.touch()

    @precondition(lambda self: (self.directory / "power.csv").exists())
    @rule()
    def copied(self):
        """Somebody copies the file, and the copy takes its place."""
        path = self.directory / "power.csv"
        shutil.copy(path, self.directory / ".new")
        (self.directory / ".new").rename(path)

    @precondition(lambda self: (self.directory / "power.csv").exists())
    @rule(end=st.sampled_from([b"\n", b""]))
    def others(self, end):
        """Somebody else appends a note."""
        path = self.directory / "power.csv"
        if path.read_bytes().endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"# a note" + end)

    @invariant()
    def each_line_once(self):
        """No line is in the files twice."""
        for name in self.names:
            lines = self._lines(name)
            assert len(set(lines)) == len(lines), name

    def _lines(self, name):
        paths = [*self.renamed[name], self.directory / name]
        lines = [line for path in paths if path.exists() for line in path.read_bytes().splitlines(keepends=True)]
        return [line for line in lines if line.startswith(b"2026") and line.endswith(b"\n")]

    def teardown(self):
        """In the end each writer has each pulse once, whole, and every note is still there."""
        self.made += 1
        for name in self.names:
            place, reached = self.now[name]
            deliver(self.writers[name], self.pulses[reached:], place)
            assert sorted(self._lines(name)) == sorted(csv_line(pulse) for pulse in self.pulses), name
            for path in [*self.renamed[name], self.directory / name]:
                last = path.read_bytes().splitlines(keepends=True)[-1:]
                assert not last or last[0].endswith(b"\n") or last[0].startswith(b"#"), f"torn: {path}"
            self.writers[name].close()
        shutil.rmtree(self.directory)


class OneFile(Files):
    """The same with one writer, whose file may get any name."""

    names = ("power.csv",)


TestFiles = Files.TestCase
TestOneFile = OneFile.TestCase
TestFiles.settings = TestOneFile.settings = settings(max_examples=150, stateful_step_count=25)
