"""
The command lines of the handbook's tutorial and how-to pages, run as they stand, and its examples of settings.

A page's ``console`` blocks are run in order, in a home of their own with nothing in it but a clone of the project, its
remote beside it, and the virtual environment that the page of the installation made. What is below a command is
what one sees: it is compared, where a number stands for any number, ``/home/you`` for the home, and ``...`` for
anything. ``^C`` is typed once what stands before it can be seen. ``REPOSITORY`` is the remote.

A block of the class ``on-the-pi`` is not run: what may be in one is in :data:`ON_THE_PI`. In one of the class
``fails`` the last command must fail, everywhere else each must succeed.
"""

import contextlib
import functools
import os
import pty
import pwd
import re
import select
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import certifi
import pytest
from console import Command, blocks, commands, same, screen
from program import PATIENCE_S, Program, first_page, kill, wait_until

from powermeter.process.holder import holder
from powermeter.settings import reading

TOP = Path(__file__).resolve().parents[1]
DOCS = TOP / "docs"
PAGES = sorted(
    str(path.relative_to(DOCS))
    for kind in ("tutorial", "howto")
    for path in (DOCS / kind).glob("*.rst")
    if path.name != "index.rst"
)

#: What the page about backups copies with.
COPY_JOURNAL = TOP / "tools" / "copy_journal.py"

#: The page whose commands make the virtual environment that the others begin with.
INSTALL = "howto/install.rst"

#: What a block of the class on-the-pi may hold: what needs another machine, root, systemd, or an editor.
ON_THE_PI = (
    "curl http://nas.home",
    'echo "deb ',
    "journalctl ",
    "nano ",
    "scp ",
    "ssh ",
    "sudo adduser ",
    "sudo apt ",
    "sudo power ",
    "sudo nano ",
    "sudo python3 install_init_script.py --link",
    "sudo python3 install_init_script.py --uninstall",
    "sudo install ",
    "sudo reboot",
    "sudo systemctl enable ",
    "sudo systemctl restart ",
    "sudo wget ",
)

#: Pages about a service that runs: it does before the first command.
RUNS = {
    "tutorial/graph.rst",
    "howto/backup.rst",
    "howto/lamps.rst",
    "howto/logs.rst",
    "howto/new-card.rst",
    "howto/readings.rst",
    "howto/symptoms.rst",
    "howto/upgrade.rst",
}

#: Commands that only look: what they are to show may take a moment to be there.
LOOKS = re.compile(r"tail |python3 docs/tutorial/graph\.py |.* --status")
LOOK_S = 20

#: How often the stand-in for the pins sees a flash, in s: 3,600 W at 1,000 impulses per kWh.
FLASH_EVERY_S = 1.0

#: In place of the service, which tests/boot tries on machines that boot: the program by hand.
SERVICE = """#!/bin/sh
power="$HOME/power/venv/bin/python $HOME/power/src/power.py"
[ "$1" = power ] || exit 1
case $2 in
start) $power ;;
stop) $power --kill ;;
restart) $power --restart ;;
status) $power --status ;;
reload) kill -HUP "$(cat "$HOME/.local/state/power/power.pid")" ;;
*) exit 2 ;;
esac
"""

#: The command that an install makes.
POWER = """#!/bin/sh
exec "$HOME/power/venv/bin/python" "$HOME/power/src/power.py" "$@"
"""

