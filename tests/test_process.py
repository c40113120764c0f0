"""One process of many: starting, stopping, asking and signals; real processes, by the command line."""

import ast
import contextlib
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import lockfile
import pytest
from program import AS_ROOT, PATIENCE_S, SOURCE, UNPRIVILEGED, Program, kill, readable_to_all, root_alone, wait_until

import power
from powermeter import arguments, subject
from powermeter.errors import ProcessError
from powermeter.process.control import STOP_S, ask
from powermeter.process.holder import holder
from powermeter.process.pidfile import PidFile
from powermeter.process.systemd import notify

#: RPi.GPIO as far as the program uses it, with no flash ever.
STANDIN = """
BOARD, BCM, IN, OUT, PUD_OFF, FALLING, LOW, HIGH = range(8)
def setwarnings(on): pass
def setmode(mode): pass
def setup(pin, direction, pull_up_down=None, initial=None): pass
def input(pin): return HIGH
def add_event_detect(pin, edge, callback=None): pass
def remove_event_detect(pin): pass
def output(pin, level): pass
def cleanup(pins): pass
"""


@pytest.fixture
def program(tmp_path):
    with Program(tmp_path) as program:
        yield program


def with_library(directory, text, **more):
    """A program whose RPi.GPIO is *text*."""
    library = directory / "library" / "RPi"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    (library / "GPIO.py").write_text(text)
    return Program(directory, 'GPIO_LIBRARY = "RPi.GPIO"', env={"PYTHONPATH": str(library.parent)}, **more)


@contextlib.contextmanager
def deaf_holder(pidfile):
    """A process that holds *pidfile* as the program would, and hears nothing."""
    code = (
        f"import signal, sys; sys.path.insert(0, {str(SOURCE)!r})\n"
        "from powermeter.process.pidfile import PidFile\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "with PidFile(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    line = [sys.executable, "-c", code, str(pidfile)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as deaf:
        try:
            assert deaf.stdout.readline() == "held\n"
            yield deaf
        finally:
            deaf.kill()


@pytest.fixture
def bystander():
    """A process that does not belong to the program; it must live on."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        yield bystander
        assert bystander.poll() is None
        bystander.kill()


def has_ended(pidfd):
    """Whether the process of *pidfd* has ended, now."""
    return bool(select.select([pidfd], [], [], 0)[0])


def one_line(text):
    """Whether *text* is one line of the program's, as a message to people is."""
    return re.fullmatch(r"power: [^\n]+\n", text) is not None


# --- Starting


def test_a_python_that_is_too_old():
    """It says so in one line: also to a Python that does not know the syntax of all the rest."""
    path = SOURCE / "power.py"
    ast.parse(path.read_text(), feature_version=(3, 6))
    line = f"import runpy, sys; sys.version_info = (3, 10, 13); runpy.run_path({str(path)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"power: needs Python 3.11 or newer, this is {sys.version.split()[0]}\n"


def test_start_returns_once_counting(program):
    """A start returns 0 only when the daemon counts: a status right after it is 0, and its pid was printed."""
    done = program.run("--simulate", "3000")
    asked = program.run("--status")
    assert (done.returncode, done.stderr) == (0, "")
    assert asked.returncode == 0
    assert done.stdout == f"power: counting, pid {program.pid}\n"
    assert f"running, pid {program.pid}" in asked.stdout
    assert program.pidfile.read_text() == f"{program.pid}\n"


def test_daemon_is_detached(program):
    """A daemon is nobody's child here, can't get a terminal, runs in its DATA_DIR, and reads and writes nothing."""
    pid = program.start("--simulate", "3000")
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    assert int(status["PPid"]) != os.getpid()
    assert os.getsid(pid) not in (os.getsid(0), pid)
    assert status["Umask"] == "0027"
    if AS_ROOT:  # only to root does the kernel show directory and files of a process without core dumps
        assert (proc / "cwd").resolve() == program.data_dir / "simulated"
        assert [str((proc / "fd" / fd).readlink()) for fd in "012"] == ["/dev/null"] * 3


def test_files_are_closed_to_others(program):
    """What a daemon writes is not for others to read, but for its pidfile and its lock, which hold a pid."""
    program.start("--simulate", "3000")
    data_dir = program.data_dir / "simulated"
    files = [path for path in data_dir.iterdir() if path.name != "lock"]
    assert {path.name for path in files} >= {"journal.db", "power.log"}
    assert [path for path in [data_dir, *files] if path.stat().st_mode & stat.S_IRWXO] == []
    assert stat.S_IMODE(program.pidfile.stat().st_mode) == 0o644


def test_data_dir_is_closed_to_others(program):
    """DATA_DIR is closed to others also where a simulated run made it first: it will hold the real journal."""
    program.start("--simulate", "3000")
    assert stat.S_IMODE(program.data_dir.stat().st_mode) & stat.S_IRWXO == 0


def test_starting_twice(program):
    """A second start, as a daemon or not, is refused with the pid of the first, which goes on."""
    pid = program.start("--simulate", "3000")
    for way in ([], ["--nodaemon"]):
        done = program.run("--simulate", "3000", *way)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"power: already running, pid {pid}\n")
    assert program.status()["pid"] == pid


def test_twenty_starts_at_once(program):
    """Of 20 simultaneous starts one wins; every other reports so, with the winner's pid."""
    line = program.line("--simulate", "3000")
    starts = [
        subprocess.Popen(line, env=program.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(20)
    ]
    said = sorted((*start.communicate(timeout=PATIENCE_S), start.returncode) for start in starts)
    pid = program.status()["pid"]
    lost = ("", f"power: already running, pid {pid}\n", 1)
    assert said == [lost] * 19 + [(f"power: counting, pid {pid}\n", "", 0)]


def test_two_pidfiles_on_one_data_dir(program):
    """Another pidfile does not get a second program to the same DATA_DIR; the first one still answers."""
    pid = program.start("--simulate", "3000")
    other = program.directory / "other.pid"
    done = program.run("--simulate", "3000", "--pidfile", str(other))
    advice = f"it uses {program.data_dir}/simulated: stop it with kill {pid}, or set another DATA_DIR"
    assert done.returncode == 1
    assert done.stderr == f"power: already running, pid {pid}, with another pidfile: {advice}\n"
    assert not other.exists()
    assert program.status()["pid"] == pid


def test_two_programs_side_by_side(tmp_path):
    """Two programs with a pidfile and a DATA_DIR each run beside each other, and each answers for itself."""
    with Program(tmp_path / "one") as one, Program(tmp_path / "two") as two:
        pids = [each.start("--simulate", "3000") for each in (one, two)]
        assert [each.status()["pid"] for each in (one, two)] == pids
        assert one.run("--kill").returncode == 0
        assert two.status()["pid"] == pids[1]


def test_pidfiles_of_like_names_side_by_side(tmp_path):
    """Two programs whose pidfiles differ only in their ending don't take each other's socket."""
    with Program(tmp_path / "one") as one, Program(tmp_path / "two") as two:
        one.pidfile, two.pidfile = tmp_path / "power.pid", tmp_path / "power"
        try:
            pids = [each.start("--simulate", "3000") for each in (one, two)]
            assert [each.status()["pid"] for each in (one, two)] == pids
        finally:
            for pidfile in (one.pidfile, two.pidfile):
                kill(holder(str(pidfile)))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(program, closed):
    """A caller may have closed any of the three streams: no file or pipe takes its number, and it counts."""
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *program.line("--simulate", "3000")]
    done = subprocess.run(line, env=program.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if AS_ROOT:
        assert [str(Path(f"/proc/{program.pid}/fd/{fd}").readlink()) for fd in "012"] == ["/dev/null"] * 3
    line[-2:] = ["--status"]
    assert subprocess.run(line, env=program.env, timeout=PATIENCE_S, check=False).returncode == 0


def test_the_caller_s_umask(tmp_path):
    """What Python keeps of the compiled source nobody else may write, whatever the caller's umask."""
    script = copy_of_the_program(tmp_path / "top")
    line = [sys.executable, script, "--version"]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(line, env=env, umask=0, stdout=subprocess.DEVNULL, check=True)
    made = [path for cache in script.parent.rglob("__pycache__") for path in (cache, *cache.iterdir())]
    assert len(made) > 3
    assert [path for path in made if path.stat().st_mode & 0o022] == []


# --- Pidfiles of all kinds

CONTENTS = {
    "empty": b"",
    "garbage": b"not a pid\n",
    "negative": b"-1\n",
    "of the kernel": b"1\n",
    "huge": b"9" * 1_000_000,
    "binary": random.Random(1).randbytes(4096),
}


def assert_blocks_nothing(program, content):
    """A pidfile with *content* that nobody holds: dead, nothing to kill, and no hindrance."""
    program.pidfile.write_bytes(content)
    asked = program.run("--status")
    assert (asked.returncode, asked.stdout) == (1, f"power: not running, but {program.pidfile} was left\n")
    stopped = program.run("--kill")
    assert (stopped.returncode, stopped.stdout) == (0, "power: not running\n")
    program.start("--simulate", "3000")
    assert program.pidfile.read_text() == f"{program.pid}\n"
    assert program.run("--status").returncode == 0


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_pidfile_that_was_left(program, content):
    """A pidfile that no process holds counts for nothing, whatever is in it."""
    assert_blocks_nothing(program, content)


def test_stale_pidfile(program):
    """A pidfile with the number of a process that has ended counts for nothing."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert_blocks_nothing(program, b"%d\n" % ended.pid)


def test_foreign_pidfile(program, bystander):
    """A pidfile with the number of a living process that is not ours counts for nothing, and that process lives on."""
    assert_blocks_nothing(program, b"%d\n" % bystander.pid)
    assert program.run("--kill").returncode == 0


def test_number_in_the_file_of_the_running_one(program, bystander):
    """Whatever number is written into the running one's pidfile, the running one is asked and stopped."""
    pid = program.start("--simulate", "3000")
    program.pidfile.write_bytes(b"%d\n" % bystander.pid)
    assert program.status()["pid"] == pid
    assert program.run("--kill").stdout == f"power: stopped, pid {pid}\n"


def make_link(path):
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("make", [make_link, Path.mkdir, os.mkfifo], ids=["link", "directory", "fifo"])
def test_no_pidfile(program, make):
    """If a link, a directory or a FIFO is in the pidfile's place, a start says so in one line, and leaves it."""
    make(program.pidfile)
    before = program.pidfile.lstat()
    done = program.run("--simulate", "3000")
    assert done.returncode == 1
    assert one_line(done.stderr)
    assert str(program.pidfile) in done.stderr
    after = program.pidfile.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert sorted(path.name for path in program.directory.iterdir()) == ["data", "power.pid", "settings.py"]
    for command, statuses in (("--kill", (0, 1)), ("--status", (1, 4))):
        done = program.run(command)
        assert done.returncode in statuses
        assert one_line(done.stdout + done.stderr)


def test_pidfile_where_no_directory_is(program):
    """A pidfile in a directory that does not exist is refused in one line with its path."""
    program.pidfile = program.directory / "nowhere" / "power.pid"
    done = program.run("--simulate", "3000")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"power: {program.pidfile}: can't be written: No such file or directory: name another with --pidfile\n"
    )


def test_pidfile_goes_with_its_program(program):
    """After a stop neither the pidfile nor the socket beside it is left."""
    program.start("--simulate", "3000")
    assert program.run("--kill").returncode == 0
    assert sorted(path.name for path in program.directory.iterdir()) == ["data", "settings.py"]


#: Takes the pidfile and lets go of it, again and again; fails where it holds a file that is not the one of that name.
TAKING = f"""
import os, sys; sys.path.insert(0, {str(SOURCE)!r})
from powermeter.errors import AlreadyRunningError
from powermeter.process.pidfile import PidFile
taken = 0
while taken < 300:
    try:
        with PidFile(sys.argv[1]) as pidfile:
            assert os.path.samestat(os.fstat(pidfile._fd), os.stat(sys.argv[1]))
            taken += 1
    except AlreadyRunningError:
        pass
"""


def test_pidfile_taken_and_left_again_and_again(tmp_path):
    """Whoever has the pidfile has the file of that name, not one that another has just removed."""
    line = [sys.executable, "-c", TAKING, str(tmp_path / "power.pid")]
    takers = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(*taker.communicate(timeout=PATIENCE_S), taker.returncode) for taker in takers] == [(None, "", 0)] * 4


# --- Stopping


def test_kill_waits_for_the_end(program):
    """--kill returns 0 once the daemon has ended, and says which; a second one finds nothing, and that is 0 too."""
    pid = program.start("--simulate", "3000")
    pidfd = os.pidfd_open(pid)
    try:
        done = program.run("--kill")
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"power: stopped, pid {pid}\n", "")
    again = program.run("--kill")
    assert (again.returncode, again.stdout, again.stderr) == (0, "power: not running\n", "")


