"""
The service's user is an attacker, and wants root's rights.

A hole in a library, or in the settings, lets somebody run code as the user "power". The source is root's, in /opt; only
settings.py and /var/lib/power are that user's. None of what root does with them may run that user's code as root, give
it one of root's files, or let it type on root's terminal.
"""

import json
import os
import platform
import re
import signal
import subprocess
import time

import pytest
from machine import POWER, PYTHON, VENV, VICTIM, WATTS, spy, tree_of
from program import wait_until

SETTINGS = f"{POWER}/settings.py"
HONEST = "L1_PIN = None\n"
STATE = "/var/lib/power"

#: How often an installer is to lose a race that it lost at the first try when it changed owners by path.
INSTALLS = 10

#: How long an installer may take with a child that never answers, in s; its own limit is shortened to a fraction.
CHILD_S = 20

#: The installer, with its limit shortened.
IMPATIENT = f"""
import sys
sys.path.insert(0, {POWER!r})
import install_init_script
install_init_script.ANSWER_S = {CHILD_S / 5}
sys.exit(install_init_script.main())
"""


@pytest.fixture
def installed(machine):
    """A machine with the program installed, whose settings are the user power's."""
    machine.write(SETTINGS, HONEST)
    machine.installed("--sysv", "--link")
    with machine.on_host("/etc/default/power").open("a") as file:
        file.write(f'POWER_OPTS="--simulate {WATTS}"\n')
    return machine


def taken_over(m, code, path=SETTINGS):
    """The user power writes *code* into its settings."""
    return m.write(path, code, owner=m.uid("power"))


# --- Commands of root's


#: All that root may ask the program, with its settings.
COMMANDS = (["--status"], ["--status", "--json"], ["--kill"], ["--check"], ["--restart"], [], ["--nodaemon"])


@pytest.mark.parametrize("place", ["their file", "their directory", "their link"])
def test_root_runs_no_settings_of_another_user(machine, place):
    """Whatever root asks the program, settings that another user may change are not run; and the message says whose."""
    m = machine
    uid = m.uid("victim")
    named = []
    if place == "their file":
        m.write(SETTINGS, spy(), owner=uid)
    elif place == "their directory":
        m.made("/opt/settings", owner=uid)
        m.write("/opt/settings/settings.py", spy())
        named = ["--settings", "/opt/settings/settings.py"]
    else:
        m.write("/home/victim/settings.py", spy(), owner=uid)
        m.on_host(SETTINGS).symlink_to("/home/victim/settings.py")
    ran = []
    for args in COMMANDS:
        done = m.power(*named, *args)
        if m.ran():
            ran.append(args)
            m.on_host("/opt/ran").write_text("")
        if "--check" in args or "--restart" in args or not args:
            assert done.returncode == 1, done
            assert "victim" in done.stderr, done
    assert ran == []


def test_root_asks_and_stops_the_service_without_its_settings(installed):
    """The service that runs is found by root's --status and --kill, which run no settings for it."""
    m = installed
    started = m.run("/etc/init.d/power", "start")
    assert started.returncode == 0, started
    taken_over(m, spy())
    m.on_host("/opt/ran").write_text("")
    asked = m.power("--status")
    assert (asked.returncode, "running, pid" in asked.stdout) == (0, True), asked
    stopped = m.power("--kill")
    assert (stopped.returncode, "stopped, pid" in stopped.stdout) == (0, True), stopped
    assert m.ran() == set()


def test_the_power_command_becomes_the_services_user(installed):
    """Root's /usr/local/bin/power runs the settings of the service as the service's user, and nothing of it as root."""
    m = installed
    taken_over(m, spy())
    for args in COMMANDS:
        done = m.run("/usr/local/bin/power", *args)
        assert done.returncode != 127, done
        assert m.ran() <= {m.uid("power")}, args
    assert m.ran() == {m.uid("power")}


#: add_key(2) and keyctl(2) by machine.
ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(platform.machine(), (0, 0))

#: Runs its arguments with what root may have: a session's key, open files and a directory of its own.
WITH_ROOTS_OWN = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None)
if {ADD_KEY}:
    assert libc.syscall({KEYCTL}, 1, None) > 0
    assert libc.syscall({ADD_KEY}, b"user", b"roots", b"secret", 6, -3) > 0
