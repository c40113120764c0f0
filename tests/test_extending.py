"""The worked examples of docs/howto/extending.rst: a writer and a board, added as it says, and used."""

import contextlib
import importlib.util
import os
import re
import select
import sqlite3
import sys
import textwrap

import pytest
from contracts import BoardContract, WriterContract, taken
from deliveries import add_pulses, begun, delivered_all, end
from program import PATIENCE_S, SOURCE, wait_until

from powermeter import boards, writers
from powermeter.delivery import State
from powermeter.errors import BoardError
from powermeter.journal import Journal
from powermeter.lamps import Lamp
from powermeter.monitor import Monitor
from powermeter.settings import reading, schema

DOCS = SOURCE.parent / "docs"

#: The how-to's blocks of Python: two lines and settings for the writer, the same for the board.
BLOCKS = [
    textwrap.dedent(block)
    for block in re.findall(
        r"\.\. code-block:: python\n\n((?:(?: {6}.*)?\n)+)", (DOCS / "howto" / "extending.rst").read_text()
    )
]


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


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """Both, added as the how-to says."""
    assert len(BLOCKS) == 6
    with (
        example("writer_sqlite", "powermeter.writers.sqlite", monkeypatch),
        example("board_serial", "powermeter.boards.serial", monkeypatch),
    ):
        for table, block in (
            (writers.WRITERS, BLOCKS[0]),
            (reading.WRITER_TYPES, BLOCKS[1]),
            (boards.BOARDS, BLOCKS[3]),
            (reading.TOP, BLOCKS[4]),
        ):
            for key, entry in entries(block).items():
                monkeypatch.setitem(table, key, entry)
        types = schema.Key(schema.REQUIRED, schema.choice(*reading.WRITER_TYPES))
        monkeypatch.setitem(reading.WRITER_COMMON, "type", types)
        yield


def settings_of(directory, text):
    path = directory / "settings.py"
    path.write_text(f"DATA_DIR = {str(directory)!r}\n{text}\n")
    path.chmod(0o600)
    return reading.read(str(path))


# --- The writer


class SqlitePlace:
    """A database of the user's own, and its rows."""

    kind = "sqlite"

    def __init__(self, directory):
        self.path = directory / "power.sqlite"
        self.options = {"path": str(self.path)}
        self.unreachable = {"path": str(directory / "missing" / "power.sqlite")}

    def stored(self):
        if not self.path.exists():
            return None
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            return database.execute("SELECT * FROM power ORDER BY meter, number").fetchall()


@pytest.fixture
def place(tmp_path):
    return SqlitePlace(tmp_path)


class TestSqliteWriter(WriterContract):
    """What every writer must do, of this one."""


def test_pulses_of_the_journal_reach_the_table(tmp_path, monkeypatch):
    """Named in the settings it gets every pulse of the journal, once and in order, also those of an outage."""
    monkeypatch.setattr("powermeter.delivery.SHORTEST_PAUSE_S", 0.004)
    place = SqlitePlace(tmp_path / "disk")
    (writer,) = settings_of(tmp_path, BLOCKS[2].replace("/var/lib/power/power.sqlite", str(place.path))).writers
    assert (writer.type, writer.options["timeout"]) == ("sqlite", 10)
    with Journal(str(tmp_path / "journal.db")) as journal:
        journal.meter("house", 1000)
        behind = journal.cursor("behind")
        delivery = begun(writer.name, lambda: writers.open_writer(writer), journal.cursor(writer.name))
        try:
            add_pulses(journal, 1500)
            delivery.wake()
            wait_until(lambda: delivery.state is State.FAILING)  # the disk is not there
            place.path.parent.mkdir()
            sent = behind.read(10_000)
            wait_until(lambda: delivered_all(delivery, sent))
        finally:
            end(delivery)
            behind.close()
    assert place.stored() == [(p.meter, p.number, p.time_ns, p.watts, p.register_kwh) for p in sent]
    assert len(sent) == 1500


# --- The board


class Microcontroller:
    """The other end of a serial line: it sends flashes, and keeps what lamps it was told to light."""

    def __init__(self, directory):
        self._end, self._line = os.openpty()
        os.set_blocking(self._end, False)
        self.path = os.ttyname(self._line)
        self.lamps = b""
        # A hold-off of ns: flashes are sent as fast as they can be.
        text = re.sub(r"(?=\},)", ', "max_watts": 100_000_000', BLOCKS[5].replace("/dev/ttyUSB0", self.path))
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
def made(tmp_path):
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
        with pytest.raises(BoardError, match="no edges come any more"):
            taken(rig.board, 1)


def test_flashes_of_the_line_reach_a_file(tmp_path):
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
