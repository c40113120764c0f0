"""
Another user of the machine locks files, or holds the socket, to have pulses lost, starts refused or processes ended.

A lock for reading needs no more than a file that may be read. None of them may keep the journal from being written, the
program from being started, or lead its --kill to a process that never was the program.
"""

import os
import sqlite3
import subprocess
import time

import pytest
from machine import FAMILY, POWER, VICTIM, WATTS

DATA = "/home/victim/data"
SETTINGS = "/home/victim/settings.py"
PIDFILE = "/home/victim/power.pid"
SIMULATED = ["--simulate", WATTS]

#: How many ask at once.
ASKING = 64


@pytest.fixture
def shared(machine):
    """A machine on which the attacker is in the group of the victim's files, and may read them."""
    m = machine
    for path in ("/home/victim", DATA, f"{DATA}/simulated"):
        m.made(path, owner=VICTIM, group=FAMILY, mode=0o2750)
    m.write(SETTINGS, f"DATA_DIR = {DATA!r}\nCLOCK_WAIT = 0\nCOMMIT_INTERVAL = 0.5\nL1_PIN = None\n", owner=VICTIM)
    return m


NAMED = ["--settings", SETTINGS, "--pidfile", PIDFILE]


def power(m, *args, user="victim"):
    """The victim's program, by its settings and pidfile."""
    return m.power(*NAMED, *args, user=user)


#: Holds a lock for reading on the file of its second argument, or does without where it may not be read. The first is
#: the kind: of a process, or of an open file (F_OFD_SETLK, fcntl.h of Linux).
LOCKING = """
import fcntl, os, signal, struct, sys
kind, path, start, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
write = kind.endswith("to write")
try:
    file = os.open(path, os.O_RDWR if write else os.O_RDONLY)
    lock = struct.pack("hhqqi", fcntl.F_WRLCK if write else fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
    fcntl.fcntl(file, 37 if kind.startswith("file") else fcntl.F_SETLK, lock)
except PermissionError:
    pass
print("ready", flush=True)
while True: signal.pause()
"""

#: SQLite's lock of a writer in journal.db-shm (wal.c: WALINDEX_LOCK_OFFSET, WAL_WRITE_LOCK).
WRITERS_LOCK = ["120", "1"]


@pytest.mark.parametrize("kind", ["process", "file"])
def test_a_reader_in_the_group_loses_no_pulses(shared, kind):
    """A lock for reading on journal.db-shm holds up no commit: at the stop all pulses are in the journal."""
    m = shared
    assert power(m, *SIMULATED).returncode == 0
    m.counts(*NAMED, user="victim", least=2)
    # While nobody writes; the next one who wants to would wait.
    locking = m.attack(LOCKING, kind, f"{DATA}/simulated/journal.db-shm", *WRITERS_LOCK)
    begun = m.status(*NAMED, user="victim")["meters"]["house"]["pulses"]
    counted = m.counts(*NAMED, user="victim", least=begun + 20)["meters"]["house"]["pulses"]
    stopped = power(m, "--kill")
    assert stopped.returncode == 0, stopped
    m.end(locking)
    with sqlite3.connect(m.on_host(f"{DATA}/simulated/journal.db")) as journal:
        kept = journal.execute("SELECT max(count) FROM pulses").fetchone()[0]
    assert kept >= counted


@pytest.mark.parametrize("kind", ["process", "file"])
@pytest.mark.parametrize("name", [PIDFILE, f"{DATA}/simulated/lock"], ids=["the pidfile", "lock"])
def test_a_readers_lock_on_what_a_crash_left_prevents_no_start(shared, name, kind):
    """A pidfile or a lock that a power cut left, and a reader locks: a start takes it all the same."""
    m = shared
    m.write(name, "1\n", owner=VICTIM, mode=0o644)
    m.attack(LOCKING, kind, name, "0", "0")
    for _ in range(2):
        started = power(m, *SIMULATED)
        assert started.returncode == 0, started
        assert power(m, "--status").returncode == 0
        stopped = power(m, "--kill")
        assert (stopped.returncode, "stopped, pid" in stopped.stdout) == (0, True), stopped