shadow = os.open("/etc/shadow", os.O_RDONLY)
for number in (3, 4, 5, 6, 9, 10, 63, 700):
    os.dup2(shadow, number)
os.chdir("/home/roots")
os.execv(sys.argv[1], sys.argv[1:])
"""

#: What of that its code has.
LOOKING = (
    spy()
    + f"""
import ctypes
def _note(label):
    with open("/opt/ran", "a") as _ran: _ran.write(f"{{os.geteuid()}} {{label}}\\n")
for _number in os.listdir("/proc/self/fd"):
    try:
        if "shadow" in os.readlink(f"/proc/self/fd/{{_number}}"): _note(f"descriptor {{_number}}")
    except OSError: pass
if os.getcwd() == "/home/roots": _note("directory")
if {KEYCTL} and ctypes.CDLL(None).syscall({KEYCTL}, 10, -3, b"user", b"roots", 0) > 0: _note("key")
"""
)


@pytest.mark.parametrize(
    "line",
    [
        ["/usr/local/bin/power", "--check"],
        ["/etc/init.d/power", "start"],
        [PYTHON, f"{POWER}/install_init_script.py", "--sysv"],
    ],
    ids=["power", "the init script", "the installer"],
)
def test_nothing_of_roots_goes_along(installed, line):
    """The user's code has none of the open files, of the keys and of the directory of root's that called it."""
    m = installed
    m.made("/home/roots", mode=0o700)
    taken_over(m, LOOKING + HONEST)
    m.run("/usr/bin/python3", "-c", WITH_ROOTS_OWN, *line)
    assert m.ran_labels(m.uid("power")) == {"settings"}


@pytest.mark.parametrize("words", [["--settings", "own.py"], ["--settings=../conf/own.py"]])
def test_a_relative_path_begins_at_the_callers_directory(installed, words):
    """The command leaves root's directory, and the paths of its command line are still what root meant."""
    m = installed
    m.write("/home/conf/own.py", "L1_PIN = 1\n", mode=0o644)
    done = m.run("sh", "-c", 'cd /home/conf && exec /usr/local/bin/power --check "$@"', "sh", *words)
    assert (done.returncode, done.stderr.startswith("power: /home/conf/own.py: L1_PIN: found 1")) == (1, True), done


#: Code that holds up who waits for it.
HOLDING = {
    "sleeps": "import time\ntime.sleep(10**6)\n",
    "does not hear": "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(10**6)\n",
    "floods": "import os\nwhile True: os.write(1, b'x' * 65536)\n",
}

#: Leaves a process that holds the pipes, in the same session or in one of its own.
LEAVING = "import os, time\nif os.fork() == 0:\n    OWN\n    time.sleep(10**6)\nos._exit(9)\n"


@pytest.mark.parametrize("code", HOLDING.values(), ids=HOLDING)
def test_a_start_has_a_deadline(installed, code):
    """Settings that never end do not keep the boot, or whoever starts the service, from going on."""
    m = installed
    script = m.on_host("/etc/init.d/power")
    text, count = re.subn("^(LONG_S|SHORT_S)=.*$", r"\1=2", script.read_text(), flags=re.MULTILINE)
    assert count == 2
    script.write_text(text)
    taken_over(m, f"open('/opt/ran', 'a').write(f'{{__import__(\"os\").getpid()}} pid\\n')\n{code}")
    done = m.run("/etc/init.d/power", "start", patience_s=25)
    assert done.returncode == 1, done.returncode
    assert "not finished after 2 s" in done.stderr
    assert not any(m.runs(pid) for pid in m.ran())


@pytest.mark.parametrize("own", ["pass", "os.setsid()"], ids=["its session", "a session of its own"])
def test_a_process_that_is_left_holds_nobody_up(installed, own):
    """The command ends with the program, whoever still has its pipes."""
    m = installed
    taken_over(m, LEAVING.replace("OWN", own))
    assert m.run("/usr/local/bin/power", "--check", patience_s=20).returncode == 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_whatever_runs(installed, number):
    """The first lets the program end, the second ends it: root has its prompt back."""
    m = installed
    taken_over(m, f"open('/opt/ran', 'a').write(f'{{__import__(\"os\").getpid()}} pid\\n')\n{HOLDING['does not hear']}")
    popen = m.begin("/usr/local/bin/power", "--check", stderr=subprocess.PIPE)
    (pid,) = wait_until(m.ran)
    os.kill(m.numbers(popen)[0], number)
    time.sleep(1)
    assert m.runs(pid)
    os.kill(m.numbers(popen)[0], number)
    assert popen.wait(10) == 128 + signal.SIGKILL
    assert not m.runs(pid)