def test_kill_of_a_foreground_program(program):
    """--kill stops a program in the foreground too, which ends with 0."""
    popen = program.foreground("--simulate", "3000")
    done = program.run("--kill")
    assert (done.returncode, done.stdout) == (0, f"power: stopped, pid {popen.pid}\n")
    assert popen.wait(PATIENCE_S) == 0


#: A stop that is patient for less than its 15 s.
SHORT_PATIENCE = "import powermeter.process.control; powermeter.process.control.STOP_S = 1.0"


def test_kill_of_a_stopped_daemon(program):
    """A daemon stopped by SIGSTOP is still there after the patience of --kill: exit 1, and said. Continued, it ends."""
    pid = program.start("--simulate", "3000")
    os.kill(pid, signal.SIGSTOP)
    done = program.run_after(SHORT_PATIENCE, "--kill")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"power: pid {pid} is still there 1 s after SIGTERM: kill -KILL {pid} ends it\n"
    assert program.pid == pid
    os.kill(pid, signal.SIGCONT)
    assert program.run("--kill").returncode == 0
    assert program.pid is None


def test_kill_of_a_deaf_process(program):
    """A process that holds the lock and ignores SIGTERM: --kill is 1 and says so, and --status is 4."""
    with deaf_holder(program.pidfile) as deaf:
        asked = program.run("--status")
        assert asked.returncode == 4
        assert asked.stderr.startswith(f"power: pid {deaf.pid} holds {program.pidfile}, but it does not answer")
        done = program.run_after(SHORT_PATIENCE, "--kill")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"power: pid {deaf.pid} is still there 1 s after SIGTERM: kill -KILL {deaf.pid} ends it\n"
        )
        assert deaf.poll() is None


def test_patience_of_a_stop():
    """A stop waits for 15 s, more than the 10 that the program gives itself."""
    assert STOP_S == 15


