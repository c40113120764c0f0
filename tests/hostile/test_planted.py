"""
Another user of the machine has planted something, and waits for the program to use it.

Links, directories that are exchanged in time, journals, pidfiles, settings that all may write. Nothing that a link of
another's leads to may be changed, no code of another's be run, and no process of another's be believed.
"""

import json
import os
import re
import sqlite3

import pytest
from machine import MALLORY, POWER, PROGRAM, TREE, VICTIM, WATTS, spy, tree_of
from program import wait_until

DATA = "/home/victim/data"
SETTINGS = "/home/victim/settings.py"
PIDFILE = "/home/victim/power.pid"
SIMULATED = ["--simulate", WATTS]

#: What nobody but root may change.
VICTIMS = "/home/victims"


def victims(m, *names):
    """Files of root's that are to stay as they are; the check that they are."""
    m.made(VICTIMS)
    for name in ("shadow", *names):
        m.write(f"{VICTIMS}/{name}", "root's\n")
    before = tree_of(m.on_host(VICTIMS))

    def check(why=""):
        assert tree_of(m.on_host(VICTIMS)) == before, why

    return check


def settings(m, text="", *, data_dir=DATA, path=SETTINGS, owner=VICTIM, mode=0o600):
    """Settings, and the words of the command line that name them."""
    m.write(path, f"DATA_DIR = {data_dir!r}\nCLOCK_WAIT = 0\nL1_PIN = None\n{text}\n", owner=owner, mode=mode)
    return ["--settings", path]


#: Exchanges a directory and a link for one another, again and again, with pauses of the third argument, in s.
EXCHANGE = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
one, other = (path.encode() for path in sys.argv[1:3])
pause_s = float(sys.argv[3])
print("ready", flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)
    if pause_s: time.sleep(pause_s)
"""


# --- Root, where another user has planted something


def plant(m, path, target, owner):
    """A link of *owner*'s."""
    m.on_host(path).symlink_to(target)
    os.lchown(m.on_host(path), owner, owner)


@pytest.mark.parametrize(
    "name",
    [
        "simulated",
        *(f"simulated/{name}" for name in ("journal.db", "journal.db-wal", "journal.db-shm", "journal.db.new", "lock")),
        "simulated/power.log",
        "simulated/power.csv",
    ],
)
def test_root_in_the_data_of_another_user_follows_no_link(machine, name):
    """Root that runs the program by hand, with the service's DATA_DIR, writes nowhere where a link there leads."""
    m = machine
    check = victims(m)
    m.made("/var/lib/power", owner=VICTIM, mode=0o750)
    if "/" in name:
        m.made("/var/lib/power/simulated", owner=VICTIM, mode=0o750)
        plant(m, f"/var/lib/power/{name}", f"{VICTIMS}/new", VICTIM)
    else:
        plant(m, f"/var/lib/power/{name}", VICTIMS, VICTIM)
    named = settings(
        m,
        'COMMIT_INTERVAL = 0.1\nWRITERS = {"f": {"type": "file", "path": "power.csv"}}',
        data_dir="/var/lib/power",
        path="/opt/settings.py",
        owner=0,
    )
    if m.power(*named, *SIMULATED).returncode == 0:
        m.counts(least=3)
        m.power(*named, "--kill")
    check()