#: Runs its arguments, and tells how that ended and how much memory it took, in KiB.
MEASURED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([done.returncode, len(done.stdout), done.stderr[-300:], peak_kib]))
"""


def test_a_flood_is_no_answer_to_a_reload(installed):
    """Where the program itself is the user's, what it answers to a reload does not fill root's memory."""
    m = installed
    script = m.on_host("/etc/init.d/power")
    script.write_text(re.sub("^SHORT_S=.*$", "SHORT_S=3", script.read_text(), flags=re.MULTILINE))
    m.write(f"{POWER}/src/power.py", HOLDING["floods"], mode=0o644)
    line = ["prlimit", f"--as={2**29}", "--", "/etc/init.d/power", "reload"]
    done = m.run("/usr/bin/python3", "-c", MEASURED, *line, patience_s=30)
    status, said, _, peak_kib = json.loads(done.stdout)
    assert (status, said) == (1, 0), done
    assert peak_kib < 64 * 1024, done


@pytest.mark.parametrize(
    "answer",
    ['{"pid": PID}', '{"pid": "PID"}', "[]", '{"pid": 1e400}', '{"pid": -1}', f'{{"pid": {10**30}}}', "[" * 60000],
)
def test_a_reload_signals_no_process_but_the_users(installed, answer):
    """Where the program itself is the user's, root sends its signal to none of its own processes."""
    m = installed
    other = m.attack("import time\nprint('ready', flush=True)\ntime.sleep(1000)", user="root")
    answer = answer.replace("PID", str(m.numbers(other)[-1]))
    m.write(f"{POWER}/src/power.py", f"print({answer!r})\n", mode=0o644)
    done = m.run("/etc/init.d/power", "reload")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
    assert other.poll() is None


# --- What the installer is answered


def answered(**changed):
    """Code that answers for the settings, in their place."""
    answer = {"data_dir": STATE, "log_file": None, "files": []} | changed
    return f"import os, sys\nos.write(1, {json.dumps(answer).encode()!r} + b'\\n')\nos._exit(0)\n"


#: What follows the log's name in logrotate's file: another section, for root.
SECTION = f"""{STATE}/power.log" {{
\tsu root root
\tprerotate
\t/usr/bin/python3 /opt/spy.py
\tendscript
}}
"{STATE}/other.log"""


@pytest.mark.parametrize("by", ["a false answer", "the settings"])
def test_a_line_feed_in_a_path_is_no_section_for_logrotate(installed, by):
    """What the settings, or their user's process, say of the log is run by no logrotate of root's."""
    m = installed
    uid = m.uid("power")
    m.write("/opt/spy.py", spy(), mode=0o644)
    for name in ("power.log", "other.log"):
        m.write(f"{STATE}/{name}", "a line\n", owner=uid, mode=0o640)
    taken_over(m, answered(log_file=SECTION) if by == "a false answer" else f"LOG_FILE = {SECTION!r}\n")
    m.install("--sysv")
    m.run("logrotate", "--force", "--state", "/run/state", "/etc/logrotate.d/power")
    assert m.ran() <= {uid}


@pytest.mark.parametrize(
    ("log_file", "why"),
    [
        ("/var/log/syslog", "can't write /var/log"),
        (f"{STATE}/../../log/syslog", "is not understood"),
        ("//var/log/syslog", "is not understood"),
    ],
)
def test_what_the_user_cannot_write_is_not_rotated(installed, log_file, why):
    """Whether a path's disk is away, and where it leads, root finds out by itself."""
    m = installed
    before = m.on_host("/etc/logrotate.d/power").read_text()
    m.made("/mnt" if not os.path.isdir("/mnt") else "/opt/mnt")
    taken_over(m, answered(log_file=log_file, away={log_file: "/mnt"}))
    done = m.install("--sysv")
    assert (done.returncode, why in done.stderr) == (1, True), done
    assert m.on_host("/etc/logrotate.d/power").read_text() == before


