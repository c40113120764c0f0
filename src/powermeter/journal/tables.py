"""
The journal's file: its tables, its connections, and what errors of SQLite mean.

Knows the layout of the file, so that the modules that append, deliver and read need not know each other.
"""

import contextlib
import functools
import os
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator

from powermeter.errors import JournalError
from powermeter.meter import NS_PER_S, Constant, Pulse, kwh_of

#: *pulses*: one row per pulse, 28 bytes of the file including its share of the tree.
#: *constants*: a meter's constant from a count on (:class:`Constant`).
#: *steps*: pulses whose time is before that of their predecessor, because the clock was set
#: back; between two of them time rises with the count, so that it can be searched.
#: *writers* and *cursors*: see :class:`Cursor`.
#: *unsettled*: a meter's pulses after a count, whose times come from a clock that was not trusted yet; with how far
#: it was ahead of the monotonic one, in which boot of the machine. Writers do not see these pulses.
#: *thinned*: up to which count a meter's pulses are thinned. Each row stands for all pulses since the row before it.
SCHEMA = """
    CREATE TABLE meters (
        meter INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE
    );
    CREATE TABLE constants (
        meter INTEGER NOT NULL, from_count INTEGER NOT NULL,
        impulses_per_kwh REAL NOT NULL, register_kwh REAL NOT NULL,
        PRIMARY KEY (meter, from_count)
    ) WITHOUT ROWID;
    CREATE TABLE pulses (
        meter INTEGER NOT NULL, count INTEGER NOT NULL,
        time_ns INTEGER NOT NULL, interval_ns INTEGER,
        PRIMARY KEY (meter, count)
    ) WITHOUT ROWID;
    CREATE TABLE steps (
        meter INTEGER NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (meter, count)
    ) WITHOUT ROWID;
    CREATE TABLE writers (
        name TEXT PRIMARY KEY, place TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE cursors (
        writer TEXT NOT NULL, meter INTEGER NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (writer, meter)
    ) WITHOUT ROWID;
"""

SCHEMA_2 = """
    CREATE TABLE unsettled (
        meter INTEGER PRIMARY KEY, after_count INTEGER NOT NULL, ahead_ns INTEGER NOT NULL, boot TEXT NOT NULL
    );
    CREATE TABLE thinned (
        meter INTEGER PRIMARY KEY, to_count INTEGER NOT NULL
    );
"""

#: *covered*: since when a meter's gaps are known, and until when it was counted; NULL while it still is.
#: *gaps*: when a meter could not be counted, and why: "not running", "crashed", "input at fault".
#: *readings*: what the meter's face showed after a count, and the number of decimals that were typed. The register was
#: *register_kwh* before. A *base* is not compared with earlier readings.
#: *hourly*: up to which count a meter's pulses were thinned to one per hour, as older versions did.
SCHEMA_3 = """
    CREATE TABLE covered (
        meter INTEGER PRIMARY KEY, since_ns INTEGER NOT NULL, until_ns INTEGER
    );
    CREATE TABLE gaps (
        meter INTEGER NOT NULL, from_ns INTEGER NOT NULL, to_ns INTEGER NOT NULL, why TEXT NOT NULL,
        PRIMARY KEY (meter, from_ns)
    ) WITHOUT ROWID;
    CREATE TABLE readings (
        meter INTEGER NOT NULL, time_ns INTEGER NOT NULL, count INTEGER NOT NULL,
        face_kwh REAL NOT NULL, decimals INTEGER NOT NULL, register_kwh REAL NOT NULL, base INTEGER NOT NULL,
        PRIMARY KEY (meter, time_ns)
    ) WITHOUT ROWID;
    CREATE TABLE hourly (
        meter INTEGER PRIMARY KEY, to_count INTEGER NOT NULL
    );
    INSERT INTO hourly SELECT meter, to_count FROM thinned;
"""

#: *about*: what the journal knows about itself and what was published from it. Its *id* is random, and stays the same
#: when the journal moves to another card.
SCHEMA_4 = """
    CREATE TABLE about (
        key TEXT PRIMARY KEY, value TEXT NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO about VALUES ('id', lower(hex(randomblob(8))));
"""

#: What each version of the journal adds to the one before.
SCHEMAS = (SCHEMA, SCHEMA_2, SCHEMA_3, SCHEMA_4)