#: Makes a journal of SQLite's at the path of its argument, closed by a crash: with a -wal, and without a -shm.
CRASHED = """
import os, sqlite3, sys
path = sys.argv[1]
journal = sqlite3.connect(path, isolation_level=None)
journal.execute("PRAGMA journal_mode = WAL")
journal.execute("CREATE TABLE t (a)")
os.unlink(path + "-shm")
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["a journal", "a FIFO behind a link"])
def test_root_s_check_opens_nothing_in_the_data_of_another_user(machine, kind):
    """Root's --check says that it can't use the DATA_DIR: no file is made where a link may lead, nor waited for."""
    m = machine
    data = m.made("/var/lib/power", owner=VICTIM, mode=0o750)
    if kind == "a journal":
        m.run("/usr/bin/python3", "-c", CRASHED, "/var/lib/power/journal.db", user="victim")
    else:
        m.made(VICTIMS)
        os.mkfifo(m.on_host(f"{VICTIMS}/fifo"), 0o600)
        plant(m, "/var/lib/power/journal.db", f"{VICTIMS}/fifo", VICTIM)
        m.write("/var/lib/power/journal.db-wal", "x", owner=VICTIM)
    writers = 'WRITERS = {"f": {"type": "file", "path": "/opt/root/power.csv"}}'
    named = settings(m, writers, data_dir="/var/lib/power", path="/opt/root/settings.py", owner=0)
    before = tree_of(data)
    done = m.power(*named, "--check", patience_s=20)
    assert "\ndata: /var/lib/power: DATA_DIR can't be used: " in done.stdout, done
    assert "\nwriter f: ok, " in done.stdout, done
    assert tree_of(data) == before


#: How often root starts the program while a directory of its data is exchanged.
STARTS = 80


@pytest.mark.parametrize("pause_s", [0, 0.005], ids=["without a pause", "now and then"])
def test_root_in_the_data_of_another_user_loses_no_race(machine, pause_s):
    """Nor where the service's user exchanges the directory of the journal for a link after root's look at it."""
    m = machine
    check = victims(m)
    m.made("/var/lib/power", owner=VICTIM, mode=0o750)
    m.made("/var/lib/power/simulated", owner=VICTIM, mode=0o750)
    plant(m, "/var/lib/power/link", VICTIMS, VICTIM)
    named = settings(m, data_dir="/var/lib/power", path="/opt/settings.py", owner=0)
    m.attack(EXCHANGE, "/var/lib/power/simulated", "/var/lib/power/link", pause_s, user="victim")
    for number in range(STARTS):
        m.power(*named, *SIMULATED)
        check(number)
        m.power(*named, "--kill")


SUDO = """#!/bin/sh
user=root
[ "$1" != -u ] || { user=$2; shift 2; }
home=$(getent passwd "$user" | cut -d: -f6)
exec setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env HOME="$home" "$@"
"""
SERVICE = '#!/bin/sh\nexec "/etc/init.d/$1" "$2"\n'

#: Makes a link wherever the journal was, as soon as it is away.
PLANTING = """
import os, sys
print("ready", flush=True)
while True:
    for name in ("journal.db", "journal.db-wal"):
        try: os.symlink(sys.argv[2], os.path.join(sys.argv[1], name))
        except FileExistsError: pass
"""


def commands(title):
    """The command lines under *title* of the handbook's page on copies of the journal; the program is in POWER."""
    page = (TREE / "docs" / "howto" / "backup.rst").read_text()
    section = re.split(r"^(?=.*\n-+\n)", page[page.index(f"{title}\n---") :], flags=re.MULTILINE)[1]
    blocks = re.findall(r"code-block:: console\n\n((?:(?:   .*)?\n)+)", section)
    lines = [line[3:] for block in blocks for line in block.splitlines()]
    return [line[2:].replace(" power/", f" {POWER}/") for line in lines if line.startswith(("$ ", "> "))]


@pytest.fixture
def service(machine):
    """A machine with the service installed, and the words that the handbook's commands begin with."""
    m = machine
    m.write(f"{POWER}/settings.py", "L1_PIN = None\n")
    m.installed("--sysv", "--link")
    for name, text in (("sudo", SUDO), ("service", SERVICE)):
        m.write(f"/usr/local/bin/{name}", text, mode=0o755)
    m.made("/opt/root/power")
    return m


def as_root(m, lines):
    """Root does what the handbook says, in a directory of its own."""
    return m.run("sh", "-c", "\n".join(["umask 022", "cd /opt/root", "PATH=/usr/local/bin:$PATH", *lines]), ours=False)


