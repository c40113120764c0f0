"""The worked examples of docs/howto/extending.rst: a writer and a board, added as it says, and used."""

import contextlib
import importlib.util
import os
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from contracts import BoardContract, WriterContract, taken
from deliveries import add_pulses, begun, delivered_all, end
from program import PATIENCE_S, SOURCE, wait_until

from powermeter import boards, writers
from powermeter.delivery import State
from powermeter.errors import BoardError
from powermeter.journal.journal import Journal
from powermeter.lamps import Lamp
from powermeter.monitor import Monitor
from powermeter.settings import reading, schema

DOCS = SOURCE.parent / "docs"

PAGE = (DOCS / "howto" / "extending.rst").read_text()

#: The how-to's blocks of Python: for the writer and the board, lines of the program and settings.
WRITER, IMPORTS, USED, BOARD, LIBRARY_OF_PINS, USED_BOARD = (
    textwrap.dedent(block) for block in re.findall(r"\.\. code-block:: python\n\n((?:(?: {6}.*)?\n)+)", PAGE)
)

#: The command that judges a writer.
(JUDGED,) = re.findall(r"^ +\$ (.*)$", PAGE, re.MULTILINE)


def indented(block):
    """The lines of *block*, as in a dict."""
    return textwrap.indent(block.strip() + "\n", "    ")


def entries(block):
    """The entries of a dict of the program that *block* shows."""
    return eval("{" + block + "}", dict(vars(schema)))


@contextlib.contextmanager
def example(name, module, monkeypatch):
    """The example *name* in the place of *module* of the package."""
    spec = importlib.util.spec_from_file_location(module, DOCS / "examples" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module, made)
    spec.loader.exec_module(made)
    yield


@pytest.fixture
def added(monkeypatch):
    """Both, added to the program as the how-to says."""
    with (
        example("writer_sqlite", "powermeter.writers.sqlite", monkeypatch),
        example("board_serial", "powermeter.boards.serial", monkeypatch),
    ):
        for table, block in ((writers.WRITERS, WRITER), (boards.BOARDS, BOARD), (reading.TOP, LIBRARY_OF_PINS)):
            for key, entry in entries(block).items():
                monkeypatch.setitem(table, key, entry)
        types = schema.Key(schema.REQUIRED, schema.choice(*writers.WRITERS))
        monkeypatch.setitem(reading.WRITER_COMMON, "type", types)
        yield


def settings_of(directory, text):
    path = directory / "settings.py"
    path.write_text(f"DATA_DIR = {str(directory)!r}\n{text}\n")
    path.chmod(0o600)
    return reading.read(str(path))


# --- The writer


def put_in(path, before, text):
    """Put the lines *text* into the file *path*, before the one place where *before* stands."""
    found = path.read_text()
    assert found.count(before) == 1, f"{path}: {before!r}"
    path.write_text(found.replace(before, text + before))