SCHEMA_VERSION = len(SCHEMAS)

#: The view through which every connection reads pulses. A bit that flipped on a card may have changed the type of a
#: time or an interval, which SQLite accepts. The view always gives an integer for the time, and a positive length or
#: NULL for the interval.
VIEW = """
    CREATE TEMP VIEW read_pulses AS SELECT meter, count, CAST(time_ns AS INTEGER) AS time_ns,
    CASE WHEN typeof(interval_ns) = 'integer' AND interval_ns > 0 THEN interval_ns END AS interval_ns FROM pulses
"""

#: Old pulses are thinned to one per this time of UTC, in ns: every time zone differs from UTC by whole quarters of an
#: hour.
THINNED_TO_NS = 900 * NS_PER_S

#: More than any count.
MAX_COUNT = 2**63 - 1

#: What SQLite adds to the name of a database for the files beside it.
BESIDE = ("-wal", "-shm", "-journal")

#: No text, blob or row of a journal is longer than this, in bytes: the longest is a writer's place, which has a path.
MAX_LENGTH = 65_536

MAX_SCHEMA_ENTRIES = 100

#: While a journal is opened or saved, *stopped* is called every so many steps of SQLite's virtual machine, some ms.
STEPS = 20_000

#: SQLite's result codes for a call that was interrupted; for a disk that fails; for a file that is damaged, or no
#: longer a database; for locks that do not work; for a text, blob or row longer than MAX_LENGTH; and, as extended
#: codes, for files that can't be locked or shared as memory, as on a network disk (https://sqlite.org/rescode.html).
SQLITE_INTERRUPT = 9

SQLITE_IOERR = 10

SQLITE_CORRUPT = 11

SQLITE_PROTOCOL = 15

SQLITE_TOOBIG = 18

SQLITE_NOTADB = 26

UNFIT = (SQLITE_PROTOCOL, *(SQLITE_IOERR | kind << 8 for kind in (15, 20, 21)))  # LOCK, SHMLOCK, SHMMAP

#: How long one connection waits for another's commit, in s: a card may be slow.
BUSY_TIMEOUT_S = 60

#: The page cache of a connection, in KiB. Appending and reading in order touch few
#: pages; SQLite's default would take 2 MiB per connection.
CACHE_KIB = 256

#: The size to which a larger log is cut, in bytes: about as much as SQLite fills before it writes it to the journal.
LOG_BYTES = 4 * 2**20

#: Returns whether a stop was requested, so that opening a journal must end.
Stopped = Callable[[], bool]


def is_damage(error: sqlite3.Error) -> bool:
    """Whether *error* says that the file itself is damaged."""
    # Bytes that are not text have no code of SQLite's: it is Python that can't decode them.
    return _code(error) in (SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_TOOBIG) or "decode to UTF-8" in str(error)


def is_interrupt(error: sqlite3.Error) -> bool:
    """Whether *error* says that a progress handler ended the call."""
    return _code(error) == SQLITE_INTERRUPT


def is_of_the_disk(error: sqlite3.Error) -> bool:
    """Whether *error* says that the disk fails, as one that was removed; not that it is full."""
    return _code(error) == SQLITE_IOERR


def _code(error: sqlite3.Error) -> int:
    # Extended codes have the plain one in their lowest byte.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def open_private(path: str, flags: int) -> int:
    """Open *path* as :func:`os.open` does; a file that is created is private to its user. Usable as an opener."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def make_private(path: str) -> None:
    """
    Create the database *path* if it is missing, and make it, and the files beside it, private to its user.

    SQLite gives the files beside it the same mode. Whoever can read them can lock them, and so hold up every commit.
    An existing file is never opened here: closing it would drop the locks that a connection of this process has on it.
    Raises :exc:`JournalError` if it can't be created.
    """
    real = os.path.realpath(path)  # SQLite puts its files beside what a link leads to
    try:
        os.close(open_private(real, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    except OSError as error:
        raise JournalError(f"{path}: the journal can't be opened: {error.strerror}") from error
    for name in (real, *(real + suffix for suffix in BESIDE)):
        # Some file systems have no modes; SQLite reports whatever else is wrong.
        with contextlib.suppress(OSError):
            if stat.S_ISREG(found := os.lstat(name).st_mode) and stat.S_IMODE(found) != 0o600:
                os.chmod(name, 0o600)


def harden(connection: sqlite3.Connection, max_length: int = MAX_LENGTH) -> None:
    """Make *connection* distrust its file, which anybody may have made. Call this before anything is read."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max_length)
    # A schema calls no function with side effects, each page is checked when it is read, and a failing disk gives an
    # error: with mapped memory it would kill the program.
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
        connection.execute(f"PRAGMA {pragma}")