def test_a_copy_by_root_follows_no_link(service):
    """Nor does root's copy of the service's journal, where that user has laid a link for it; and it is private."""
    m = service
    check = victims(m)
    with m.on_host("/etc/default/power").open("a") as file:
        file.write(f'POWER_OPTS="--simulate {WATTS}"\n')
    assert m.run("/etc/init.d/power", "start").returncode == 0
    wait_until(m.on_host("/var/lib/power/simulated/journal.db").exists)
    lines = [line for line in commands("Make a copy") if "you@" not in line]
    by_root = [line for line in lines if "sudo" in line] or lines[-1:]  # an earlier page left the word out
    # An earlier page had the script in it.
    lines = [*lines[: lines.index("END") + 1], *by_root] if "END" in lines else by_root
    lines = [line.replace("/var/lib/power/journal.db", "/var/lib/power/simulated/journal.db") for line in lines]
    # The user site of that user, whose code would have root's terminal.
    site = m.run("/usr/bin/python3", "-m", "site", "--user-site", env={"HOME": "/var/lib/power"}).stdout.strip()
    m.write(f"{site}/usercustomize.py", spy("user site"), owner=m.uid("power"), mode=0o644)
    m.run("chown", "-R", "power:", "/var/lib/power/.local")
    for name in ("copy.db", "copy.db.new", "journal-copy.db"):
        plant(m, f"/var/lib/power/{name}", f"{VICTIMS}/shadow", m.uid("power"))
    as_root(m, lines)
    check()
    for path in ("copy.db", "copy.db.new"):
        m.on_host(f"/var/lib/power/{path}").unlink(missing_ok=True)
    done = as_root(m, lines)
    assert done.returncode == 0, done
    assert m.on_host("/opt/root/journal-copy.db").stat().st_mode & 0o077 == 0
    check()
    assert m.ran() == set()


def test_going_back_to_a_copy_follows_no_link(service):
    """Root does what the handbook says to go back to a copy, while the service's user plants links in DATA_DIR."""
    m = service
    check = victims(m)
    m.write("/opt/root/journal-copy.db", "a copy\n", mode=0o644)
    m.attack(PLANTING, "/var/lib/power", f"{VICTIMS}/shadow", user="power")
    wait_until(lambda: m.on_host("/var/lib/power/journal.db").is_symlink())
    lines = [line for line in commands("Go back to a copy") if "--status" not in line and not line.startswith("cd ")]
    assert any("journal-copy.db" in line for line in lines)
    for _ in range(3):
        as_root(m, lines)
        m.run("rm", "-rf", "/opt/root/journal-before", "/var/lib/power/before")
    check()


def test_a_copy_of_the_journal_is_private(machine):
    """The copy that the handbook's script makes is for nobody else to read, as the journal is."""
    m = machine
    named = settings(m)
    m.power(*named, *SIMULATED, "--pidfile", PIDFILE, user="victim")
    m.counts("--pidfile", PIDFILE)
    m.made("/home/victim/copies", owner=VICTIM)
    lines = [line.replace("/var/lib/power", f"{DATA}/simulated") for line in commands("Make a copy")]
    lines = [line for line in lines if "sudo" not in line and not line.startswith("scp ")]
    script = "\n".join(["set -e", "umask 022", "cd /home/victim/copies", *lines])
    done = m.run("sh", "-c", script, user="victim")
    assert done.returncode == 0, done
    copies = list(m.on_host("/home/victim/copies").glob("*.db"))
    assert copies
    for path in copies:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_journal_is_private(machine):
    """The journal, what is beside it and the lock are closed to the group and to others, those of before too."""
    m = machine
    m.made(DATA, owner=VICTIM, mode=0o755)
    simulated = m.made(f"{DATA}/simulated", owner=VICTIM, mode=0o755)
    m.write(f"{DATA}/simulated/lock", owner=VICTIM, mode=0o644)
    named = settings(m)
    line = [*named, "--pidfile", PIDFILE]
    for _ in range(2):
        started = m.power(*line, *SIMULATED, user="victim")
        assert started.returncode == 0, started
        m.counts("--pidfile", PIDFILE, least=2)
        wait_until((simulated / "journal.db-shm").exists)
        own = [*simulated.glob("journal.db*"), simulated / "lock"]
        modes = {path.name: path.stat().st_mode & 0o777 for path in own}
        assert set(modes.values()) == {0o600}, modes
        m.power(*line, "--kill", user="victim")
        for path in simulated.iterdir():
            path.chmod(0o644)


