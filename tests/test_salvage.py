"""A journal that is damaged, deleted or away: what is saved of it, and that counting goes on."""

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
from program import PATIENCE_S, Program, wait_until

from powermeter.errors import DamagedError, JournalError, StoppedError
from powermeter.journal import salvage
from powermeter.journal.journal import Journal, Row
from powermeter.meter import NS_PER_S

START_NS = 1_795_418_000 * NS_PER_S
METERS = {"house": 1000, "pump": 800}
PULSES = 40_000
WAITING = 3000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A journal of two meters, whose writer has not got the last pulses yet."""
    path = tmp_path_factory.mktemp("whole") / "journal.db"
    with Journal(str(path)) as journal:
        keys = [journal.enter(name, impulses).name for name, impulses in METERS.items()]
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            for first in range(1, PULSES, 1000):
                rows = [
                    Row(key, number, START_NS + number * NS_PER_S, NS_PER_S)
                    for key in keys
                    for number in range(first, first + 1000)
                ]
                if first == PULSES - WAITING + 1:
                    while batch := cursor.read(10_000):
                        cursor.advance(batch, "12 34")
                journal.append(rows)
    assert not path.with_name("journal.db-wal").exists()
    return path


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy to damage."""
    return Path(shutil.copy(whole, tmp_path / "journal.db"))


def registers(journal):
    return {name: round(journal.enter(name, impulses).constant.register_at(journal.enter(name, impulses).count), 6)
            for name, impulses in METERS.items()}  # fmt: skip


def waiting(journal):
    with contextlib.closing(journal.add_cursor("file")) as cursor:
        assert cursor.position.place == "12 34"
        return cursor.read(10_000)


def aside(path):
    """The file that was set aside, which is the one there is."""
    (found,) = [name for name in path.parent.glob("journal.db.damaged-*") if not name.name.endswith(("-wal", "-shm"))]
    return found


WHOLE = {"house": 40.0, "pump": 50.0}


def test_a_sound_journal_is_left_as_it_is(damaged, whole):
    """Nothing is set aside of a journal that is sound; looked over as a whole, on a suspicion, either."""
    for suspect in (False, True):
        with salvage.open_journal(str(damaged), METERS, suspect=suspect) as journal:
            assert registers(journal) == WHOLE
    assert sorted(path.name for path in damaged.parent.iterdir()) == ["journal.db"]


@pytest.mark.parametrize("content", [bytes(4096), b"\xa5" * 4096, b"time,meter,power_w\n" * 1000])
def test_a_damaged_first_page_costs_nothing(damaged, content, caplog):
    """Where the first page is gone, SQLite's own and the tables' names, all the others are read by a new one."""
    before = bytearray(damaged.read_bytes())
    before[:4096] = content[:4096]
    damaged.write_bytes(before)
    with pytest.raises(DamagedError):
        Journal(str(damaged))
    with salvage.open_journal(str(damaged), METERS) as journal:
        assert registers(journal) == WHOLE
        numbers = [pulse.number for pulse in waiting(journal) if pulse.meter == "house"]
        assert numbers == list(range(PULSES - WAITING + 1, PULSES + 1))
    assert aside(damaged).read_bytes() == before
    assert "house goes on from 40.000 kWh; of its last 40,000 pulses 40,000 could be saved" in caplog.text


def test_a_damaged_page_in_the_middle_costs_what_stood_in_it(damaged, caplog):
    """A destroyed page of pulses is found when it is read: the pulses before and after it are saved."""
    with contextlib.closing(sqlite3.connect(damaged)) as connection:
        connection.execute("PRAGMA page_size").fetchone()
    with Journal(str(damaged)) as journal:
        journal.note({"mqtt offset house": "7"})
        known = journal.about()
    size = damaged.stat().st_size
    content = bytearray(damaged.read_bytes())
    at = size // 4096 // 2 * 4096
    content[at : at + 4096] = bytes(4096)
    damaged.write_bytes(content)
    Journal(str(damaged)).close()  # it does not show at once
    with salvage.open_journal(str(damaged), METERS, suspect=True) as journal:
        assert registers(journal) == WHOLE
        assert journal.about() == known
        kept = journal._connection.execute("SELECT count(*) FROM pulses").fetchone()[0]
        assert 2 * PULSES - 300 < kept < 2 * PULSES
        assert journal._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert aside(damaged).read_bytes() == content