@pytest.mark.parametrize(
    "path",
    [
        "/etc/cron.d",
        "/etc/new.d",
        "/lib/new",
        "/var/spool/cron/crontabs",
        "/var/lib/extensions",
        "/root/.ssh",
        "/home/victim/.ssh",
        "/home/victim/new/deep",
        "/home/link/new",
        "/home/there",
    ],
)
def test_no_advice_gives_a_directory_away(installed, path):
    """No message advises root to make, or to give away, a system directory or another user's."""
    m = installed
    m.on_host("/home/link").symlink_to("/etc")
    m.made("/home/there")
    taken_over(m, answered(data_dir=path))
    done = m.install("--sysv")
    assert (done.returncode, f"can't write {path}" in done.stderr or "/etc" in done.stderr) == (1, True), done
    assert "sudo" not in done.stderr, done


@pytest.mark.parametrize("log_file", [f"{STATE}/*", f"{STATE}/journal.d[b]", f'{STATE}/power.csv" "{STATE}/x'])
def test_a_pattern_in_a_path_rotates_no_data(installed, log_file):
    """A star, brackets or a quote in LOG_FILE do not have logrotate take the journal or the CSV file away."""
    m = installed
    uid = m.uid("power")
    for name in ("journal.db", "power.csv", "power.log"):
        m.write(f"{STATE}/{name}", f"{name}\n", owner=uid, mode=0o640)
    taken_over(m, f"LOG_FILE = {log_file!r}\n")
    m.install("--sysv")
    m.run("logrotate", "--force", "--state", "/run/state", "/etc/logrotate.d/power")
    for name in ("journal.db", "power.csv"):
        assert m.on_host(f"{STATE}/{name}").read_text() == f"{name}\n"
        assert not list(m.on_host(STATE).glob(f"{name}?*"))


@pytest.mark.parametrize("field", ["data_dir", "log_file", "files"])
def test_a_line_feed_in_a_path_is_no_line_of_the_unit(machine, field):
    """The unit has the commands that it has without an attacker: none is run by systemd as root."""
    m = machine
    m.write(SETTINGS, HONEST)
    m.installed("--systemd", "--link")
    unit = m.on_host("/etc/systemd/system/power.service")

    def commands():
        return [line.strip() for line in unit.read_text().splitlines() if line.strip().startswith("Exec")]

    honest = commands()
    directory = "/tmp/a\nExecStartPre=+/opt/spy"
    m.made(directory, owner=m.uid("power"))
    value = {"data_dir": directory, "log_file": f"{directory}/x.log", "files": [f"{directory}/x.csv"]}[field]
    taken_over(m, answered(**{field: value}))
    m.install("--systemd")
    assert commands() == honest


#: What no honest child answers, on its standard output.
MALFORMED = [
    b"",
    b"\n",
    b"no JSON",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"null",
    b"3",
    b'"text"',
    b"{}",
    b"[" * 100_000,
    *(
        json.dumps({"data_dir": STATE, "log_file": None, "files": []} | changed).encode()
        for changed in (
            {"data_dir": None},
            {"data_dir": 5},
            {"data_dir": "relative"},
            {"data_dir": "/\0"},
            {"data_dir": "/\ud800"},
            {"data_dir": "/" + "x" * 100_000},
            {"log_file": []},
            {"log_file": "power.log"},
            {"log_file": "/tmp/\x1b[2J"},
            {"files": "power.csv"},
            {"files": [None]},
            {"files": ["power.csv"]},
            {"files": {"/a": 1}},
            {"data_dir": f"{STATE}/../../../etc"},
            {"data_dir": "//etc"},
        )
    ),
]