def test_copies_of_the_settings_are_not_tracked(machine):
    """What editors and people leave beside settings.py, with the passwords in it, is not added to a commit."""
    m = machine
    m.made("/opt/clone/src")
    m.write("/opt/clone/.gitignore", (TREE / ".gitignore").read_text())
    kinds = ["{}", "{}~", "{}.bak", "{}.orig", "{}.old", "{}.save", "{}.swp", ".{}.swp", ".{}.swo", "#{}#"]
    for directory in ("/opt/clone", "/opt/clone/src"):
        for kind in kinds:
            m.write(f"{directory}/{kind.format('settings.py')}", "PASSWORD\n")
    m.write("/opt/clone/settings.py.example", "tracked\n")
    done = m.run("sh", "-c", "cd /opt/clone && git init -q && git add -A -n .")
    assert done.returncode == 0, done
    added = re.findall(r"^add '(.*)'$", done.stdout, re.MULTILINE)
    assert "settings.py.example" in added
    assert [path for path in added if "settings.py" in path and not path.endswith(".example")] == []


# --- Directories that others may write

#: The program's own ways to a file, by name, in its parts' words.
USES = {
    "the CSV file": """
from powermeter.writers import open_writer
from powermeter.settings.values import WriterSettings
from powermeter.meter import Pulse
def use():
    writer = open_writer(WriterSettings("f", "file", {"path": path}))
    try: writer.deliver([Pulse("house", 1, 10**18, 1.0, 1.0, 1.0)], "")
    finally: writer.close()
""",
    "the pidfile": """
from powermeter.process.pidfile import PidFile
def use():
    with PidFile(path): pass
""",
}
RACE = """
import os, sys
source, path, tries, victims = sys.argv[1:]
sys.path.insert(0, source)
from powermeter.errors import PowerError
USE
def state(): return sorted((entry.name, entry.stat().st_size) for entry in os.scandir(victims))
before = state()
for number in range(int(tries)):
    try: use()
    except (PowerError, OSError): pass
    if state() != before:
        sys.exit(f"try {number}: {state()}")
"""

#: How often a race is tried: more than ten times as often as it took to win it when a path was looked at and then used.
TRIES = {"the CSV file": 2000, "the pidfile": 40_000}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", [0o777, 0o775], ids=["all may write", "the group may write"])
def test_a_directory_exchanged_in_time(machine, mode, use):
    """Between the look at a path and its use, a directory on it becomes a link: nothing is written where that leads."""
    m = machine
    check = victims(m)
    m.made("/home/shared", group=MALLORY, mode=mode)
    # Root's where all may write: another's would not be followed at all.
    m.made("/home/shared/d", owner=0 if mode == 0o777 else MALLORY)
    plant(m, "/home/shared/l", VICTIMS, MALLORY)
    m.attack(EXCHANGE, "/home/shared/d", "/home/shared/l", 0)
    code = RACE.replace("USE", USES[use])
    done = m.run(
        "/opt/power/venv/bin/python", "-c", code, f"{POWER}/src", "/home/shared/d/power.x", TRIES[use], VICTIMS
    )
    check(done.stderr)
    assert done.returncode == 0, done