#: A virtual environment is made once; where another one is asked for it is that one again.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ] && [ -e "$VENV" ]; then
    shift $(($# - 1))
    exec ln -s "$VENV" "$1"
fi
exec "$PYTHON" "$@"
"""

#: Soon after a boot a clock that nobody has set is waited for: the tests' machine may be one of that kind.
UP_FOR_A_DAY = """
import time
gettime = time.clock_gettime
time.clock_gettime = lambda clock: gettime(clock) + 86400 * (clock == time.CLOCK_BOOTTIME)
"""

#: In place of root, whom no command needs for what is in the home. What root copies is root's: to the caller it is open
#: as far as to others.
SUDO = """#!/bin/sh
[ "$1" != -u ] || shift 2
[ "$1" = cp ] || exec "$@"
"$@" || exit
shift $(($# - 1))
chmod u=o "$1"
"""


# --- Where it is run


def _user():
    """As root: nobody, as the program's data is elsewhere for root; else None."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


@functools.cache
def _ids():
    user = _user()
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _give(directory):
    """Give *directory* and all in it to the user that the pages run as."""
    if user := _user():
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def _python():
    """The Python of the tests, where the pages' user may run it; else the system's."""
    base = os.path.realpath(sys._base_executable)
    done = subprocess.run([shutil.which("test"), "-x", base], check=False, **_ids())
    return base if done.returncode == 0 else shutil.which("python3", path="/usr/bin:/bin")


class Home:
    """A home with *directory*/power in it, and a shell there; a context manager that ends what was started."""

    def __init__(self, directory, remote, venv):
        self.path = Path(directory)
        self.path.mkdir(parents=True, exist_ok=True)
        self.remote = remote
        #: The one virtual environment of all pages.
        self.venv = venv
        self._shell = self.path / ".shell"
        self._shell.mkdir()
        (self._shell / "pwd").write_text(f"{self.path}\n")
        (self._shell / "env").write_text("")
        (self._shell / "bin").mkdir()
        for name, script in (("python3", PYTHON), ("service", SERVICE), ("sudo", SUDO), ("power", POWER)):
            (self._shell / "bin" / name).write_text(script)
            (self._shell / "bin" / name).chmod(0o755)
        # Of the machine's own pins, where it has some, nothing is seen.
        (self._shell / "gpiod.py").write_text('raise ImportError("no pins here")\n')
        (self._shell / "sitecustomize.py").write_text(UP_FOR_A_DAY)
        os.mkfifo(self._shell / "fifo")
        self.own()
        self._ending = threading.Event()
        self._flashing = threading.Thread(target=self._flash)
        kept = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
        self.env = kept | {
            "HOME": str(self.path),
            "USER": pwd.getpwuid(_ids().get("user", os.geteuid())).pw_name,
            "PATH": f"{self._shell}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "COLUMNS": "120",
            # A meter in place of the pins, for the pages that are about the Pi.
            "PYTHONPATH": f"{self._shell}:{TOP}/tests/standin",
            "STANDIN_GPIO_FIFO": str(self._shell / "fifo"),
            "S": str(self._shell),
            "PYTHON": _python(),
            "VENV": str(venv),
            "TZ": "Europe/Berlin",
        }

    def own(self):
        """Give all of it to the user that the pages run as."""
        _give(self.path)

    def _flash(self):
        # Read and write: opened at once, whether somebody reads or not.
        fd = os.open(self._shell / "fifo", os.O_RDWR | os.O_NONBLOCK)
        try:
            while not self._ending.wait(FLASH_EVERY_S):
                with contextlib.suppress(BlockingIOError):
                    os.write(fd, b"18\n")
        finally:
            os.close(fd)

    def __enter__(self):
        self._flashing.start()
        return self

    def __exit__(self, kind, error, trace):
        self._ending.set()
        self._flashing.join()
        for path in self.path.rglob("*"):
            if (path.suffix == ".pid" or path.name == "lock") and (pid := holder(str(path))):
                kill(pid)

    def line(self, text):
        """The shell's command line for *text*; where it is and what was set stays for the next."""
        text = text.replace("REPOSITORY", str(self.remote))
        for theirs, ours in (
            ("/run/power/power.pid", ".local/state/power/power.pid"),
            ("/var/lib/power", ".local/state/power"),
            ("/home/you/", ""),
        ):
            text = text.replace(theirs, f"{self.path}/{ours}")
        if "install_init_script.py" in text:
            assert "--dry-run" in text, text
            # The init of a container may be none that the installer knows.
            if not re.search("--sysv|--systemd|--uninstall", text) and not os.path.isdir("/run/systemd/system"):
                text += " --systemd"
        (self._shell / "command").write_text(text)
        keep = 'trap \'pwd > "$S/pwd"; export -p > "$S/env"\' EXIT'
        return ["bash", "-c", f'set -a; . "$S/env"; cd "$(cat "$S/pwd")"; {keep}; eval "$(cat "$S/command")"']

    def run(self, text):
        """Run *text* to its end; its status and all it says."""
        done = subprocess.run(
            self.line(text),
            env=self.env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * PATIENCE_S,
            check=False,
            **_ids(),
        )
        return done.returncode, self._plain(done.stdout)

    def run_until(self, text, wanted):
        """Run *text* on a terminal, type Ctrl-C once the lines *wanted* are seen; all that is seen at the end."""
        ours, its = pty.openpty()
        started = subprocess.Popen(
            ["setsid", "--ctty", *self.line(text)],
            env=self.env,
            cwd="/",
            stdin=its,
            stdout=its,
            stderr=its,
            **_ids(),
        )
        os.close(its)
        output = b""

        def read():
            nonlocal output
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    part = os.read(ours, 65536)
                except OSError:  # its last user has gone
                    return False
                output += part
                return bool(part)
            return True

        try:
            end_s = time.monotonic() + 2 * PATIENCE_S
            looked = 0

            def is_seen():
                nonlocal looked
                # At each change of the live line: several may have come at once.
                ends = [match.start() for match in re.finditer(rb"\x1b", output) if match.start() > looked]
                looked = len(output)
                return any(same(wanted, self._screen(output[:end])) for end in [*ends, looked])

            while read() and not is_seen():
                assert time.monotonic() < end_s, f"not seen: {wanted}\nbut:\n{self._screen(output)}"
            assert started.poll() is None, f"it ended:\n{self._screen(output)}"
            os.write(ours, b"\x03")
            while read():
                assert time.monotonic() < end_s, f"Ctrl-C did not end it:\n{self._screen(output)}"
            started.wait(PATIENCE_S)
        finally:
            started.kill()
            started.wait()
            os.close(ours)
        return self._screen(output)

    def _screen(self, output):
        return self._plain(screen(output.decode(errors="replace")))

    def _plain(self, text):
        return text.replace(str(self.path), "/home/you").replace(str(self.remote), "REPOSITORY")

    def follow(self, page):
        """Run the command lines of *page*, as its reader does."""
        self.do(page, commands((DOCS / page).read_text()))

    def do(self, page, lines):
        """Do what *lines*, commands of *page*, say."""
        for command in lines:
            if command.on_the_pi:
                if command.written:
                    path = shlex.quote(command.text.split()[1])
                    # Of two values the last one counts.
                    assert self.run(f"cat >> {path} <<'END'\n{command.written}\nEND")[0] == 0
                continue
            where = f"{page}: $ {command.text}"
            if "^C" in command.seen:
                at = command.seen.index("^C")
                seen = self.run_until(command.text, command.seen[:at])
                wanted = ["...", *command.seen[at + 1 :]]
            else:
                end_s = time.monotonic() + LOOK_S
                while True:
                    status, seen = self.run(command.text)
                    there = (status != 0) == command.fails and (not command.seen or same(command.seen, seen))
                    if there or not LOOKS.match(command.text) or time.monotonic() > end_s:
                        break
                    time.sleep(0.2)
                assert (status != 0) == command.fails, f"{where}\nended with {status}:\n{seen}"
                wanted = command.seen
            assert "Traceback" not in seen, f"{where}\n{seen}"
            if command.seen:
                assert same(wanted, seen), f"{where}\nis to show:\n" + "\n".join(wanted) + f"\nbut shows:\n{seen}"


def _git(*words, cwd):
    """What git says, of a tree that may be another user's."""
    own = ["-c", "safe.directory=*", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *own, *words], cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def place():
    """A directory that the pages' user may pass; pytest's own is closed to others."""
    directory = tempfile.mkdtemp(prefix="power-handbook.")
    os.chmod(directory, 0o755)
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def remote(place):
    """The repository as it is in the working tree, to clone from and to pull."""
    path = place / "remote"
    for name in _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=TOP).split("\0"):
        # One that was deleted is listed still.
        if name and (TOP / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, path / name)
    _git("init", "--quiet", "--initial-branch", "main", cwd=path)
    _git("add", "--all", cwd=path)
    _git("commit", "--quiet", "--message", "As it stands", cwd=path)
    _give(path)
    return path


@pytest.fixture(scope="module")
def installed(place, remote):
    """A home in which the page of the installation was followed."""
    with Home(place / "installed", remote, place / "installed" / "power" / "venv") as home:
        home.follow(INSTALL)
        yield home


@pytest.fixture
def homes(place, remote, installed):
    """Makes homes as one has them after the installation, or empty ones."""
    with contextlib.ExitStack() as stack:

        def make(name, *, empty=False):
            home = Home(place / name, remote, installed.venv)
            if not empty:
                shutil.copytree(
                    installed.path / "power", home.path / "power", symlinks=True, ignore=shutil.ignore_patterns("venv")
                )
                (home.path / "power" / "venv").symlink_to(installed.venv)
                home.own()
            return stack.enter_context(home)

        yield make


# --- The tests


def test_what_is_read_of_a_page():
    """Commands with their continuations, what one sees, and the classes."""
    page = textwrap.dedent("""
        .. code-block:: console

           $ first \\
           > --more
           seen

           too
           $ second

        #. In a list

           .. code-block:: console
              :class: fails

              $ third

        .. code-block:: console
           :class: on-the-pi

           $ sudo apt install make
        """)
    assert commands(page) == [
        Command("first \\\n--more", ["seen", "", "too"]),
        Command("second"),
        Command("third", fails=True),
        Command("sudo apt install make", on_the_pi=True),
    ]


def test_what_is_the_same():
    """Numbers and ``...`` stand for others; words do not."""
    assert same(["pid 1234, for 5 s"], "pid 77, for 11 s\n")
    assert same(["1,200 W, today 0.004 kWh"], "3,600 W, today 0.1 kWh")
    assert same(["...", "counting: house ..."], "making venv\ncounting: house from 0 kWh\n")
    assert same(["first", "...", "last"], "first\nlast")
    assert not same(["pid 1234, for 5 s"], "pid 77, for 11 min")
    assert not same(["first", "...", "last"], "first\nmore")
    assert not same(["ok"], "ok\nand more")


def test_what_a_terminal_shows():
    """The live line is written over, and a log line goes above it."""
    assert screen("log\r\nlive 1\r\x1b[2Klive 2\r\x1b[2Kmore\r\nlive 3\r\n") == "log\nmore\nlive 3\n"
    assert screen("one\r\ntwo\x1b[1A\r\x1b[2K1^C") == "1\ntwo"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*/*.rst")), ids=lambda page: page.stem)
def test_what_is_typed_can_be_copied(page):
    """Command lines are in console blocks, whose prompts are left out of a copy; nothing is typed into a heredoc."""
    text = page.read_text()
    prompts = re.findall("^ +[$] .*", text, re.MULTILINE)
    known = [line for _, _, lines in blocks(text, "console") for line in lines if line.startswith("$ ")]
    assert [line.strip() for line in prompts] == known
    assert [line for line in known if "<<" in line] == []


@pytest.mark.parametrize("page", PAGES)
def test_only_what_can_not_run_here_is_not_run(page):
    """What is in blocks of the class on-the-pi needs a Pi, root, another machine or an editor."""
    for command in commands((DOCS / page).read_text()):
        if command.on_the_pi:
            assert command.text.startswith(ON_THE_PI), f"{page}: can be run here: {command.text}"
            assert "--dry-run" not in command.text, f"{page}: can be run here: {command.text}"


def test_the_list_of_what_is_not_run_is_no_longer_than_needed():
    """Each entry of the list is needed by a page."""
    texts = [c.text for page in PAGES for c in commands((DOCS / page).read_text()) if c.on_the_pi]
    assert [prefix for prefix in ON_THE_PI if not any(text.startswith(prefix) for text in texts)] == []


def test_the_installation(installed):
    """The page of the installation, followed in an empty home, leaves a program that runs."""
    status, seen = installed.run("/home/you/power/venv/bin/python /home/you/power/src/power.py --version")
    assert (status, seen.split()[0]) == (0, "power")


@pytest.mark.parametrize("page", [page for page in PAGES if page != INSTALL])
def test_a_page_can_be_followed(page, homes):
    """Each command line of a page does what the page says."""
    lines = commands((DOCS / page).read_text())
    home = homes(re.sub(r"\W+", "-", page), empty=any(line.text.startswith("git clone ") for line in lines))
    if page in RUNS:
        status, seen = home.run("sudo service power start")
        assert status == 0, seen
        wait_until(lambda: re.search("today [1-9]", home.run("sudo service power status")[1]))
    with (
        first_page()
        if any("--simulate" in line.text or line.text == "make run" for line in lines)
        else contextlib.nullcontext()
    ):
        home.do(page, lines)


# That of extending is of a writer yet to be written; it has a test of its own.
@pytest.mark.parametrize("page", [page for page in PAGES if page != "howto/extending.rst"])
def test_examples_of_settings_are_accepted(page, tmp_path):
    """What a page gives as settings has no mistake in it."""
    for number, (_, _, lines) in enumerate(blocks((DOCS / page).read_text(), "python")):
        if not any(re.match("[A-Z0-9_]+ = ", line) for line in lines):
            continue  # the program's own code
        path = tmp_path / f"settings{number}.py"
        # A certificate of the reader's own.
        path.write_text(re.sub(r'("verify_ssl": )"[^"]*"', rf'\1"{certifi.where()}"', "\n".join(lines)))
        path.chmod(0o600)
        assert reading.read(str(path)).meters


def test_a_new_card_goes_on(homes):
    """What the old card counted is on the new one: the register goes on, and the file has each pulse once."""
    page = "howto/new-card.rst"
    old_half, _, new_half = (DOCS / page).read_text().partition("On the new card\n---")
    old, new = homes("old-card"), homes("new-card")
    status, seen = old.run("sudo service power start")
    assert status == 0, seen
    wait_until(lambda: " 3 pulses" in old.run("sudo service power status")[1])
    old.do(page, commands(old_half))
    counted = _counts(old.path / ".local/state/power/journal.db")
    assert len(counted) >= 3
    for name in ("power-data.tar.gz", "power-settings.py"):
        status, seen = old.run(f"cat ~/{name} > /dev/null")
        assert status == 0, f"scp could not fetch it: {seen}"
        shutil.copy2(old.path / name, new.path / name)
    (new.path / ".local/state/power").mkdir(parents=True)  # as the install makes it
    new.own()
    new.do(page, commands(new_half))
    wait_until(lambda: len(_counts(new.path / ".local/state/power/journal.db")) > len(counted))
    assert new.run("sudo service power stop")[0] == 0
    counts = _counts(new.path / ".local/state/power/journal.db")
    assert counts == list(range(1, len(counts) + 1))
    lines = (new.path / ".local/state/power/power.csv").read_text().splitlines()
    assert [float(line.split(",")[4]) for line in lines[1:]] == [count / 1000 for count in counts]


def test_a_copy_is_whole_while_pulses_come(tmp_path):
    """The script of the page about backups copies a journal that is written a thousand times a second, and whole."""
    fast = 'METERS = {"house": {"pin": 18, "impulses_per_kwh": 10000, "max_watts": 500000}}\nCOMMIT_INTERVAL = 0.1\n'
    with Program(tmp_path / "first", fast) as program:
        program.start("--simulate", "360000")
        journal = program.data_dir / "simulated" / "journal.db"
        before = 0
        for _ in range(5):
            wait_until(lambda more=before + 500: program.status()["meters"]["house"]["pulses"] > more)
            known = _counts(journal)
            subprocess.run([sys.executable, str(COPY_JOURNAL), str(journal), str(tmp_path / "copy.db")], check=True)
            counts = _counts(tmp_path / "copy.db")
            assert counts == list(range(1, len(counts) + 1))
            assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
            assert known[-1] <= counts[-1] <= program.status()["meters"]["house"]["pulses"]
            before = counts[-1]
    # The copy is a journal to go on with.
    with Program(tmp_path / "second", fast) as program:
        (program.data_dir / "simulated").mkdir(parents=True)
        shutil.copy(tmp_path / "copy.db", program.data_dir / "simulated" / "journal.db")
        program.start("--simulate", "360000")
        assert program.status()["meters"]["house"]["pulses"] >= before
        wait_until(lambda: _counts(program.data_dir / "simulated" / "journal.db")[-1] > before)


def test_a_copy_of_nothing_is_refused(tmp_path):
    """The script makes no empty copy of a journal that is not there, and leaves the copy from before."""
    (tmp_path / "copy.db").write_text("the copy from before")
    line = [sys.executable, str(COPY_JOURNAL), str(tmp_path / "none.db"), str(tmp_path / "copy.db")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r".*/none\.db: not copied to .*: unable to open database file; .* is unchanged\n", done.stderr)
    assert (tmp_path / "copy.db").read_text() == "the copy from before"
    assert not (tmp_path / "none.db").exists()


def test_power_csv_is_rotated_as_the_page_says(homes):
    """With the page's lines for logrotate each pulse is in the old file or the new one, and both have a header."""
    if not shutil.which("logrotate", path="/usr/sbin:/usr/bin"):
        assert not os.environ.get("CI"), "logrotate is missing"
        pytest.skip("logrotate is missing")
    home = homes("rotated")
    ((_, _, lines),) = blocks((DOCS / "howto/logs.rst").read_text(), "text")
    data = home.path / ".local/state/power"
    words = "\n".join(line for line in lines if line.strip() != "su you you")
    assert "su you you" not in words
    (home.path / "power-csv").write_text(words.replace("/var/lib/power", str(data)))
    (home.path / "power-csv").chmod(0o644)
    home.own()
    assert home.run("sudo service power start")[0] == 0
    wait_until((data / "power.csv").exists)
    wait_until(lambda: len((data / "power.csv").read_text().splitlines()) > 1)
    status, seen = home.run("cd && logrotate --force --state rotated power-csv")
    assert status == 0, seen
    wait_until(lambda: re.search(r"[1-9] pulses? in the next batch", home.run("sudo service power status")[1]))
    assert home.run("sudo service power stop")[0] == 0
    (old,) = data.glob("power.csv-*")
    header, *rows = old.read_text().splitlines()
    again, *more = (data / "power.csv").read_text().splitlines()
    assert header == again
    assert [float(row.split(",")[4]) for row in rows + more] == [n / 1000 for n in _counts(data / "journal.db")]
    assert rows
    assert more


def test_the_picture_has_what_the_file_has(tmp_path):
    """The tutorial's picture shows the energy of the time it shows, and steps where the power is known."""
    (tmp_path / "power.csv").write_text(
        "time,meter,power_w,energy_wh,register_kwh\n"
        "2026-11-23T07:00:00.000000001Z,house,,1.0,0.001\n"
        "2026-11-23T10:00:00.000000001Z,house,,1.0,0.002\n"
        "2026-11-23T10:00:03.600000001Z,house,1000.0,1.0,0.003\n"
        "2026-11-23T10:00:07.200000001Z,house,1000.0,1.0,0.004\n"
    )

    def draw(*words):
        line = [sys.executable, str(DOCS / "tutorial" / "graph.py"), *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    def steps(picture):
        paths = [node.get("d") for node in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}path")]
        return paths[-1]

    whole, hour = draw(tmp_path / "power.csv"), draw(tmp_path / "power.csv", 1)
    assert "house 0.004 kWh" in whole.stdout
    assert "house 0.003 kWh" in hour.stdout
    # 830 pixels are an hour, 300 are 1,050 W; and no step over the hours in which nothing is known.
    assert steps(hour.stdout) == "M908.3 64.3V64.3H909.2V64.3H910.0"
    assert steps(whole.stdout).count("M") == 1
    for words in ([tmp_path / "none.csv"], [DOCS / "index.rst"], ["/bin/sh"]):
        assert re.fullmatch("graph: .*\n", draw(*words).stderr)
        assert draw(*words).returncode == 1


def _counts(journal):
    """The counts of the pulses in the file *journal*, in order."""
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=PATIENCE_S)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [count for (count,) in connection.execute("SELECT count FROM pulses ORDER BY count")]
    finally:
        connection.close()