@pytest.mark.parametrize("part", [0.9, 0.5, 0.1])
def test_a_journal_that_was_cut_off_goes_on_from_what_is_readable(damaged, part):
    """If the end of the file is gone, its beginning is read; the cursors tell how far it went."""
    content = damaged.read_bytes()[: int(damaged.stat().st_size * part)]
    damaged.write_bytes(content)
    with salvage.open_journal(str(damaged), METERS, suspect=True) as journal:
        found = registers(journal)
        # What the writer had got is known to have been; what it had not is gone with the end.
        assert 37.0 <= found["house"] <= 40.0
        assert 46.25 <= found["pump"] <= 50.0
        assert journal._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert aside(damaged).read_bytes() == content


@pytest.mark.parametrize("seed", range(25))
def test_a_journal_damaged_anywhere_opens(damaged, seed):
    """Whatever bytes are others: it opens, with a register that does not exceed what was, and takes pulses."""
    chance = random.Random(seed)
    content = bytearray(damaged.read_bytes())
    for _ in range(chance.choice([1, 10, 300])):
        at = chance.randrange(len(content))
        content[at : at + chance.choice([1, 8, 512])] = chance.randbytes(chance.choice([1, 8, 512]))
    content = content[: damaged.stat().st_size]
    damaged.write_bytes(content)
    with salvage.open_journal(str(damaged), METERS, suspect=True) as journal:
        known = journal.enter("house", 1000)
        journal.append([Row(known.name, known.count + 1, START_NS, None)])
    names = {path.name for path in damaged.parent.iterdir()}
    assert not [name for name in names if name.endswith((".new", ".making", ".copy"))]
    assert len([name for name in names if ".damaged-" in name]) <= 1


def test_a_disk_that_fails_before_the_new_one_is_in_its_place(damaged, monkeypatch):
    """It is an error as any of the journal's, in the first try and in the next; once it can be it is put there."""
    damaged.write_bytes(b"\xa5" * damaged.stat().st_size)
    rename = os.rename

    def fails(source, target):
        if str(source).endswith(".new"):
            raise OSError(errno.EROFS, "Read-only file system")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        for reason in ("a new one can't be made", "the new one can't be put in its place"):
            with pytest.raises(JournalError, match=f"{reason}: .*Read-only file system"):
                salvage.open_journal(str(damaged), METERS)
    with salvage.open_journal(str(damaged), METERS) as journal:
        assert set(registers(journal)) == set(METERS)
    assert aside(damaged).read_bytes()[:1] == b"\xa5"