#: Makes a journal of its own at the path, with a register that is no truth.
FORGED = """
import os, sys
source, path = sys.argv[1:]
sys.path.insert(0, source)
from powermeter.journal.journal import Journal
from powermeter.meter import Constant
with Journal(path) as journal:
    journal.enter("house", 1000, Constant(1000, 0, 9999.0))
os.chmod(path, 0o666)
print("ready", flush=True)
"""


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770], ids=["all", "all, as in /tmp", "the group"])
def test_a_planted_journal_is_not_taken(machine, mode):
    """In a DATA_DIR that others may write, journal.db.new of another user's does not become the journal."""
    m = machine
    named = [*settings(m), "--pidfile", PIDFILE]
    started = m.power(*named, *SIMULATED, user="victim")
    assert started.returncode == 0, started
    m.counts("--pidfile", PIDFILE, user="victim")
    m.power(*named, "--kill", user="victim")
    m.on_host("/home/victim").chmod(0o755)
    group = MALLORY if mode == 0o770 else VICTIM
    m.made(DATA, owner=VICTIM, group=group, mode=0o755)
    simulated = m.made(f"{DATA}/simulated", owner=VICTIM, group=group, mode=mode)
    m.attack(FORGED, f"{POWER}/src", f"{DATA}/simulated/journal.db.new")
    done = m.power(*named, *SIMULATED, user="victim")
    if done.returncode == 0:
        assert m.counts("--pidfile", PIDFILE, user="victim")["meters"]["house"]["register_kwh"] < 9999
        m.power(*named, "--kill", user="victim")
    with sqlite3.connect(simulated / "journal.db") as journal:
        assert journal.execute("SELECT register_kwh FROM constants").fetchall() == [(0.0,)]
    assert (simulated / "journal.db").stat().st_uid == VICTIM


# --- Settings that all may write


@pytest.mark.parametrize("user", ["victim", "root"])
def test_settings_that_all_may_write_are_not_run(machine, user):
    """Code that another user writes into a settings.py of mode 666 is run by nobody."""
    m = machine
    owner = VICTIM if user == "victim" else 0
    named = settings(m, path="/opt/settings/settings.py", owner=owner, mode=0o666)
    m.attack("import sys\nopen(sys.argv[1], 'a').write(sys.argv[2])\nprint('ready', flush=True)", named[1], spy())
    for args in (["--check"], ["--status"], ["--kill"], ["--restart"], [], SIMULATED):
        done = m.power(*named, *args, user=user)
        assert m.ran() == set(), args
        if not args or "--check" in args or "--simulate" in args:
            assert done.returncode == 1, done
            assert "/opt/settings/settings.py" in done.stderr, done


# --- Pidfiles and sockets of another user's

#: Holds the pidfile of its argument and answers beside it, as if it were the program.
SQUATTER = """
import fcntl, os, signal, socket, sys
pidfile = sys.argv[1]
signal.signal(signal.SIGTERM, lambda *_: open("/opt/ran", "a").write(f"{os.geteuid()} signalled\\n"))
file = open(pidfile, "w")
os.chmod(pidfile, 0o644)
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(f"{os.getpid()}\\n"); file.flush()
listener = socket.socket(socket.AF_UNIX)
listener.bind(pidfile + ".sock")
os.chmod(pidfile + ".sock", 0o666)
listener.listen(9)
print("ready", flush=True)
while True:
    asked, _ = listener.accept()
    question = asked.recv(64)
    asked.sendall(b'{"running": true, "forged": 1}\\n' if b"json" in question else b"forged\\n")
    asked.close()
"""


@pytest.mark.parametrize("user", ["victim", "root"])
def test_a_squatted_pidfile_is_not_believed(machine, user):
    """A pidfile that another user has made in /tmp, and a socket beside it, do not count as a running program."""
    m = machine
    squatter = m.attack(SQUATTER, "/tmp/power.pid")
    named = [*settings(m, path="/opt/settings.py", owner=0, mode=0o644), "--pidfile", "/tmp/power.pid"]
    for args in (["--status"], ["--status", "--json"]):
        done = m.power(*named, *args, user=user)
        assert "forged" not in done.stdout, done
        assert done.returncode != 0, done
    done = m.power(*named, "--kill", user=user)
    assert done.returncode != 0, done
    assert m.ran_labels(MALLORY) == set()
    assert squatter.poll() is None