def test_a_malformed_answer_is_no_traceback(machine):
    """Whatever the service's user's process answers in place of paths, the installer ends in plain lines."""
    m = machine
    m.write(SETTINGS, HONEST)
    m.installed("--sysv", "--link")
    for answer in MALFORMED:
        taken_over(m, f"import os\nos.write(1, {answer!r})\nos._exit(0)\n")
        done = m.install("--dry-run", "--sysv")  # it has no traceback
        assert done.returncode in (0, 1), (answer, done)
        assert (done.stdout + done.stderr).replace("\n", "").isprintable(), (answer, done)


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(10**6)\n",
        "import os, time\nif os.fork() == 0: time.sleep(10**6)\nos._exit(0)\n",
        "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(10**6)\nos._exit(0)\n",
        "import os\nwhile True: os.write(1, b'x' * 65536)\n",
        "import os\nwhile True: os.write(2, b'x' * 65536)\n",
    ],
    ids=["sleeps", "leaves a process", "leaves a session", "says without an end", "complains without an end"],
)
def test_an_answer_without_an_end(machine, code):
    """A process of the service's user that never ends its answer neither holds the installer up nor fills memory."""
    m = machine
    m.write(SETTINGS, HONEST)
    m.installed("--sysv", "--link")
    taken_over(m, code)
    limits = ["prlimit", f"--as={2**30}", "--"]
    done = m.run(*limits, "/usr/bin/python3", "-c", IMPATIENT, "--sysv", patience_s=CHILD_S)
    assert done.returncode == 1, done
    assert len(done.stderr) < 10_000


# --- Owners that root changes


#: Exchanges a directory and a link for one another, again and again.
EXCHANGE = """
import ctypes, sys
libc = ctypes.CDLL(None)
one, other = (path.encode() for path in sys.argv[1:])
print("ready", flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)
"""


def test_a_link_in_time_gives_no_file_away(installed):
    """While the installer gives what is in DATA_DIR to its user, nothing that a link leads to becomes that user's."""
    m = installed
    uid = m.uid("power")
    names = [f"f{number}" for number in range(200)]
    for name in names:
        m.write(f"/home/victims/{name}", "root's\n")
    m.made(f"{STATE}/d", owner=uid)
    for name in names:
        m.write(f"{STATE}/d/{name}", "", owner=0)
    m.on_host(f"{STATE}/l").symlink_to("/home/victims")
    os.lchown(m.on_host(f"{STATE}/l"), uid, uid)
    before = tree_of(m.on_host("/home/victims"))
    left = os.open(m.on_host(f"{STATE}/d"), os.O_RDONLY | os.O_DIRECTORY)
    m.attack(EXCHANGE, f"{STATE}/d", f"{STATE}/l", user="power")
    for number in range(INSTALLS):
        m.install("--sysv")
        assert tree_of(m.on_host("/home/victims")) == before, f"install {number}"
        for name in names:  # what root left there by hand, another time
            os.chown(name, 0, 0, dir_fd=left, follow_symlinks=False)
    os.close(left)


def test_code_of_one_user_is_not_run_as_another(installed):
    """An install for another user runs nothing that the user of before wrote, and gives it to nobody."""
    m = installed
    taken_over(m, spy() + HONEST)
    for words in (["--dry-run"], []):
        done = m.install("--sysv", "--user", "victim", *words)
        assert "belongs to power, the service runs as victim" in done.stdout + done.stderr, done
    assert m.ran() == set()
    assert m.on_host(SETTINGS).stat().st_uid == m.uid("power")


#: Has the file of its argument open, and writes into it once a line comes.
KEEPING = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print("ready", flush=True)
sys.stdin.readline()
os.pwrite(fd, b"WRITTEN = 1\\n#", 0)
print("written", flush=True)
"""


def test_settings_are_given_as_a_new_file(installed):
    """Who has the file of before open, can't write into what the next user runs."""
    m = installed
    keeping = m.begin("/usr/bin/python3", "-c", KEEPING, SETTINGS, user="power", stdin=subprocess.PIPE)
    assert keeping.stdout.readline() == "ready\n"
    os.chown(m.on_host(SETTINGS), 0, 0)
    m.installed("--sysv", "--user", "victim")
    keeping.stdin.write("\n")
    keeping.stdin.flush()
    assert keeping.stdout.readline() == "written\n"
    assert m.on_host(SETTINGS).read_text() == HONEST
    about = m.on_host(SETTINGS).stat()
    assert (about.st_uid, about.st_mode & 0o7777) == (VICTIM, 0o600)
    assert [path.name for path in m.on_host(POWER).glob(".power-*")] == []