def test_a_writer_is_judged_by_the_command_of_the_page(tmp_path):
    """In a tree where it was added in the places that the page names, its command runs the contract suite over it."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("src", "tests", "tools"):
        shutil.copytree(SOURCE.parent / name, tmp_path / name, ignore=ignored)
    shutil.copy(SOURCE.parent / "pyproject.toml", tmp_path)
    shutil.copy(DOCS / "examples" / "writer_sqlite.py", tmp_path / "src/powermeter/writers/sqlite.py")
    put_in(tmp_path / "src/powermeter/writers/__init__.py", '    "file": (', indented(WRITER))
    place = (DOCS / "examples" / "place_sqlite.py").read_text()
    put_in(tmp_path / "tests/test_writers.py", "PLACES = [", f"{place}\n\n")
    put_in(tmp_path / "tests/test_writers.py", "FilePlace, LibratoPlace", "SqlitePlace, ")
    put_in(tmp_path / "tests/test_architecture.py", '    "writers": {', indented(IMPORTS))
    python, *arguments = JUDGED.split()
    assert python == ".venv-test/bin/python"
    done = subprocess.run(
        [sys.executable, *arguments, "-v", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = set(re.findall(r"::(test_\w+)\[.*sqlite\] PASSED", done.stdout))
    assert {name for name in vars(WriterContract) if name.startswith("test_")} < passed, done.stdout
    assert "test_imports_run_downwards" in passed


def test_pulses_of_the_journal_reach_the_table(added, tmp_path, monkeypatch):
    """Named in the settings it gets every pulse of the journal, once and in order, also those of an outage."""
    monkeypatch.setattr("powermeter.delivery.SHORTEST_PAUSE_S", 0.004)
    path = tmp_path / "disk" / "power.sqlite"
    (writer,) = settings_of(tmp_path, USED.replace("/var/lib/power/power.sqlite", str(path))).writers
    assert (writer.type, writer.options["timeout"]) == ("sqlite", 10)
    with Journal(str(tmp_path / "journal.db")) as journal:
        journal.enter("house", 1000)
        behind = journal.add_cursor("behind")
        delivery = begun(writer.name, lambda: writers.open_writer(writer), journal.add_cursor(writer.name))
        try:
            add_pulses(journal, 1500)
            delivery.wake()
            wait_until(lambda: delivery.state is State.FAILING)  # the disk is not there
            path.parent.mkdir()
            sent = behind.read(10_000)
            wait_until(lambda: delivered_all(delivery, sent))
        finally:
            end(delivery)
            behind.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        stored = database.execute("SELECT * FROM power ORDER BY meter, number").fetchall()
    assert stored == [(p.meter, p.number, p.time_ns, p.watts, p.register_kwh) for p in sent]
    assert len(sent) == 1500


# --- The board


class Microcontroller:
    """The other end of a serial line: it sends flashes, and records which lamps it was asked to light."""

    def __init__(self, directory):
        self._end, self._line = os.openpty()
        os.set_blocking(self._end, False)
        self.path = os.ttyname(self._line)
        self.lamps = b""
        # A hold-off of ns: flashes are sent as fast as they can be.
        text = re.sub(r"(?=\},)", ', "max_watts": 100_000_000', USED_BOARD.replace("/dev/ttyUSB0", self.path))
        # The clock of the tests' machine may be one that nobody sets.
        self.settings = settings_of(directory, f"{text}\nCLOCK_WAIT = 0\n")

    def flash(self, *meters):
        os.write(self._end, "".join(map(str, meters)).encode())

    def lit(self, lamp):
        with contextlib.suppress(BlockingIOError):
            while came := os.read(self._end, 4096):
                self.lamps += came
        told = [letter for letter in self.lamps.decode() if letter.upper() == {Lamp.L1: "A", Lamp.L2: "B"}[lamp]]
        return bool(told) and told[-1].isupper()

    def arrived(self):
        """Return once something that was sent waits at the other end."""
        ready = select.poll()
        ready.register(self._line, select.POLLIN)
        assert ready.poll(PATIENCE_S * 1000)

    def held_by(self):
        """How many descriptors of this process the line has beside our own."""
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum(os.path.realpath(link) == self.path for link in links) - 1

    def unplug(self):
        os.close(self._end)
        self._end = -1

    def close(self):
        for fd in (self._end, self._line):
            if fd >= 0:
                os.close(fd)


class SerialRig:
    """The board and what is at its other end, as the contract of all boards plays with them."""

    def __init__(self, order, directory):
        self._order, self.other = iter(order), Microcontroller(directory)
        self.board = boards.open_board(self.other.settings)

    def play(self, flashes):
        self.other.flash(*(next(self._order) for _ in range(flashes)))

    def go_on(self):
        self.other.flash(0, 1)
        self.other.arrived()

    def lit(self, lamp):
        return self.other.lit(lamp)

    def given_back(self):
        return self.other.held_by() == 0


@pytest.fixture
def made(added, tmp_path):
    """Makes the board under test for meters that flash in the order given; closes it at the end."""
    rigs = []

    def make(order):
        rigs.append(SerialRig(list(order) if isinstance(order, list) else order, tmp_path))
        return rigs[0]

    yield make
    for rig in rigs:
        rig.board.close()
        rig.other.close()


class TestSerialBoard(BoardContract):
    """What every board must do, of this one."""

    # Its flashes come when the test sends them: none is there before.
    def test_close_gives_the_pins_back(self, made):
        """Closing a watched board gives the line back; a lamp told later is no error."""
        rig = made([])
        rig.board.watch()
        assert not rig.given_back()
        rig.board.close()
        assert rig.given_back()
        rig.board.light(Lamp.L1, True)

    def test_what_was_sent_before_is_old(self, made):
        """Bytes from before the watch are no flashes of now."""
        rig = made([0, 1])
        rig.board.watch()
        rig.play(1)
        rig.other.arrived()
        rig.board.watch()
        rig.play(1)
        assert [edge.meter for edge in taken(rig.board, 1)] == [1]

    def test_a_line_that_goes_is_an_error(self, made):
        """Where the line goes the board says so, and does not count nothing for ever."""
        rig = made([])
        rig.board.watch()
        rig.other.unplug()
        with pytest.raises(BoardError, match="no more edges come"):
            taken(rig.board, 1)


def test_flashes_of_the_line_reach_a_file(added, tmp_path):
    """Named in the settings it counts: the whole program on it, from the line to the file, and lamps back."""
    flashes = [0, 0, 1] * 5
    crashes = []
    other = Microcontroller(tmp_path)
    try:
        with Monitor(
            other.settings, boards.open_board, simulate=None, on_crash=lambda: crashes.append("a thread")
        ) as monitor:

            def counted():
                return sum(meter["pulses"] for meter in monitor.status().as_dict()["meters"].values())

            for number, meter in enumerate(flashes, 1):
                other.flash(meter)
                # One at a time: bytes that wait together get one time, and are bounce of each other.
                wait_until(lambda number=number: counted() == number)
            wait_until(lambda: other.lit(Lamp.L2))
            assert b"A" in other.lamps
    finally:
        other.close()
    assert not crashes
    lines = [line.split(",") for line in (tmp_path / "power.csv").read_text().splitlines()[1:]]
    assert [line[1] for line in lines] == [("house", "heating")[meter] for meter in flashes]
    assert [lines[-2][3:], lines[-1][3:]] == [["1.0", "0.01"], ["2.0", "0.01"]]