def test_unreadable_pidfile():
    """A pidfile that the user may not read: --kill and --status say so in one line, exit 4."""
    with readable_to_all() as directory, Program(directory) as program:
        program.pidfile.touch(mode=0)
        for command in ("--kill", "--status"):
            done = program.run_after(UNPRIVILEGED, command)
            assert (done.returncode, done.stdout) == (4, "")
            assert done.stderr == f"power: {program.pidfile}: the pidfile can't be read: Permission denied\n"


def test_daemon_of_another_user():
    """Another user's daemon can't be stopped or restarted: exit 4, in one line. It is seen to run, and goes on."""
    if not AS_ROOT:
        return  # only root can make a daemon of another user; the test above covers the rest of exit 4
    with readable_to_all() as directory, Program(directory) as program:
        pid = program.start("--simulate", "3000")
        program.settings.chmod(0o644)
        stopped = program.run_after(UNPRIVILEGED, "--kill")
        assert (stopped.returncode, stopped.stdout) == (4, "")
        assert stopped.stderr == f"power: pid {pid} belongs to another user: no permission to stop it\n"
        restarted = program.run_after(UNPRIVILEGED, "--restart")
        assert (restarted.returncode, restarted.stdout) == (4, "")
        assert restarted.stderr == "power: only its own user and root may ask how it does\n"
        asked = program.run_after(UNPRIVILEGED, "--status")
        assert (asked.returncode, asked.stdout) == (0, "")
        assert asked.stderr == f"power: running, pid {pid}; only its own user and root may ask how it does\n"
        assert program.status()["pid"] == pid


# --- A start that fails


def assert_failed(program, done, reason):
    """A start failed for *reason*, in one line, and left nothing that runs or blocks."""
    assert (done.returncode, done.stdout) == (1, "")
    assert one_line(done.stderr)
    assert reason in done.stderr
    asked = program.run("--status")
    assert (asked.returncode, asked.stdout) == (3, "power: not running\n")


def test_journal_that_is_none(program):
    """A database of another program is found after the fork; the caller gets exit 1 and the reason, the log too."""
    journal = program.data_dir / "simulated" / "journal.db"
    journal.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute("CREATE TABLE other (something)")
    before = journal.read_bytes()
    done = program.run("--simulate", "3000")
    assert_failed(program, done, f"{journal}: not a journal of this version of power ")
    assert f"{journal}: not a journal of this version of power " in (journal.parent / "power.log").read_text()
    assert journal.read_bytes() == before


def test_data_dir_below_a_file(program):
    """A DATA_DIR that can't be made fails the start with its path."""
    program.data_dir.write_text("a file")
    done = program.run("--simulate", "3000")
    assert_failed(program, done, f"{program.data_dir / 'simulated'}: DATA_DIR can't be made: Not a directory")


def test_data_dir_that_cannot_be_written():
    """A DATA_DIR that the user may not write fails the start with its path and what to do."""
    with readable_to_all() as directory, Program(directory) as program:
        program.settings.chmod(0o644)
        data_dir = program.data_dir / "simulated"
        data_dir.mkdir(parents=True)
        for path in (data_dir, program.data_dir):
            path.chmod(0o555)
        try:
            done = program.run_after(UNPRIVILEGED, "--simulate", "3000")
        finally:
            for path in (program.data_dir, data_dir):
                path.chmod(0o755)
        assert_failed(program, done, f"{data_dir}: DATA_DIR can't be written by this user")


def test_lock_of_data_dir_that_is_no_file(program):
    """Whatever is in the place of DATA_DIR's lock is found after the fork, and the pidfile is removed."""
    (program.data_dir / "simulated" / "lock").mkdir(parents=True)
    assert_failed(program, program.run("--simulate", "3000"), "lock: can't be written: Is a directory")