def test_a_file_of_roots_is_not_the_users_for_its_place(machine):
    """A file that only root may read, moved to where the settings are by who owns the directory, is not given away."""
    m = machine
    own = "/home/victim/conf/settings.py"
    m.made("/home/victim/conf", owner=VICTIM)
    m.write(own, HONEST, owner=VICTIM)
    m.write(SETTINGS, HONEST)
    m.installed("--sysv", "--link", "--user", "victim")
    with m.on_host("/etc/default/power").open("a") as file:
        file.write(f'POWER_SETTINGS="{own}"\n')
    m.installed("--sysv", "--user", "victim")
    m.write("/home/victim/backup.py", spy("a file of root's"))
    m.run("mv", "-f", "/home/victim/backup.py", own, user="victim")
    for words in (["--dry-run"], []):
        done = m.install("--sysv", "--user", "victim", *words)
        assert f"{own} belongs to root, but others may change /home/victim" in done.stdout + done.stderr, done
    assert m.ran() == set()
    assert m.on_host(own).stat().st_uid == 0


def test_settings_without_an_end(installed):
    """Settings of a terabyte, which their user can't read, are not read by root either."""
    m = installed
    os.truncate(taken_over(m, HONEST), 2**40)
    m.on_host(SETTINGS).chmod(0)
    done = m.install("--sysv")
    assert (done.returncode, f"{SETTINGS} is larger than 1,000,000 bytes" in done.stderr) == (1, True), done


def test_umask_of_the_caller(machine):
    """With a umask of 0 the installer makes nothing that all may write."""
    m = machine
    m.write(SETTINGS, HONEST)
    m.run("rm", "-rf", "/etc/logrotate.d", "/etc/default", "/usr/local/bin")
    done = m.run("sh", "-c", f"umask 0; exec {PYTHON} {POWER}/install_init_script.py --sysv --link")
    assert done.returncode == 0, done
    made = ["/etc/logrotate.d", "/etc/default", "/usr/local/bin", "/etc/power.installed", "/usr/local/bin/power"]
    assert [path for path in made if m.on_host(path).stat().st_mode & 0o022] == []


# --- An uninstall

#: Directories, one in another.
DEEP = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(int(sys.argv[2])):
    os.mkdir("d"); os.chdir("d")
"""


def test_an_uninstall_of_deep_directories(installed):
    """However deep it is what the user has put beside the pidfile: all is taken back."""
    m = installed
    m.made("/run/power", owner=m.uid("power"))
    m.run("/usr/bin/python3", "-c", DEEP, "/run/power", 1500, user="power")
    m.installed("--uninstall")
    assert not m.on_host("/run/power").exists()
    assert not m.on_host("/etc/init.d/power").exists()


def test_an_uninstall_of_a_program_that_never_stops(installed):
    """If the program belongs to the user and ignores a stop, that is reported, and everything else is removed."""
    m = installed
    script = m.on_host("/etc/init.d/power")
    script.write_text(re.sub("^LONG_S=.*$", "LONG_S=2", script.read_text(), flags=re.MULTILINE))
    m.write(f"{POWER}/src/power.py", HOLDING["does not hear"], mode=0o644)
    done = m.install("--uninstall")
    assert (done.returncode, "/etc/init.d/power stop failed with status 1" in done.stderr) == (1, True), done
    for path in ("/etc/init.d/power", "/usr/local/bin/power", "/usr/local/rpienv"):
        assert not os.path.lexists(m.on_host(path)), path


def test_an_uninstall_while_the_user_runs_something(installed):
    """A process that the user has left running keeps the user, and nothing else; it is named."""
    m = installed
    m.run("rm", "-rf", STATE, SETTINGS)
    left = m.attack("import time\nprint('ready', flush=True)\ntime.sleep(10**6)", user="power")
    done = m.installed("--uninstall")
    said = f"keep the user power, whose process {m.numbers(left)[-1]} runs: sudo pkill -KILL -U power, then --uninstall"
    assert said in done.stdout, done
    for path in ("/etc/init.d/power", "/usr/local/bin/power", "/etc/logrotate.d/power", "/usr/local/rpienv"):
        assert not os.path.lexists(m.on_host(path)), path
    m.run("pkill", "-KILL", "-U", "power")
    wait_until(lambda: left.poll() is not None)
    assert "done: remove the user power\n" in m.installed("--uninstall").stdout
    assert not m.on_host("/etc/power.installed").exists()


def test_code_of_the_services_user_is_never_roots(installed):
    """After --uninstall no file of that user's is root's, and root that runs the program runs none of its code."""
    m = installed
    uid = m.uid("power")
    theirs = [SETTINGS, f"{STATE}/settings.py"]
    for path in theirs:
        taken_over(m, spy(), path)
    m.installed("--uninstall")
    for path in theirs:
        assert m.on_host(path).stat().st_uid == uid, path
    # Its number is nobody else's while something of it is left.
    assert uid in {int(line.split(":")[2]) for line in m.on_host("/etc/passwd").read_text().splitlines()}
    for args in (["--status"], ["--check"], ["--restart"]):
        m.power(*args)
        m.power("--settings", theirs[1], *args)
    assert m.ran() == set()


# --- Root's terminal

#: Code that types on the terminal that it can reach, and writes to it.
TYPING = (
    spy()
    + """