@pytest.mark.parametrize(
    ("kind", "user"),
    [("file", "mallory"), ("process", "mallory"), ("file to write", "victim"), ("file to write", "root")],
)
def test_a_lock_of_another_program_is_no_traceback(shared, kind, user):
    """Whoever else has locked the pidfile, by whichever kind of lock: each command says in a line how that is."""
    m = shared
    m.write(PIDFILE, "1\n", owner=VICTIM, mode=0o644)
    locking = m.attack(LOCKING, kind, PIDFILE, "0", "0", user=user)
    for asking in ("victim", "root"):
        for args in (["--status"], ["--status", "--json"], ["--kill"]):
            done = power(m, *args, user=asking)  # it has no traceback
            assert done.returncode in (0, 1, 3, 4), done
            assert len((done.stdout + done.stderr).splitlines()) == 1, done
    started = power(m, *SIMULATED)
    assert len(started.stderr.splitlines()) <= 1, started
    assert started.returncode == 0 or kind.endswith("to write"), started
    assert locking.poll() is None


#: Locks the file of its argument by a process that ends, in another that shares its descriptors: the lock stays, and is
#: the ended one's by what the kernel says. SYS_clone by architecture (syscall(2), its table).
STAYING = """
import ctypes, fcntl, os, platform, signal, sys
path, how = sys.argv[1:]
file = os.open(path, os.O_RDWR if how == "w" else os.O_RDONLY)
CLONE_FILES = 0x400
number = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 120)
if ctypes.CDLL(None).syscall(number, CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0) == 0:
    while True: signal.pause()
fcntl.lockf(file, fcntl.LOCK_EX if how == "w" else fcntl.LOCK_SH)
print("ready", flush=True)
sys.stdin.readline()
os._exit(0)
"""

#: A process of the user of its first argument that has nothing to do with any of it, with the numbers of the others:
#: what time would bring is asked of clone3(2), by set_tid. The kernel tells of a lock by the outermost number.
INNOCENT = """
import array, ctypes, os, signal, struct, sys, time
user, *numbers = map(int, sys.argv[1:])
wanted = array.array("i", reversed(numbers))  # from the innermost on
arguments = array.array("Q", [0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, wanted.buffer_info()[0], len(wanted), 0])
SYS_CLONE3 = 435
libc = ctypes.CDLL(None, use_errno=True)
child = libc.syscall(SYS_CLONE3, ctypes.c_void_p(arguments.buffer_info()[0]), 88)
if child == 0:
    os.setresgid(user, user, user); os.setresuid(user, user, user)
    while True: signal.pause()
if child < 0: sys.exit(os.strerror(ctypes.get_errno()))
print("ready", flush=True)
_, status = os.waitpid(child, 0)
print("ended by", status, flush=True)
"""


@pytest.mark.parametrize(
    ("attacker", "how", "innocent", "killer"),
    [
        ("mallory", "r", 0, "root"),
        ("mallory", "r", VICTIM, "victim"),
        ("victim", "w", 0, "root"),
    ],
    ids=["a reader's, root's process", "a reader's, the victim's process", "the service's user's, root's process"],
)
def test_kill_signals_no_process_that_never_had_the_lock(shared, attacker, how, innocent, killer):
    """A lock that outlives its process names a number that another process has by now: --kill does not touch that."""
    m = shared
    m.write(PIDFILE, "1\n", owner=VICTIM, mode=0o644)
    staying = m.begin("/usr/bin/python3", "-c", STAYING, PIDFILE, how, user=attacker, stdin=subprocess.PIPE)
    assert staying.stdout.readline() == "ready\n"
    numbers = m.numbers(staying)
    staying.stdin.write("end\n")
    staying.stdin.flush()
    assert staying.wait() == 0
    other = m.begin("/usr/bin/python3", "-c", INNOCENT, innocent, *numbers)
    assert other.stdout.readline() == "ready\n"
    done = power(m, "--kill", user=killer)
    assert m.runs(numbers[-1]), done
    assert other.poll() is None, done


#: Locks the file of its argument as a program of root's does that has one of its own.
DAEMON = """
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_EX)
print("ready", flush=True)
while True: signal.pause()
"""