def test_daemon_killed_before_it_counts(tmp_path):
    """A daemon that is killed after the fork, before it counts, is a failed start, in one line; the next one works."""
    with with_library(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n") as program:
        done = program.run()
        assert (done.returncode, done.stdout) == (1, "")
        assert one_line(done.stderr)
        assert "ended before it could count" in done.stderr
        assert program.run("--status").returncode == 1
        (tmp_path / "library" / "RPi" / "GPIO.py").write_text(STANDIN)
        program.start()


def test_missing_library_of_pins(tmp_path):
    """A library of pins that can't be imported is found after the fork; the caller learns what to do, in one line."""
    with with_library(tmp_path, "raise ImportError('no such library')\n") as program:
        assert_failed(program, program.run(), "the library RPi.GPIO is missing")


def test_caller_killed_before_it_counts(tmp_path):
    """A start whose caller is killed while the daemon is not ready yet: the daemon gets ready, and counts on."""
    reached, fifo = tmp_path / "reached", tmp_path / "fifo"
    os.mkfifo(fifo)
    slow = f"open({str(reached)!r}, 'w').close()\nopen({str(fifo)!r}, 'rb').read(1)\n"
    # Open for reading too, so that neither side waits for the other.
    go = os.open(fifo, os.O_RDWR)
    try:
        with with_library(tmp_path, slow + STANDIN) as program:
            caller = subprocess.Popen(program.line(), env=program.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            wait_until(reached.exists)
            caller.kill()
            said = caller.communicate(timeout=PATIENCE_S)
            pid = program.pid
            os.write(go, b"1")
            wait_until(lambda: program.run("--status").returncode == 0)
            assert said == (b"", b"")
            assert program.status()["pid"] == pid != caller.pid
            assert program.run("--kill").stdout == f"power: stopped, pid {pid}\n"
    finally:
        os.close(go)


#: No byte more can be written to a file, as on a full disk; for every user.
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"


@pytest.mark.parametrize("way", [[], ["--nodaemon"]], ids=["daemon", "foreground"])
def test_pidfile_on_a_full_disk(program, way):
    """Where the pid can't be written the start fails with the pidfile's path in one line, and takes the file back."""
    done = program.run_after(FULL_DISK, "--simulate", "3000", *way)
    assert_failed(program, done, f"{program.pidfile}: can't be written: File too large")
    assert not (program.data_dir / "simulated" / "journal.db").exists()


def test_start_after_sigkill(program):
    """A SIGKILLed daemon leaves its pidfile: --status is 1, --kill has nothing to do, and a start works."""
    kill(program.start("--simulate", "3000"))
    asked = program.run("--status")
    assert (asked.returncode, asked.stdout) == (1, f"power: not running, but {program.pidfile} was left\n")
    assert program.run("--status", "--json").stdout == '{"running": false}\n'
    assert program.run("--kill").stdout == "power: not running\n"
    program.start("--simulate", "3000")
    assert program.status()["running"] is True


# --- Restarting


@pytest.mark.parametrize(("simulate", "kept"), [(["3000"], 3000), ([], True)], ids=["constant load", "household"])
def test_restart_keeps_simulate(program, simulate, kept):
    """--restart ends the running one and starts another with the same simulated load."""
    before = program.start("--simulate", *simulate)
    done = program.run("--restart")
    assert done.returncode == 0
    assert done.stdout == f"power: stopped, pid {before}\npower: counting, pid {program.pid}\n"
    now = program.status()
    assert now["pid"] == program.pid != before
    assert now["simulate"] == kept
    assert type(now["simulate"]) is type(kept if kept is True else 1.0)


def test_restart_of_a_foreground_program(program):
    """--restart ends a program in the foreground and starts a daemon in its place, as simulated as that was."""
    popen = program.foreground("--simulate", "3000")
    assert program.run("--restart").returncode == 0
    assert popen.wait(PATIENCE_S) == 0
    assert program.status()["simulate"] == 3000


@pytest.mark.parametrize("left", [False, True], ids=["nothing there", "pidfile left"])
def test_restart_where_nothing_ran(tmp_path, left):
    """--restart starts a daemon where nothing ran, with the real pins."""
    with with_library(tmp_path, STANDIN) as program:
        if left:
            program.pidfile.write_text("1\n")
        done = program.run("--restart")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"power: not running\npower: counting, pid {program.pid}\n"
        assert program.status()["simulate"] is None


def test_restart_with_wrong_settings(program):
    """--restart with a mistake in the new settings stops nothing."""
    pid = program.start("--simulate", "3000")
    program.set("COMMIT_INTERVAL = 0")
    done = program.run("--restart")
    assert (done.returncode, done.stdout) == (1, "")
    assert "COMMIT_INTERVAL: found 0" in done.stderr
    assert program.status()["pid"] == pid


def test_restart_with_a_data_dir_that_can_not_be_made(program):
    """--restart with a DATA_DIR that can't be made stops nothing."""
    pid = program.start("--simulate", "3000")
    program.set(f"DATA_DIR = {str(program.settings / 'below')!r}")
    done = program.run("--restart")
    assert (done.returncode, done.stdout) == (1, "")
    assert one_line(done.stderr)
    assert f"{program.settings}/below/simulated: DATA_DIR can't be made: Not a directory" in done.stderr
    assert program.status()["pid"] == pid


# --- Checking


def test_check_leaves_the_pins_of_the_running_one(tmp_path):
    """--check tries no pins while a program has them that runs on the same DATA_DIR, by whatever pidfile."""
    with with_library(tmp_path, STANDIN) as program:
        pid = program.start()
        (tmp_path / "library" / "RPi" / "GPIO.py").write_text("raise ImportError('the pins were tried')\n")
        for pidfile in (program.pidfile, tmp_path / "other.pid"):
            done = program.run("--check", "--pidfile", str(pidfile))
            assert (done.returncode, done.stderr) == (0, "")
            assert f"pins: ok, in use by the running one, pid {pid}, and so not tried\n" in done.stdout
        assert program.status()["pid"] == pid


def test_check_beside_a_simulated_one(tmp_path):
    """--check tries the pins where nothing runs, and while a simulated program runs by the same pidfile."""
    with with_library(tmp_path, STANDIN) as program:
        alone = program.run("--check")
        program.start("--simulate", "3000")
        beside = program.run("--check")
    assert (alone.returncode, beside.returncode) == (0, 0)
    assert "pins: ok, house on 18, 1000 imp/kWh\n" in alone.stdout
    assert beside.stdout == alone.stdout


# --- Asking


def test_status_codes(program):
    """--status: 3 where nothing ran, 0 while it runs, 1 where a killed one left its pidfile; 3 again after a stop."""
    asked = [program.run("--status")]
    pid = program.start("--simulate", "3000")
    asked.append(program.run("--status"))
    kill(pid)
    asked.append(program.run("--status"))
    program.start("--simulate", "3000")
    program.run("--kill")
    asked.append(program.run("--status"))
    assert [done.returncode for done in asked] == [3, 0, 1, 3]
    assert [done.stderr for done in asked] == [""] * 4
    assert asked[0].stdout == asked[3].stdout == "power: not running\n"


def test_status_of_the_running_one(tmp_path):
    """--status tells of every meter and writer; --json the same for programs."""
    meters = 'METERS = {"house": {"pin": 18, "impulses_per_kwh": 1000}, "pump": {"pin": 22, "impulses_per_kwh": 800}}'
    with Program(tmp_path, meters) as program:
        pid = program.start("--simulate", "20000")
        wait_until(lambda: min(meter["pulses"] for meter in program.status()["meters"].values()) >= 2)
        now, text = program.status(), program.run("--status").stdout
        assert (now["running"], now["pid"], now["simulate"]) == (True, pid, 20000)
        assert set(now["meters"]) == {"house", "pump"}
        assert now["writers"]["file"]["state"] in ("ok", "waiting")
        for name in now["meters"]:
            # "at most" where the next flash is later than the load's rhythm has it, as on a busy machine.
            line = rf"^meter {name}: (at most )?[\d,]+ W; today [\d,]+ pulses, .* kWh; register .* rejected$"
            assert re.search(line, text, re.MULTILINE)
        assert re.search(r"^writer file: (ok|waiting); ", text, re.MULTILINE)
        assert f"running, pid {pid}, for " in text
        assert "simulated 20000 W" in text


def test_status_json_where_nothing_runs(program):
    """--status --json is JSON and 3 where nothing runs."""
    done = program.run("--status", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (3, '{"running": false}\n', "")


def test_status_of_a_stopped_daemon(program):
    """A daemon that is stopped by SIGSTOP does not answer: --status gives up, says so, exit 4; continued, 0 again."""
    pid = program.start("--simulate", "3000")
    os.kill(pid, signal.SIGSTOP)
    for more in ([], ["--json"]):
        done = program.run("--status", *more)
        assert (done.returncode, done.stdout) == (4, "")
        assert one_line(done.stderr)
        assert f"pid {pid} holds {program.pidfile}, but it does not answer" in done.stderr
    os.kill(pid, signal.SIGCONT)
    assert program.run("--status").returncode == 0


def test_no_socket_beside_the_pidfile(program):
    """Where no socket can be made there, it counts; nobody can ask it, and --kill ends it."""
    program.pidfile.with_name(program.pidfile.name + ".sock").mkdir()  # in the way: it can't be removed as a socket
    pid = program.start("--simulate", "20000")
    log = program.data_dir / "simulated" / "power.log"
    assert (
        f"{program.pidfile}: can't create the socket beside it: Is a directory: --status won't work" in log.read_text()
    )
    asked = program.run("--status")
    assert (asked.returncode, asked.stdout) == (4, "")
    assert asked.stderr.startswith(f"power: pid {pid} holds {program.pidfile}, but it does not answer")
    wait_until((program.data_dir / "simulated" / "power.csv").exists)
    assert program.run("--kill").returncode == 0


def test_a_file_system_without_sockets(program):
    """Beside a pidfile on exFAT no socket can be made: the kernel has another place for it, closed to other users."""
    before = """
import os, socket
class Socket(socket.socket):
    def bind(self, address):
        if isinstance(address, str) and address.startswith("/"):
            raise PermissionError(1, "Operation not permitted")
        super().bind(address)
socket.socket = Socket
"""
    line = program.line_after(before, "--nodaemon", "--simulate", "20000")
    with subprocess.Popen(line, env=program.env, stdout=subprocess.DEVNULL) as popen:
        wait_until(lambda: program.pid is not None and program.run("--status").stdout)
        if AS_ROOT:
            done = program.run_after(UNPRIVILEGED, "--status")
            assert (done.returncode, done.stdout) == (4, "")
        popen.terminate()
        assert popen.wait(PATIENCE_S) == 0


def test_a_socket_that_can_be_made_later(program, monkeypatch):
    """It is tried again, and then --status can ask."""
    socket_path = program.pidfile.with_name(program.pidfile.name + ".sock")
    socket_path.mkdir()
    before = "import powermeter.process.control as p; p.LISTEN_S = 0.1"
    line = program.line_after(before, "--nodaemon", "--simulate", "20000")
    with subprocess.Popen(line, env=program.env, stdout=subprocess.DEVNULL) as popen:
        wait_until(lambda: program.pid is not None)
        socket_path.rmdir()
        wait_until(lambda: program.run("--status").stdout)
        popen.terminate()
        assert popen.wait(PATIENCE_S) == 0


def test_who_asks_and_goes(program):
    """Those who connect and ask nothing, or go away before the answer, don't keep the next one from its own."""
    program.start("--simulate", "3000")
    directory = os.open(program.directory, os.O_PATH)
    try:
        # Through /proc, as an address has 107 bytes.
        address = f"/proc/self/fd/{directory}/power.pid.sock"
        with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as gone:
            for asking in (silent, gone):
                asking.connect(address)
            gone.sendall(b"json\n")
            gone.close()
            assert program.run("--status").returncode == 0
    finally:
        os.close(directory)


def test_status_that_can_not_be_written(program):
    """Where what it says can't be written, one line says so, and the status is no 0 of a running one."""
    program.start("--simulate", "3000")
    program.env.pop("PYTHONUNBUFFERED", None)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            program.line("--status"), env=program.env, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "power: standard output can't be written: No space left on device\n",
    )


def test_status_without_a_standard_output(program):
    """A closed standard output is no reason to complain."""
    line = ["sh", "-c", 'exec "$@" >&-', "sh", *program.line("--status")]
    done = subprocess.run(line, env=program.env, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")


# --- One that was started where another pidfile is the default


@pytest.fixture
def logged_in(program):
    """The program, its pid, and its line without --pidfile: it was started in a login session, which has ended."""
    program.pidfile = program.directory / "session.pid"
    program.env.pop("XDG_RUNTIME_DIR", None)
    pid = program.start("--simulate", "3000")

    def run(*args):
        line = [sys.executable, "-c", NO_ROOT, *program.start_of_line[1:], "--settings", str(program.settings), *args]
        return subprocess.run(line, env=program.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    return program, pid, run


#: power.py as for a user who is not root, whose pidfile tests must not touch.
NO_ROOT = """
import os, runpy, sys
user = os.geteuid() or 1000
os.geteuid = lambda: user
sys.argv[:] = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_status_of_one_with_another_pidfile(logged_in):
    """If no process holds the default pidfile, the one that has DATA_DIR is named, and how to ask it."""
    program, pid, run = logged_in
    said = f"power: running, pid {pid}; it has another pidfile: name it with --pidfile\n"
    asked = run("--status")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "", said)
    asked = run("--status", "--json")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, f'{{"running": true, "pid": {pid}}}\n', said)
    for command in ("--kill", "--restart"):
        done = run(command)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    named = run("--status", "--pidfile", str(program.directory / "none.pid"))
    assert (named.returncode, named.stdout) == (3, "power: not running\n")
    assert program.status()["pid"] == pid


def test_wrong_settings_where_the_pidfile_is_looked_for(logged_in):
    """A mistake in settings that are read only for the pidfile's place: the line says that it can be named too."""
    program, pid, run = logged_in
    program.set("DATA_DIR = 1")
    for command, status in (("--status", 4), ("--kill", 1)):
        done = run(command)
        assert (done.returncode, done.stdout) == (status, "")
        assert one_line(done.stderr)
        assert "DATA_DIR: found 1" in done.stderr
        assert done.stderr.endswith("; or name its pidfile with --pidfile\n")
    assert "--pidfile" not in run("--restart").stderr
    assert program.status()["pid"] == pid


# --- Usage


@pytest.mark.parametrize(
    "args",
    [
        ["--kill", "--simulate"],
        ["--status", "--simulate", "3000"],
        ["--restart", "--simulate"],
        ["--check", "--simulate"],
        ["--json"],
        ["--kill", "--json"],
        ["--kill", "--status"],
        ["--nodaemon", "--restart"],
        ["--unknown"],
        ["--simulat", "3000"],
        ["--stat"],
        ["word"],
        ["--simulate", "nonsense"],
        ["--simulate", "0"],
        ["--simulate", "-5"],
        ["--simulate", "nan"],
        ["--simulate", "inf"],
        ["--pidfile"],
        ["--settings"],
    ],
    ids=" ".join,
)
def test_usage_errors(program, args):
    """Options that don't go together, or that there are not, are exit 2 with the usage, and nothing is started."""
    done = program.run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: power.py ")
    assert [path.name for path in program.directory.iterdir()] == ["settings.py"]


@pytest.mark.parametrize(
    ("option", "said"), [("--help", "usage: power.py "), ("-h", "usage: "), ("--version", "power ")]
)
def test_help_and_version(program, option, said):
    """--help and --version say what they should and are 0."""
    done = program.run(option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)


def copy_of_the_program(directory):
    """Only the program's files, in *directory*, without any settings.py; its power.py."""
    shutil.copytree(SOURCE, directory / "src", ignore=shutil.ignore_patterns("__pycache__", "settings.py"))
    shutil.copytree(SOURCE / "powermeter", directory / "src" / "powermeter", dirs_exist_ok=True)
    shutil.copy(SOURCE.parent / "settings.py.example", directory)
    return directory / "src" / "power.py"


def test_no_settings(tmp_path):
    """Without a settings.py a start says in one line to copy the example, exit 1, and starts nothing."""
    script = copy_of_the_program(tmp_path / "top")
    env = {key: value for key, value in os.environ.items() if key != "POWER_SETTINGS"}
    for way in ([], ["--nodaemon"], ["--check"]):
        line = [sys.executable, str(script), "--pidfile", str(tmp_path / "power.pid"), *way]
        done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=PATIENCE_S, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"power: no settings.py: cp {tmp_path}/top/settings.py.example {tmp_path}/top/settings.py, "
            "or try --simulate\n"
        )
    assert not (tmp_path / "power.pid").exists()


def test_settings_that_are_not_there(program):
    """A settings.py that is named and is not there is one line with its path, exit 1."""
    missing = program.directory / "missing.py"
    done = program.run("--settings", str(missing), "--simulate")
    assert (done.returncode, done.stderr) == (1, f"power: {missing}: can't be read: No such file or directory\n")


@pytest.mark.parametrize("args", [[], ["--nodaemon"], ["--status"], ["--kill"]], ids=" ".join)
def test_missing_requirements(program, args):
    """Where the requirements are missing, one line names them and how to install them, exit 1."""
    # A tree of its own: beside this one make run may have made a virtual environment.
    top = program.directory / "top"
    program.start_of_line[1:] = ["-E", "-S", str(copy_of_the_program(top))]
    done = program.run(*args)
    assert (done.returncode, done.stdout) == (1, "")
    assert one_line(done.stderr)
    assert "missing: lockfile, python-daemon: " in done.stderr
    venv = f"{top}/venv"
    advice = f"venv --system-site-packages {venv} && {venv}/bin/python -m pip install -r {top}/requirements.txt\n"
    assert done.stderr.endswith(f": {sys.executable} -m {advice}")
    # A link that leads nowhere, as after the system's Python was removed.
    (top / "venv" / "bin").mkdir(parents=True)
    (top / "venv" / "bin" / "python").symlink_to(program.directory / "removed")
    assert program.run(*args).stderr.endswith(f": {sys.executable} -m {advice.replace('venv ', 'venv --clear ', 1)}")


def test_missing_requirements_beside_a_virtual_environment(tmp_path):
    """Called by another interpreter than that of the virtual environment beside it, it says by which to call it."""
    script = copy_of_the_program(tmp_path / "top")
    python = tmp_path / "top" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    line = [sys.executable, "-E", "-S", str(script), "--status"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"power: missing: lockfile, python-daemon: call it with {python} {script}\n"
    # One that another user may change runs that user's code.
    if AS_ROOT:
        venv = python.parent.parent
        os.chown(venv, 54321, -1)
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        os.chown(venv, 0, -1)
        user = "'user 54321'"
        assert done.stderr.endswith(f": call it with sudo -u {user} {python} {script}\n")
    # That one, where it lacks them itself.
    (python.parent.parent / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    packages = python.parent.parent / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    line[:3] = [str(python), "-E"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    install = f"{python} -m pip install -r {tmp_path}/top/requirements.txt"
    assert done.stderr == f"power: missing: lockfile, python-daemon: {install}\n"
    # Its Python is another one now: the system was upgraded.
    packages.rmdir()
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    venv = python.parent.parent
    assert done.stderr == (
        f"power: missing: lockfile, python-daemon: {venv} was made for another Python: "
        f"python3 -m venv --upgrade --system-site-packages {venv} && {install}\n"
    )
    subprocess.run([sys.executable, "-m", "venv", "--upgrade", "--system-site-packages", venv], check=True)
    done = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True, check=True)
    assert str(packages) in done.stdout


# --- From anywhere


def test_relative_pidfile(program):
    """A relative --pidfile is taken from the caller's directory, wherever the daemon stands then."""
    here, there = program.directory / "here", program.directory / "there"
    here.mkdir()
    there.mkdir()
    assert program.run("--simulate", "3000", "--pidfile", "mine.pid", cwd=here).returncode == 0
    assert (here / "mine.pid").exists()
    assert program.run("--status", "--pidfile", "mine.pid", cwd=there).returncode == 3
    assert program.run("--status", "--pidfile", "../here/mine.pid", cwd=there).returncode == 0
    assert program.run("--kill", "--pidfile", "mine.pid", cwd=here).returncode == 0
    assert list(here.iterdir()) == []


def test_relative_settings(program):
    """A relative --settings is taken from the caller's directory."""
    done = program.run("--simulate", "3000", "--settings", "settings.py", cwd=program.directory)
    assert done.returncode == 0
    assert program.status()["running"] is True


@pytest.mark.parametrize("way", [[], ["--nodaemon"]], ids=["daemon", "foreground"])
def test_relative_settings_of_the_environment(program, way):
    """A relative $POWER_SETTINGS is taken from the caller's directory, also when the settings are read again."""
    line = [*program.start_of_line, "--pidfile", str(program.pidfile), "--simulate", "3000", *way]
    program.set("LOG_FILE = 'my.log'")
    log = program.data_dir / "simulated" / "my.log"
    with subprocess.Popen(line, cwd=program.directory, env=program.env | {"POWER_SETTINGS": "settings.py"}) as popen:
        try:
            wait_until(lambda: program.run("--status").returncode == 0)
            os.kill(program.pid, signal.SIGHUP)
            wait_until(lambda: re.search("reload: .*in force", log.read_text()))
            assert f"reload: {program.settings} is in force" in log.read_text()
        finally:
            popen.kill()


def test_long_pidfile_directory(program):
    """A pidfile may stand deeper than the address of a socket may be long (107 bytes)."""
    directory = program.directory / ("d" * 120) / ("e" * 120)
    directory.mkdir(parents=True)
    program.pidfile = directory / "power.pid"
    pid = program.start("--simulate", "3000")
    assert program.status()["pid"] == pid
    assert program.run("--kill").returncode == 0
    assert list(directory.iterdir()) == []


def test_from_any_directory_by_a_linked_source(tmp_path):
    """It works from any directory, and by a link to src."""
    (tmp_path / "link").symlink_to(SOURCE)
    with Program(tmp_path / "one", script=tmp_path / "link" / "power.py") as program:
        assert program.run("--simulate", "3000", cwd="/").returncode == 0
        assert program.run("--status", cwd="/").returncode == 0
        assert program.run("--kill", cwd="/").returncode == 0


def from_a_directory_that_is_gone(program, *args):
    """Run *args* in a directory that was removed after its shell went there."""
    gone = program.directory / "gone"
    gone.mkdir()
    line = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *program.line(*args)]
    return subprocess.run(
        line, cwd=gone, env=program.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_directory_that_is_gone(program):
    """It starts, answers and stops also from a directory that was removed."""
    for args in (["--simulate", "3000"], ["--status"], ["--kill"]):
        done = from_a_directory_that_is_gone(program, *args)
        assert (done.returncode, done.stderr) == (0, "")


def test_relative_path_from_a_directory_that_is_gone(program):
    """A relative path from a directory that was removed leads nowhere: said without a traceback, and not 0."""
    for option in ("--pidfile", "--settings"):
        done = from_a_directory_that_is_gone(program, option, "relative", "--status")
        assert done.returncode != 0
        assert "Traceback" not in done.stderr


def test_executable_by_itself(program):
    """src/power.py is executable, with the python3 that stands first on the path."""
    program.start_of_line = [str(SOURCE / "power.py")]
    program.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{program.env['PATH']}"
    done = program.run("--status")
    assert (done.returncode, done.stdout) == (3, "power: not running\n")


def test_many_open_files_allowed(program):
    """A daemon starts where the limit of open files is low, as where it is high, and holds none of its caller's."""
    line = program.line("--simulate", "3000")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in sorted({64, soft, hard}):
        code = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {hard})); "
        before = [sys.executable, "-c", code + "os.execv(sys.argv[1], sys.argv[1:])"]
        reading, writing = os.pipe()
        with open(reading, "rb") as read, open(writing, "wb") as written:
            subprocess.run(
                [*before, *line],
                env=program.env,
                pass_fds=[writing],
                capture_output=True,
                timeout=PATIENCE_S,
                check=True,
            )
            written.close()
            assert select.select([read], [], [], PATIENCE_S)[0], "the daemon holds its caller's pipe open"
            assert read.read() == b""
        assert program.run("--kill").returncode == 0


# --- Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signals_end_the_foreground(program, number):
    """SIGTERM and SIGINT end a program in the foreground cleanly: exit 0, only log lines, nothing left."""
    popen = program.foreground("--simulate", "3000")
    popen.send_signal(number)
    assert popen.wait(PATIENCE_S) == 0
    assert program.out.read_text().splitlines()[0].endswith("| file ok")
    assert program.err.read_text().endswith("INFO stopped\n")
    assert program.run("--status").returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signals_end_the_daemon(program, number):
    """SIGTERM and SIGINT end a daemon cleanly; its log says so and nothing is left."""
    pid = program.start("--simulate", "3000")
    os.kill(pid, number)
    wait_until(lambda: program.pid is None)
    assert (program.data_dir / "simulated" / "power.log").read_text().endswith("INFO stopped\n")
    assert program.run("--status").returncode == 3


def test_stop_where_the_pidfile_s_directory_is_gone(program):
    """A stop is clean also where the pidfile's directory was removed, as $XDG_RUNTIME_DIR is at the last logout."""
    run = program.directory / "run"
    run.mkdir()
    program.pidfile = run / "power.pid"
    popen = program.foreground("--simulate", "3000")
    shutil.rmtree(run)
    popen.send_signal(signal.SIGTERM)
    assert popen.wait(PATIENCE_S) == 0
    assert "INFO stopped\n" in program.err.read_text()
    assert "Traceback" not in program.err.read_text()


def test_hangup_leaves_the_daemon(program):
    """SIGHUP, which comes when a terminal closes, does not end a daemon."""
    pid = program.start("--simulate", "3000")
    os.kill(pid, signal.SIGHUP)
    assert program.status()["pid"] == pid
    os.kill(pid, signal.SIGHUP)
    assert program.status()["pid"] == pid


def test_hangup_without_a_terminal(program):
    """SIGHUP to a program in the foreground that has no terminal, as a service has none, reads the settings again."""
    popen = program.foreground("--simulate", "3000")
    program.set("COMMIT_INTERVAL = 0")
    popen.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload: the settings from before stay in force" in program.err.read_text())
    program.set("COMMIT_INTERVAL = 0.2")
    popen.send_signal(signal.SIGHUP)
    wait_until(lambda: re.search(r"INFO reload: \S+ is in force\n", program.err.read_text()))
    assert program.status()["pid"] == popen.pid
    popen.send_signal(signal.SIGTERM)
    assert popen.wait(PATIENCE_S) == 0


#: Makes its input the controlling terminal of a session of its own, as a login does, and becomes the rest of its line.
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
{before}
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextlib.contextmanager
def on_terminal(program, *line, before=""):
    """
    A program in the foreground of a terminal of its own, by *line* before its own, once it counts.

    Yields its Popen and the function that hangs the terminal up.
    """
    ours, theirs = pty.openpty()
    with contextlib.ExitStack() as stack:
        hang_up = stack.enter_context(contextlib.ExitStack())
        hang_up.callback(os.close, ours)
        code = ON_TERMINAL.format(before=before)
        whole = [sys.executable, "-c", code, *line, *program.line("--nodaemon", "--simulate", "20000")]
        env = program.env | {"TERM": "xterm"}
        popen = subprocess.Popen(
            whole, cwd=program.directory, env=env, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
        )
        os.close(theirs)
        stack.callback(popen.wait)
        stack.callback(popen.kill)
        # What it shows is read away: a terminal that is full would hold it up.
        os.set_blocking(ours, False)

        def counts():
            with contextlib.suppress(OSError):  # nothing to read; under nohup nobody has the terminal open any more
                os.read(ours, 65536)
            return popen.poll() is not None or program.run("--status").returncode == 0

        wait_until(counts)
        assert popen.returncode is None
        yield popen, hang_up.close


@pytest.mark.parametrize("logs_to", ["a file", "the terminal"])
def test_terminal_that_hangs_up(tmp_path, logs_to):
    """A terminal that hangs up ends the program in its foreground cleanly: exit 0, and nothing left."""
    log = tmp_path / "my.log"
    with Program(tmp_path, f"LOG_FILE = {str(log)!r}" if logs_to == "a file" else "") as program:
        with on_terminal(program) as (popen, hang_up):
            hang_up()
            assert popen.wait(PATIENCE_S) == 0
        assert logs_to == "the terminal" or log.read_text().endswith("INFO stopped\n")
        assert program.run("--status").returncode == 3


@pytest.mark.parametrize(
    ("line", "before"),
    [(["nohup"], ""), ([], "signal.signal(signal.SIGHUP, signal.SIG_IGN)")],
    ids=["nohup", "ignored"],
)
def test_terminal_that_hangs_up_under_nohup(tmp_path, line, before):
    """Under nohup, or where its shell has SIGHUP ignored, a program outlives its terminal, and counts on."""
    log = tmp_path / "my.log"
    with (
        Program(tmp_path, f"LOG_FILE = {str(log)!r}") as program,
        on_terminal(program, *line, before=before) as (popen, hang_up),
    ):
        seen = program.status()["meters"]["house"]["pulses"]
        hang_up()
        # For some seconds: the line of the terminal would be shown again each second.
        wait_until(lambda: popen.poll() is not None or program.status()["meters"]["house"]["pulses"] >= seen + 20)
        assert popen.returncode is None, log.read_text()
        assert "reload" not in log.read_text()
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(PATIENCE_S) == 0


def test_two_interrupts(tmp_path):
    """A second Ctrl-C while it ends changes nothing: a hung server costs its patience, and the exit is 0."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        hung.settimeout(PATIENCE_S)
        writers = f'{{"influxdb": {{"type": "influxdb", "port": {hung.getsockname()[1]}, "host": "127.0.0.1"}}}}'
        with Program(tmp_path, f"COMMIT_INTERVAL = 0.1\nWRITERS = {writers}") as program:
            popen = program.foreground("--simulate", "20000")
            with hung.accept()[0]:  # a batch comes; it gets no answer
                popen.send_signal(signal.SIGINT)
                wait_until(lambda: "stopping" in program.err.read_text())
                popen.send_signal(signal.SIGINT)
                assert popen.wait(PATIENCE_S) == 0
            assert "influxdb: did not end within 5 s: waiting pulses stay in the journal" in program.err.read_text()


def test_stop_keeps_every_pulse(program):
    """What was counted until SIGTERM is in the file when the daemon has ended, each pulse once and in order."""
    program.start("--simulate", "20000")
    wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= 10)
    assert program.run("--kill").returncode == 0
    lines = (program.data_dir / "simulated" / "power.csv").read_text().splitlines()[1:]
    registers = [float(line.rsplit(",", 1)[1]) for line in lines]
    assert registers == [number / 1000 for number in range(1, len(lines) + 1)]
    assert len(lines) >= 10
    program.start("--simulate", "3000")
    assert program.status()["meters"]["house"]["pulses"] >= len(lines)


# --- What is not to be trusted

#: Holds the pidfile of its argument, and answers at the socket beside it with ANSWER, a pause before each piece.
ANSWERING = f"""
import socket, sys, time; sys.path.insert(0, {str(SOURCE)!r})
from powermeter.process.pidfile import PidFile
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".sock")
listener.listen(8)
with PidFile(sys.argv[1]):
    print("held", flush=True)
    while True:
        asked, _ = listener.accept()
        asked.recv(64)
        try:
            for piece in ANSWER:
                asked.sendall(piece)
        except OSError:
            pass
        asked.close()
"""


@contextlib.contextmanager
def answering_holder(pidfile, answer):
    """A process that holds *pidfile* and answers with the pieces of *answer*, an expression."""
    line = [sys.executable, "-c", ANSWERING.replace("ANSWER", answer), str(pidfile)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as holding:
        try:
            assert holding.stdout.readline() == "held\n"
            yield holding
        finally:
            holding.kill()


@pytest.mark.parametrize(
    "answer",
    ["iter(lambda: b'x' * 65536, 0)", "iter(lambda: time.sleep(0.1) or b'x', 0)"],
    ids=["fast", "a byte now and then"],
)
def test_answer_without_an_end(program, answer, monkeypatch):
    """An answer without an end is given up, after its time or its size."""
    monkeypatch.setattr("powermeter.process.control.ANSWER_S", 0.5)
    with answering_holder(program.pidfile, answer), pytest.raises(ProcessError, match="its answer has no end"):
        ask(str(program.pidfile), "text")


@pytest.mark.parametrize("answer", [r"[b'\x1b[2J\xff\n']", "[b'[]']", "[b'{}']", "[b'[' * 100000]"])
def test_answer_that_is_none(program, answer):
    """An answer of another program does nothing to a terminal, and --restart stops nothing for it."""
    with answering_holder(program.pidfile, answer) as holding:
        assert program.run("--status").stdout.replace("\n", "").isprintable()
        done = program.run("--restart")
        assert done.returncode == 1
        assert done.stderr == (
            f"power: pid {holding.pid}: its answer is not understood: nothing was stopped; --kill it, then start it\n"
        )
        assert holding.poll() is None


def test_answer_of_another_process(program):
    """What answers at the socket, but does not hold the lock, is not believed: anybody may have laid it in /tmp."""
    with deaf_holder(program.pidfile), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{program.pidfile}.sock")
        listener.listen()
        done = program.run("--status")
    assert done.returncode == 4
    assert done.stderr.endswith("another process answers in its place\n")


def test_a_link_in_the_place_of_the_socket(program):
    """The running one is asked at its socket; a link of another's to another socket there is not followed."""
    program.start("--simulate", "3000")
    path = Path(f"{program.pidfile}.sock")
    path.rename(program.directory / "elsewhere")
    path.symlink_to("elsewhere")
    assert program.run("--status").returncode == 0  # this user's own
    if AS_ROOT:
        os.lchown(path, 54321, 54321)
        done = program.run("--status")
        assert done.returncode == 4
        assert f"{path} belongs to user 54321, and is not followed" in done.stderr
        path.unlink()
        (program.directory / "elsewhere").rename(path)


@root_alone
@pytest.mark.parametrize("owner", [0, 54321])
def test_another_user_s_manager_is_told_nothing(tmp_path, monkeypatch, owner):
    """Only a socket of this user or of root is notified: su keeps the variable of the previous user."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)
        os.chown(tmp_path / "notify", owner, owner)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("STATUS=x")
        if owner == 0:
            assert manager.recv(99) == b"STATUS=x"
        else:
            with pytest.raises(BlockingIOError):
                manager.recv(99)


@root_alone
def test_pidfile_of_another_user(tmp_path):
    """A pidfile on a way that another user may have laid is refused, and nothing is made there."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to("elsewhere")
    os.lchown(tmp_path / "run", 54321, 54321)
    with pytest.raises(ProcessError, match=f"{tmp_path}/run belongs to .*54321, and is not followed"):
        PidFile(str(tmp_path / "run" / "power.pid")).acquire()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_core(program):
    """Neither a daemon nor a program in the foreground can leave a core dump: it would contain a password."""
    for pid in (program.start("--simulate", "3000"), None):
        limits = Path(f"/proc/{pid or program.foreground('--simulate', '3000').pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        assert program.run("--kill").returncode == 0


# --- The rules of the pidfile's place, in this process: the real places are not for tests to touch


def default_pidfile(*args):
    return subject.pidfile_for(arguments.parser().parse_args(args))


def test_default_pidfile_of_root(monkeypatch):
    """Root's pidfile is /run/power.pid, whatever else is set."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_pidfile() == "/run/power.pid"


def test_default_pidfile_of_a_user(monkeypatch, tmp_path):
    """A user's pidfile is in $XDG_RUNTIME_DIR where that is the user's own and private, else in DATA_DIR."""
    settings, runtime = tmp_path / "settings.py", tmp_path / "runtime"
    settings.write_text(f"DATA_DIR = {str(tmp_path / 'data')!r}\nCOMMIT_INTERVAL = 'a mistake'\n")
    runtime.mkdir(0o700)
    user = os.geteuid() or 1000
    os.chown(runtime, user, -1)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert default_pidfile("--settings", str(settings)) == str(runtime / "power.pid")
    in_data_dir = str(tmp_path / "data" / "power.pid")
    runtime.chmod(0o755)
    assert default_pidfile("--settings", str(settings)) == in_data_dir
    for unfit in ("", str(tmp_path / "missing"), "/run"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unfit)
        assert default_pidfile("--settings", str(settings)) == in_data_dir
    runtime.chmod(0o700)
    (tmp_path / "link").symlink_to(runtime)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "link"))
    assert default_pidfile("--settings", str(settings)) == str(runtime / "power.pid")
    if AS_ROOT:  # whoever has laid the link may lead it elsewhere after the look
        os.lchown(tmp_path / "link", 54321, 54321)
        assert default_pidfile("--settings", str(settings)) == in_data_dir
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("POWER_SETTINGS", str(settings))
    assert default_pidfile() == str(tmp_path / "data" / "power.pid")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings.write_text("")
    assert default_pidfile() == str(tmp_path / "home" / ".local" / "state" / "power" / "power.pid")


def test_the_service_is_found(program, monkeypatch, capsys, tmp_path):
    """Where nothing is named and nobody has the default pidfile, --status and --kill are about the service's."""
    monkeypatch.setattr(subject, "SERVICE_PIDFILE", str(program.pidfile))
    monkeypatch.setattr(subject, "pidfile_for", lambda args: args.pidfile or str(tmp_path / "none.pid"))
    pid = program.start("--simulate", "3000")
    assert power.main(["--status"]) == 0
    assert f"pid {pid}" in capsys.readouterr().out
    assert power.main(["--status", "--pidfile", str(tmp_path / "none.pid")]) == 3
    other = tmp_path / "other.py"
    other.write_text(f"DATA_DIR = {str(tmp_path / 'other')!r}\n")
    assert power.main(["--kill", "--settings", str(other)]) == 0
    assert capsys.readouterr().out == "power: not running\n" * 2
    assert power.main(["--kill"]) == 0
    assert capsys.readouterr().out == f"power: stopped, pid {pid}\n"
    assert power.main(["--status"]) == 3


def test_named_pidfile(monkeypatch, tmp_path):
    """A --pidfile stands above every rule, and is absolute from the caller's directory on."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.chdir(tmp_path)
    assert default_pidfile("--pidfile", "some/x.pid") == str(tmp_path / "some" / "x.pid")


def test_lock_is_not_broken(tmp_path):
    """python-daemon can't break the lock, and sees it as locked only while its process lives."""
    path = tmp_path / "power.pid"
    with deaf_holder(path):
        pidfile = PidFile(str(path))
        assert pidfile.is_locked()
        assert not pidfile.i_am_locking()
        with pytest.raises(lockfile.NotMyLock):
            pidfile.break_lock()
        with pytest.raises(ProcessError, match="already running, pid"):
            pidfile.acquire()
    assert not pidfile.is_locked()
    with pidfile:
        assert pidfile.i_am_locking()
    pidfile.release()
    assert not path.exists()


def test_a_pidfile_that_is_another_s_now(tmp_path):
    """One that was removed, and made again by another program, is left to that program."""
    path = tmp_path / "power.pid"
    with PidFile(str(path)):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_interrupted_before_it_counts(tmp_path):
    """Ctrl-C in a command that does not count yet, here while it reads its settings, ends it with one line and 130."""
    read = tmp_path / "read"
    with Program(tmp_path, f"open({str(read)!r}, 'w').close()\nimport time\ntime.sleep({PATIENCE_S})") as program:
        popen = subprocess.Popen(program.line("--check"), env=program.env, stderr=subprocess.PIPE, text=True)
        wait_until(read.exists)
        popen.send_signal(signal.SIGINT)
        _, said = popen.communicate(timeout=PATIENCE_S)
    assert (popen.returncode, said) == (130, "power: interrupted\n")