def damage_table(path, table):
    """Make noise of the first page of *table*, which is the only one of a small table."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


def test_a_writer_whose_place_is_lost(damaged):
    """How far it was is known: it gets what waited for it, and asks its service, or its file, for a new place."""
    damage_table(damaged, "writers")
    with salvage.open_journal(str(damaged), METERS) as journal:
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            assert cursor.position.place == ""
            assert len(cursor.read(10_000)) == 2 * WAITING
        assert journal._connection.execute("SELECT name FROM writers").fetchall() == [("file",)]


def test_a_writer_whose_counts_are_lost(damaged, caplog):
    """Its position is lost: it gets only pulses from now on and nothing a second time, which is logged."""
    damage_table(damaged, "cursors")
    with salvage.open_journal(str(damaged), METERS) as journal:
        known = journal.enter("house", 1000)
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            assert cursor.read(10_000) == []
            journal.append([Row(known.name, known.count + 1, START_NS, None)])
            assert [pulse.number for pulse in cursor.read(10_000)] == [PULSES + 1]
    assert "the position of file can't be read: it gets only pulses from now on" in caplog.text


def asked_in_one_go(damaged):
    """How often it is asked whether to stop, once for each page at least, while a copy of *damaged* is saved."""
    asked = []
    with tempfile.TemporaryDirectory() as directory:
        copy = shutil.copy(damaged, directory)
        salvage.open_journal(copy, METERS, suspect=True, stopped=lambda: bool(asked.append(1))).close()
    return len(asked)


@pytest.mark.parametrize("killed_at", [(1,), (160, 160), (320, 240, 160, 40), (40, 40, 40, 40)])
@pytest.mark.parametrize("first_page", [True, False])
def test_saving_goes_on_where_it_was_killed(damaged, monkeypatch, killed_at, first_page):
    """Killed once or several times while it reads, it is done in the end, and what was read is not read again."""
    monkeypatch.setattr(salvage, "NOTED_PAGES", 8)
    content = bytearray(damaged.read_bytes())
    at = 0 if first_page else len(content) // 4096 // 2 * 4096
    content[at : at + 4096] = bytes(4096)
    damaged.write_bytes(content)
    in_one_go = asked_in_one_go(damaged)
    for number in killed_at:
        if (child := os.fork()) == 0:
            left = iter(range(number - 1))
            stopped = lambda left=left: next(left, None) is None and os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            salvage.open_journal(str(damaged), METERS, suspect=True, stopped=stopped)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    asked = []
    stopped = lambda: bool(asked.append(1))  # noqa: E731
    with salvage.open_journal(str(damaged), METERS, suspect=True, stopped=stopped) as journal:
        assert registers(journal) == WHOLE
        kept = journal._connection.execute("SELECT count(*) FROM pulses").fetchone()[0]
        assert 2 * PULSES - 300 < kept <= 2 * PULSES
        assert journal._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not journal._connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'salvage'").fetchone()
    # A killed one reads again what it had not noted yet.
    assert in_one_go > 2 * (len(content) // 4096 - 1)
    assert len(asked) + sum(killed_at) <= in_one_go + len(killed_at) * (salvage.NOTED_PAGES + 1)
    assert sorted(path.name for path in damaged.parent.iterdir() if "damaged" not in path.name) == ["journal.db"]


def test_what_was_begun_from_another_file_is_not_gone_on_with(damaged, whole, monkeypatch):
    """A new journal that was begun from a file that is another one now is begun again."""
    monkeypatch.setattr(salvage, "NOTED_PAGES", 8)
    damaged.write_bytes(bytes(4096) + damaged.read_bytes()[4096:])

    left = iter(range(1000))  # near the end of the second reading
    with pytest.raises(StoppedError):
        salvage.open_journal(str(damaged), METERS, stopped=lambda: next(left, None) is None)
    assert damaged.with_name("journal.db.making").exists()
    damaged.write_bytes(bytes(4096) + whole.read_bytes()[4096 : len(whole.read_bytes()) // 2 // 4096 * 4096])
    with salvage.open_journal(str(damaged), METERS) as journal:
        kept = journal._connection.execute("SELECT count(*) FROM pulses").fetchone()[0]
        assert kept < 1.1 * PULSES


def test_saving_takes_no_memory_by_size(damaged):
    """Of a journal of megabytes a page is held at a time, however many pulses are saved."""
    damage_table(damaged, "writers")
    assert damaged.stat().st_size > 2_000_000
    tracemalloc.start()
    with salvage.open_journal(str(damaged), METERS) as journal:
        assert tracemalloc.get_traced_memory()[1] < 500_000
        assert journal._connection.execute("SELECT count(*) FROM pulses").fetchone() == (2 * PULSES,)
    tracemalloc.stop()


def test_a_clock_that_was_set_back_is_known_after_saving(tmp_path):
    """Where time steps back between two pulses, spans are found by a step there, in the new journal too."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        key = journal.enter("house", 1000).name
        journal.append([Row(key, number, (number if number < 51 else number - 30) * NS_PER_S, NS_PER_S)
                        for number in range(1, 101)], START_NS)  # fmt: skip
    damage_table(path, "steps")
    with salvage.open_journal(str(path), METERS) as journal:
        assert journal._connection.execute("SELECT name, count FROM steps NATURAL JOIN meters").fetchall() == [
            (key, 51)
        ]