@pytest.mark.parametrize("mode", [0o755, 0o777], ids=["closed", "open"])
def test_the_runtime_directory_of_another_user_is_not_used(machine, mode):
    """What answers in the XDG_RUNTIME_DIR of another user, which su kept, is not believed, and nothing is put there."""
    m = machine
    runtime = f"/run/user/{MALLORY}"
    m.made("/run/user")
    m.made(runtime, owner=MALLORY, mode=mode)
    m.attack(SQUATTER, f"{runtime}/power.pid")
    named = settings(m)
    env = {"XDG_RUNTIME_DIR": runtime}
    done = m.power(*named, "--status", user="victim", env=env)
    assert "forged" not in done.stdout, done
    assert done.returncode == 3, done
    started = m.power(*named, *SIMULATED, user="victim", env=env)
    assert started.returncode == 0, started
    assert m.power(*named, "--status", user="victim", env=env).returncode == 0
    assert {path.name for path in m.on_host(runtime).iterdir()} == {"power.pid", "power.pid.sock"}
    assert m.power(*named, "--kill", user="victim", env=env).returncode == 0


# --- Journals that are no journals

ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)"
ON_INSERT = "CREATE TRIGGER t AFTER INSERT ON pulses BEGIN"

#: What is done to a journal, by name.
CRAFTED = {
    "a view without an end": f"""DROP TABLE meters;
        CREATE VIEW meters AS {ENDLESS} SELECT n AS meter, 'm' || n AS name FROM r;""",
    "a slow view": f"""DROP TABLE steps;
        CREATE VIEW steps AS {ENDLESS} SELECT n AS meter, n AS count FROM r WHERE n < 0;""",
    "a trigger": f"{ON_INSERT} DELETE FROM pulses; END;",
    "a slow trigger": f"{ON_INSERT} INSERT INTO steps {ENDLESS} SELECT n, n FROM r; END;",
}

#: Runs what its arguments say, stops it after a while with SIGTERM, and tells what became of it.
MEASURED = """
import json, os, resource, signal, subprocess, sys, time
popen = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
try: popen.wait(5)
except subprocess.TimeoutExpired: pass
running = popen.poll() is None
begun_s = time.monotonic()
popen.terminate()
try: popen.wait(15)
except subprocess.TimeoutExpired: popen.kill()
took_s = time.monotonic() - begun_s
popen.wait()
said = popen.stdout.read().decode(errors="replace")
peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
found = {"running": running, "took_s": took_s, "peak_kib": peak_kib, "said": said, "status": popen.returncode}
print(json.dumps(found))
"""


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_journal_is_bounded(machine, kind):
    """A journal with a view or a trigger of another's makes neither the memory full nor the program deaf to SIGTERM."""
    m = machine
    named = [*settings(m, "COMMIT_INTERVAL = 0.2"), "--pidfile", PIDFILE]
    started = m.power(*named, *SIMULATED, user="victim")
    assert started.returncode == 0, started
    m.counts("--pidfile", PIDFILE, user="victim")
    m.power(*named, "--kill", user="victim")
    path = m.on_host(f"{DATA}/simulated/journal.db")
    with sqlite3.connect(path) as journal:
        journal.executescript(CRAFTED[kind])
    journal.close()
    line = ["prlimit", f"--as={2**30}", "--", "/opt/power/venv/bin/python", PROGRAM, *named, "--nodaemon", *SIMULATED]
    done = json.loads(m.run("/usr/bin/python3", "-c", MEASURED, *line, user="victim").stdout)
    assert done["took_s"] < 12, done
    assert done["status"] != -9, done
    assert done["peak_kib"] < 200 * 1024, done
    assert "Traceback" not in done["said"], done
    if done["running"]:  # then it counts, and keeps what it counts
        with sqlite3.connect(path) as journal:
            assert journal.execute("SELECT count(*) FROM pulses").fetchone()[0] > 3, done