#: What a database consists of: type, name, table and SQL of each entry of its schema, in order.
Schema = list[tuple[bytes, ...]]


def schema_of(connection: sqlite3.Connection) -> Schema:
    """The schema of the database, none of which is executed. Raises :exc:`sqlite3.Error`."""
    rows = connection.execute(
        # As blobs, since damage may have turned text into anything. The tables that ANALYZE makes are SQLite's own.
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema"
        " WHERE NOT (type = 'table' AND name IN ('sqlite_stat1', 'sqlite_stat4')) LIMIT ?",
        (MAX_SCHEMA_ENTRIES,),
    ).fetchall()
    return sorted(
        (kind or b"", name or b"", of or b"", b" ".join((sql or b"").split())) for kind, name, of, sql in rows
    )


@functools.cache
def schema_of_version(version: int, more: str = "") -> Schema:
    """The schema of a journal of *version*, with what the statements in *more* add."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("".join(SCHEMAS[:version]) + more)
        return schema_of(connection)


def address_of(path: str) -> str:
    """*path* as a URI to which options can be appended (https://www.sqlite.org/uri.html)."""
    # Without urllib.parse, which takes 2 ms to load, of a report's 80. After only two slashes a server's name would
    # follow.
    return ("file://" if path.startswith("/") else "file:") + path.replace("%", "%25").replace("?", "%3f").replace(
        "#", "%23"
    )


def connect(path: str, stopped: Stopped | None = None) -> sqlite3.Connection:
    """A connection to the journal at *path*; long calls end when *stopped* is true. Raises :exc:`sqlite3.Error`."""
    # Passed from the thread that opens it to the one that uses it, and never used by two at once.
    connection = sqlite3.connect(
        # A deleted file must not be created here: it would be taken for another file that has replaced it.
        f"{address_of(path)}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        if stopped:
            connection.set_progress_handler(stopped, STEPS)
        harden(connection)
        # FULL: a commit is on the disk when it returns. NORMAL loses up to 40 s of commits in a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        # The log grows during a long read. It is cut to this size when SQLite begins it again.
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(VIEW)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that holds the write lock from its beginning; rolled back on any error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A COMMIT that fails on a full disk leaves the transaction open; SQLite may have rolled it back itself.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
        raise


def constants_of(connection: sqlite3.Connection, meter: int, since: int = 0) -> list[Constant]:
    """The constants of the meter with the key *meter* that apply after the count *since*, in order."""
    return [
        Constant(impulses, count, register)
        for impulses, count, register in connection.execute(
            "SELECT impulses_per_kwh, from_count, register_kwh FROM constants WHERE meter = ?1"
            " AND from_count >= coalesce("
            "(SELECT max(from_count) FROM constants WHERE meter = ?1 AND from_count <= ?2), 0) ORDER BY from_count",
            (meter, since),
        )
    ]


def pulses_of(name: str, after: int, rows: list[tuple[int, int, int | None]], constants: list[Constant]) -> list[Pulse]:
    """
    The pulses of *rows* (count, time, interval), one meter's rows after the count *after*, with the constant of each.

    A pulse that also stands for thinned ones has the energy of all of them and no power.
    """
    pulses: list[Pulse] = []
    ahead = list(constants)
    end = 0  # the last count to which *constant* applies
    for count, time_ns, interval_ns in rows:
        if count > end:
            while len(ahead) > 1 and ahead[1].from_count < count:
                ahead.pop(0)
            constant = ahead[0]
            end = ahead[1].from_count if len(ahead) > 1 else sys.maxsize
        watts, energy_wh = None, constant.watt_hours
        if count > after + 1:
            energy_wh = 1000 * kwh_of(constants, after, count)
        elif interval_ns is not None:
            watts = constant.mean_watts(1, interval_ns / NS_PER_S)
        pulses.append(Pulse(name, count, time_ns, watts, energy_wh, constant.register_at(count)))
        after = count
    return pulses