def test_a_journal_that_could_not_be_written_again(damaged, whole):
    """What a full disk let be written of a deleted journal is not taken for one: the copy that is put there counts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(str(damaged)) as journal:
        damaged.unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_960, hard))
        try:
            with pytest.raises(sqlite3.Error):
                journal.write_again()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(damaged.parent.iterdir()) == []
    shutil.copy(whole, damaged)
    with salvage.open_journal(str(damaged), METERS) as journal:
        assert registers(journal) == WHOLE
    assert [path.name for path in damaged.parent.iterdir()] == ["journal.db"]


def test_a_journal_is_written_again_after_a_crash_of_that(damaged):
    """What a crash left of a journal that was being written again is no hindrance."""
    damaged.with_name("journal.db.making").write_bytes(b"a part")
    with Journal(str(damaged)) as journal:
        damaged.unlink()
        journal.write_again()
    with salvage.open_journal(str(damaged), METERS) as journal:
        assert registers(journal) == WHOLE
    assert [path.name for path in damaged.parent.iterdir()] == ["journal.db"]


def test_a_count_that_is_damaged_is_not_believed(damaged):
    """The last count of a meter, in the midst of a page, where the next meter begins: no register that never was."""
    content = damaged.read_bytes()
    time = (START_NS + PULSES * NS_PER_S).to_bytes(8)
    right, wrong = (count.to_bytes(3) + time for count in (PULSES, PULSES + 14))
    assert content.count(right) == len(METERS)
    damaged.write_bytes(b"x" + content[1:].replace(right, wrong))
    with salvage.open_journal(str(damaged), METERS) as journal:
        counts = [journal.enter(name, impulses).count for name, impulses in METERS.items()]
    assert counts == [PULSES - 1, PULSES - 1]


def test_a_crash_while_a_new_one_takes_its_place(damaged, monkeypatch):
    """A program that was ended between two renames: the next start goes on where it was."""
    content = b"x" + damaged.read_bytes()[1:]
    damaged.write_bytes(content)
    renamed = []

    def crashing(old, new):
        renamed.append(new)
        if len(renamed) == 3:
            raise KeyboardInterrupt
        os.replace(old, new)

    monkeypatch.setattr(salvage.os, "rename", crashing)
    with pytest.raises(KeyboardInterrupt):
        salvage.open_journal(str(damaged), METERS)
    monkeypatch.undo()
    with salvage.open_journal(str(damaged), METERS) as journal:
        assert registers(journal) == WHOLE
    assert aside(damaged).read_bytes() == content


@pytest.mark.parametrize(
    ("before", "after"), [(b"time_ns INTEGER", b"time_ns INTEGFR"), (b"TABLE pulses", b"TABLE pulsez")]
)
def test_a_schema_with_flipped_bytes(damaged, before, after):
    """A schema that differs in single bytes is damage, and not believed: all else is read by a new one."""
    content = damaged.read_bytes()
    damaged.write_bytes(content[:4096].replace(before, after) + content[4096:])
    assert damaged.read_bytes() != content
    with salvage.open_journal(str(damaged), METERS) as journal:
        assert registers(journal) == WHOLE
        assert len(waiting(journal)) == 2 * WAITING
    aside(damaged)


def test_a_text_without_an_end(damaged):
    """A place that is longer than any is lost, and costs nothing else."""
    with contextlib.closing(sqlite3.connect(damaged)) as connection, connection:
        connection.execute("UPDATE writers SET place = CAST(zeroblob(50000000) AS TEXT)")
    with salvage.open_journal(str(damaged), METERS) as journal:
        assert registers(journal) == WHOLE
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            assert cursor.position.place == ""
            assert len(cursor.read(10_000)) == 2 * WAITING


@pytest.mark.parametrize("first_page", [True, False])
def test_a_stop_ends_the_saving_and_the_next_start_goes_on(damaged, monkeypatch, first_page):
    """Told to stop again and again, it ends each time, goes on where it was, and loses nothing."""
    monkeypatch.setattr(salvage, "NOTED_PAGES", 8)
    monkeypatch.setattr(salvage, "COPIED", 100_000)
    content = bytearray(damaged.read_bytes())
    at = 0 if first_page else len(content) // 4096 // 2 * 4096
    content[at : at + 4096] = bytes(4096)
    damaged.write_bytes(content)
    in_one_go = asked_in_one_go(damaged)
    asked, stops = [], 0
    while True:
        end = len(asked) + 80
        try:
            opened = salvage.open_journal(
                str(damaged),
                METERS,
                suspect=not first_page,
                stopped=lambda end=end: bool(asked.append(1)) or len(asked) >= end,
            )
            break
        except StoppedError:
            stops += 1
        assert stops < 100
    with opened as journal:
        assert registers(journal) == WHOLE
        assert len(waiting(journal)) == 2 * WAITING
    assert stops > 5
    # A stopped one reads again what it had not noted yet.
    assert len(asked) <= in_one_go + stops * (salvage.NOTED_PAGES + 1)
    assert sorted(path.name for path in damaged.parent.iterdir() if "damaged" not in path.name) == ["journal.db"]


def test_a_program_that_saves_a_journal_stops_at_once(tmp_path):
    """SIGTERM while a large damaged journal is read ends a start within a second or so, and the next one goes on."""
    with Program(tmp_path, "COMMIT_INTERVAL = 0.1") as program:
        path = program.data_dir / "simulated" / "journal.db"
        path.parent.mkdir(parents=True)
        with Journal(str(path)) as journal:
            journal._connection.execute("PRAGMA synchronous = OFF")
            key = journal.enter("house", 1000).name
            journal.add_cursor("file").close()
            for first in range(1, 800_000, 100_000):
                journal.append([Row(key, n, START_NS + n * NS_PER_S, NS_PER_S) for n in range(first, first + 100_000)])
        content = path.read_bytes()
        path.write_bytes(bytes(4096) + content[4096:])
        making = path.with_name("journal.db.making")
        with program.err.open("wb") as err:
            popen = subprocess.Popen(program.line("--nodaemon", "--simulate", "1"), env=program.env, stderr=err)
        try:
            wait_until(lambda: making.exists() or popen.poll() is not None)
            began_s = time.monotonic()
            popen.terminate()
            assert popen.wait(PATIENCE_S) == 0, program.err.read_text()
            assert time.monotonic() - began_s < 1.5
        finally:
            popen.kill()
            popen.wait()
        assert making.exists()
        program.start("--simulate", "3000")
        # It counts at once; what the meter's register was is known when the journal is saved.
        wait_until(lambda: (program.status()["meters"]["house"]["register_kwh"] or 0) >= 800)
        assert program.run("--kill").returncode == 0


def test_what_saving_makes_is_closed_to_others(damaged):
    """The new journal, what it is made from and what is set aside have mode 600, while it is made too."""
    damaged.write_bytes(bytes(4096) + damaged.read_bytes()[4096:])
    Path(f"{damaged}-wal").touch()
    damaged.chmod(0o644)
    seen = {}

    def look():
        seen.update({path.name: path.stat().st_mode & 0o777 for path in damaged.parent.iterdir()})

    before = os.umask(0)
    try:
        salvage.open_journal(str(damaged), METERS, stopped=look).close()
    finally:
        os.umask(before)
    look()
    assert {"journal.db.making", "journal.db.copy", "journal.db", aside(damaged).name} <= seen.keys()
    assert set(seen.values()) == {0o600}, seen


def test_another_programs_database_is_no_damage(tmp_path):
    """A sound database that is not ours is neither used nor set aside."""
    path = tmp_path / "journal.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (something)")
    with pytest.raises(JournalError, match="not a journal of this version"):
        salvage.open_journal(str(path), METERS)
    assert [found.name for found in tmp_path.iterdir()] == ["journal.db"]


# --- While it runs


def logged(program, words):
    return words in (program.data_dir / "simulated" / "power.log").read_text()


def end_and_compare(program, pulses):
    """Stop the program; file and journal have every pulse, once, and no power is missing but the first's."""
    assert program.run("--kill").returncode == 0
    directory = program.data_dir / "simulated"
    lines = (directory / "power.csv").read_text().splitlines()[1:]
    registers = [round(float(line.split(",")[4]) * 1000) for line in lines]
    assert registers == list(range(1, len(lines) + 1))
    assert len(lines) >= pulses
    assert [line for line in lines if line.split(",")[2] == ""] == lines[:1]
    with contextlib.closing(sqlite3.connect(directory / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return len(lines), [count for (count,) in connection.execute("SELECT count FROM pulses ORDER BY count")]


def test_a_journal_that_is_deleted_while_it_is_used(tmp_path):
    """It is written again completely while counting goes on: no pulse is lost, and each is in the file once."""
    with Program(tmp_path, "COMMIT_INTERVAL = 0.1") as program:
        program.start("--simulate", "20000")
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= 5)
        for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
            (program.data_dir / "simulated" / name).unlink()
        wait_until(lambda: logged(program, "it was deleted, and has been written again"))
        seen = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 5)
        journal = program.status()["journal"]
        assert (journal["failing"], journal["dropped"]) == ("", 0)
        pulses, kept = end_and_compare(program, seen + 5)
        assert kept == list(range(1, pulses + 1))


def test_a_journal_that_is_damaged_while_it_is_used(tmp_path):
    """It is set aside, and counting goes on: the register goes on from where it was, and every new pulse is kept."""
    with Program(tmp_path, "COMMIT_INTERVAL = 0.1") as program:
        program.start("--simulate", "20000")
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= 5)
        journal = program.data_dir / "simulated" / "journal.db"
        with contextlib.closing(sqlite3.connect(journal)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with journal.open("r+b") as file:
            file.write(b"\xa5" * journal.stat().st_size)
        wait_until(lambda: list(journal.parent.glob("journal.db.damaged-*")))
        # A stop before that only writes what waits: the writers have their turn at the next start.
        wait_until(lambda: program.status()["journal"]["failing"] == "")
        seen = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 5)
        assert program.run("--kill").returncode == 0
        lines = (journal.parent / "power.csv").read_text().splitlines()[1:]
        registers = [round(float(line.split(",")[4]) * 1000) for line in lines]
        # What was only in the file, which is noise now, is lost; the count is not.
        assert registers == sorted(set(registers))
        assert registers[-1] >= seen + 5