import fcntl, os, termios
for number, path in enumerate(["/dev/tty", 0, 1, 2]):
    try:
        terminal = os.open(path, os.O_RDWR) if number == 0 else path
        if os.isatty(terminal):
            open("/opt/ran", "a").write(f"{os.geteuid()} terminal\\n")
            os.write(terminal, b"\\x1b]0;typed\\x07")
        for letter in b"touch /opt/typed\\n":
            fcntl.ioctl(terminal, termios.TIOCSTI, bytes([letter]))
    except OSError:
        pass
"""
)


@pytest.mark.parametrize(
    "script",
    [
        "/etc/init.d/power start",
        "/etc/init.d/power restart",
        f"/usr/bin/python3 {POWER}/install_init_script.py --sysv",
        "/usr/local/bin/power --check",
    ],
)
def test_the_services_user_cannot_type_on_roots_terminal(installed, script):
    """What root's own shell reads after it is what root typed: the user's code has no terminal."""
    m = installed
    taken_over(m, TYPING + HONEST)
    shown = m.on_terminal(script)
    assert not m.on_host("/opt/typed").exists(), shown
    labels = m.ran_labels(m.uid("power"))
    assert "settings" in labels, shown
    assert "terminal" not in labels, shown


@pytest.mark.parametrize(
    "script",
    [
        "/etc/init.d/power start",
        f"/usr/bin/python3 {POWER}/install_init_script.py --sysv",
        "/usr/local/bin/power --check",
    ],
)
@pytest.mark.parametrize("stream", [1, 2])
def test_what_the_services_user_says_is_plain_on_roots_terminal(installed, script, stream):
    """No control character that the user's process writes reaches root's terminal: it could say anything there."""
    m = installed
    said = b"\x1b]0;owned\x07\x1b[2J\xc2\x9b2Jall is well\r\n"
    # One by one, as a character may come in pieces.
    taken_over(m, f"import os\nfor n in {said!r}: os.write({stream}, bytes([n]))\nos._exit(1)\n")
    shown = m.on_terminal(script)
    shown = shown.decode(errors="replace")
    assert not [c for c in shown if not c.isprintable() and c not in "\r\n\t"], shown


def test_the_user_site_of_the_services_user_is_not_run(installed):
    """Where the virtual environment sees the system's packages, none of the user's own is loaded by what root calls."""
    m = installed
    config = m.on_host(f"{POWER}/venv/pyvenv.cfg")
    config.write_text(config.read_text().replace("= false", "= true"))
    uid = m.uid("power")
    site = m.run(VENV, "-m", "site", "--user-site", env={"HOME": STATE}).stdout.strip()
    m.write(f"{site}/usercustomize.py", spy("user site"), owner=uid, mode=0o644)
    m.run("chown", "-R", "power:", STATE)
    for line in (
        ["/usr/bin/python3", f"{POWER}/install_init_script.py", "--sysv"],
        *(["/etc/init.d/power", verb] for verb in ("start", "status", "reload", "restart", "stop")),
    ):
        m.run(*line)
        assert m.ran() == set(), line