@pytest.mark.parametrize("killer", ["root", "mallory"])
@pytest.mark.parametrize("kind", ["a link", "the killer's own file"])
def test_kill_signals_no_other_program_of_who_kills(machine, kind, killer):
    """Where the service's user has put something else in place of its pidfile, no process is signalled or believed."""
    m = machine
    run = m.made("/run/power", owner=VICTIM)
    m.made("/home/killers")
    lock = m.write("/home/killers/lock", owner=0 if killer == "root" else m.uid(killer), mode=0o644)
    daemon = m.attack(DAEMON, "/home/killers/lock", user=killer)
    if kind == "a link":
        (run / "power.pid").symlink_to("/home/killers/lock")
        os.lchown(run / "power.pid", VICTIM, VICTIM)
    else:
        lock.rename(run / "power.pid")  # as one that was made there, and that the directory's owner gave this name
    for args in (["--status"], ["--kill"]):
        done = m.power(*args, user=killer)
        assert done.returncode in (1, 4), done
        assert "/run/power/power.pid belongs to" in done.stderr, done
    assert daemon.poll() is None


#: Takes the place where a program is asked whose file system knows no sockets.
SQUATTING = """
import hashlib, signal, socket, sys
name = hashlib.blake2b(sys.argv[1].encode()).hexdigest()[:64]
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0power:" + name)
listener.listen()
print("ready", flush=True)
while True: signal.pause()
"""


@pytest.mark.parametrize("killer", ["victim", "root"])
def test_who_takes_the_place_of_the_socket_prevents_no_stop(shared, killer):
    """Where nothing listens beside the pidfile anybody may take the other place: a stop works all the same."""
    m = shared
    assert power(m, *SIMULATED).returncode == 0
    m.on_host(f"{PIDFILE}.sock").unlink()
    m.attack(SQUATTING, PIDFILE)
    assert "another process answers" in power(m, "--status", user=killer).stderr
    done = power(m, "--kill", user=killer)
    assert (done.returncode, "stopped, pid" in done.stdout) == (0, True), done


#: Asks as so many processes at once as its second argument says, each by the program's own main; how many failed.
ASKED_AT_ONCE = """
import contextlib, os, sys
source, count, *args = sys.argv[1:]
sys.path.insert(0, source)
import power
from powermeter import commands, process
with contextlib.suppress(ImportError):  # an older tree has it in one module
    import powermeter.process.control
reading, writing = os.pipe()
children = []
for _ in range(int(count)):
    if (child := os.fork()) == 0:
        os.close(writing)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        os.read(reading, 1)  # the end, for all of them at once
        os._exit(power.main(args))
    children.append(child)
os.close(writing)
statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print([status for status in statuses if status])
"""


def test_many_questions_at_once_are_answered(shared):
    """Of 64 that ask at the same moment for the status each has it."""
    m = shared
    assert power(m, *SIMULATED).returncode == 0
    for _ in range(3):
        done = m.run(
            f"{POWER}/venv/bin/python", "-c", ASKED_AT_ONCE, f"{POWER}/src", ASKING, *NAMED, "--status", user="victim"
        )
        assert (done.stdout, done.stderr) == ("[]\n", "")


#: Connects again and again, and says nothing, or never reads.
FLOODING = """
import socket, sys, time
connections = []
print("ready", flush=True)
while True:
    try:
        one = socket.socket(socket.AF_UNIX); one.setblocking(False)
        one.connect(sys.argv[1] + ".sock")
        connections.append(one)
    except OSError:
        time.sleep(0.001)
    if len(connections) > 500:
        for one in connections: one.close()
        connections = []
"""


def test_a_flood_of_the_socket_by_another_user_holds_nothing_up(shared):
    """Who may not ask can't keep those who may from it, nor the program from counting."""
    m = shared
    assert power(m, *SIMULATED).returncode == 0
    m.attack(FLOODING, PIDFILE)
    before = m.counts(*NAMED, user="victim")["meters"]["house"]["pulses"]
    begun_s = time.monotonic()
    m.counts(*NAMED, user="victim", least=before + 10)
    assert time.monotonic() - begun_s < 10
