"""
The installer and what it installs, with real parts.

As root the installer runs in mount namespaces of its own: /etc is a copy,
/usr/local, /var/lib, /run and /home are empty directories, so that real
users, links and files are made, and the machine's are left as they are. The init
script runs the real program with its simulated meter, as any user.
"""

import importlib.util
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import pytest
from program import PATIENCE_S, Program, kill, root_alone, wait_until
from records import journal_rows

from powermeter import mounts
from powermeter.process.holder import holder

TOP = Path(__file__).resolve().parents[1]
NAME = "install_init_script.py"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LINE_AN_ERROR = re.compile(r"install_init_script: .+")

#: Debian's Python of the version that runs the tests: other users may run it, the tests' own may lie in root's home.
PYTHON = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/bin")


def _installer():
    spec = importlib.util.spec_from_file_location("install_init_script", TOP / NAME)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


installer = _installer()


def without(tool):
    """Skip a test if *tool* is missing; in CI that is a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{tool} is not installed")


@pytest.fixture
def place():
    """A directory that every user may pass, as pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="power-install-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def make_source(top, *, settings="", python=PYTHON):
    """The project as a clone in *top*, with its virtual environment and settings.py."""
    if python is None:
        pytest.skip(f"no python3.{sys.version_info.minor} of Debian's, which other users can run")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("src", "init"):
        shutil.copytree(TOP / name, top / name, ignore=ignored)
    for name in (NAME, "settings.py.example", "requirements.txt", "README.rst"):
        shutil.copy(TOP / name, top)
    subprocess.run([python, "-m", "venv", "--without-pip", top / "venv"], check=True)
    # What requirements.txt names: the tests' own, copied, as they may lie where nobody else can read.
    packages = next((top / "venv" / "lib").glob("python3*")) / "site-packages"
    for name in ("daemon", "lockfile"):
        shutil.copytree(Path(sysconfig.get_path("purelib")) / name, packages / name, ignore=ignored)
    if settings is not None:
        (top / "settings.py").write_text(settings)
        (top / "settings.py").chmod(0o644)


# --- The machine: the installer's own paths, in a namespace


class Machine:
    """A throwaway machine in *directory*; *top* is the place of the source on it."""

    BOUND = ("etc", "usr/local", "var/lib", "run", "home", "opt")

    def __init__(self, directory, top="/opt/power", settings="", people=(), *, devices=False):
        self.directory = directory
        self.bound = (*self.BOUND, *(["dev"] if devices else []))
        if devices:
            (directory / "dev").mkdir()
            for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
                os.mknod(directory / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
                (directory / "dev" / name).chmod(0o666)
        shutil.copytree("/etc", directory / "etc", symlinks=True)
        for name in self.BOUND[1:]:
            (directory / name).mkdir(parents=True)
        (directory / "usr/local/bin").mkdir()
        for name in people:
            self.run("useradd", "--create-home", "--home-dir", f"/home/{name}", "--user-group", name)
        self.top = top
        self.on_host(top).mkdir(parents=True)
        make_source(self.on_host(top), settings=settings)

    def on_host(self, path):
        """Where the machine's *path* is on the host."""
        return self.directory / path.lstrip("/")

    def run(self, *line, env=None):
        """Run *line* on the machine. No command may show a traceback."""
        mounts = " && ".join(f'mount -n --bind "$0/{name}" /{name}' for name in self.bound)
        # fmt: off
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'{mounts} && cd / && exec "$@"', self.directory, *line],
            env={"PATH": PATH, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )
        # fmt: on
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    def install(self, *args):
        """Run the installer."""
        return self.run(PYTHON, f"{self.top}/{NAME}", *args)

    def installed(self, *args):
        """Run the installer, which must succeed; returns what it printed."""
        done = self.install(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def service(self, verb):
        """Run the installed init script."""
        return self.run("/etc/init.d/power", verb)

    def owner(self, path):
        """The owner's name and the mode of *path*."""
        done = self.run("stat", "-c", "%U %a", path)
        return done.stdout.strip()

    def files(self):
        """Everything that could change, with its content, owner and mode."""
        found = {}
        for path in sorted(self.directory.rglob("*")):
            about = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(about.st_mode) else None
            content = os.readlink(path) if path.is_symlink() else content
            found[str(path.relative_to(self.directory))] = about.st_mode, about.st_uid, about.st_gid, content
        return found

    def end(self):
        """Kill the daemon, if there is one."""
        pid = holder(str(self.on_host("/run/power/power.pid")))
        if pid:
            kill(pid)


@pytest.fixture
def machine(place):
    """Makes a machine; the last one's daemon is killed."""
    made = []

    def make(**options):
        can_mount = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
        if not can_mount:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("root may make no mount namespace here")
        made.append(Machine(place, **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


SIMULATED = 'POWER_OPTS="--simulate 20000"\n'


@root_alone
@pytest.mark.parametrize("kind", ["--sysv", "--systemd"])
def test_an_install_can_be_repeated_and_taken_back(machine, kind):
    """The second install changes nothing; an uninstall leaves settings, data and the user who owns them."""
    m = machine()
    before = m.files()
    first = m.installed(kind, "--link")
    assert "done: write /etc/init.d/power (mode 755)" in first
    assert "already done: make" not in first
    after = m.files()

    second = m.installed(kind)
    assert not any(line.startswith("done:") for line in second.splitlines())
    assert "already done: write /etc/init.d/power (mode 755)" in second
    assert m.files() == after

    assert m.owner("/var/lib/power") == "power 750"
    assert m.owner("/opt/power/settings.py") == "power 600"
    assert "gpio" in m.run("id", "-nG", "power").stdout.split()
    assert m.on_host("/etc/rc2.d/S01power").is_symlink()
    assert m.on_host("/etc/systemd/system/multi-user.target.wants/power.service").is_symlink() == (kind == "--systemd")

    m.on_host("/var/lib/power/journal.db").write_text("pulses")
    dry = m.installed("--uninstall", "--dry-run")
    assert "would: remove /etc/init.d/power" in dry
    m.installed("--uninstall")
    left = m.files()
    changed = {name for name in before | left if before.get(name) != left.get(name)}
    # Copies that useradd keeps of the files before, and the data.
    changed -= {
        f"etc/{name}{end}" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid") for end in "-"
    }
    of_users = {"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/power.installed"}
    of_users |= {"etc/subuid", "etc/subgid"} & changed
    assert {name for name in changed if not re.fullmatch(r"etc/rc\d\.d|etc/systemd/system/.*wants", name)} == {
        "opt/power/settings.py",  # closed to others still
        "var/lib/power",
        "var/lib/power/journal.db",
        *of_users,
    }
    # Never given to root, who might run or follow it.
    assert m.owner("/var/lib/power") == "power 750"
    assert m.owner("/opt/power/settings.py") == "power 600"
    again = m.installed("--uninstall").splitlines()
    assert "done: keep the user power, who owns /var/lib/power and /opt/power/settings.py" in "\n".join(again)
    assert again[-1] == "nothing is installed"
    shutil.rmtree(m.on_host("/var/lib/power"))
    m.on_host("/opt/power/settings.py").unlink()
    assert "done: remove the user power" in m.installed("--uninstall")
    assert not m.on_host("/etc/power.installed").exists()


@root_alone
def test_the_installed_script_runs_the_service(machine):
    """The installed init script starts the program as its user, asks for its status, and stops it."""
    m = machine()
    m.installed("--sysv", "--link")
    m.on_host("/etc/default/power").write_text(SIMULATED)
    started = m.service("start")
    assert started.returncode == 0, started.stderr
    pid = holder(str(m.on_host("/run/power/power.pid")))
    status = Path(f"/proc/{pid}/status").read_text()
    uid = int(m.run("id", "-u", "power").stdout)
    gpio = int(m.run("sh", "-c", "getent group gpio | cut -d: -f3").stdout)
    assert re.search(rf"^Uid:\t{uid}\t{uid}\t{uid}\t{uid}$", status, re.MULTILINE)
    assert str(gpio) in re.search(r"^Groups:(.*)$", status, re.MULTILINE)[1].split()
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert m.service("status").returncode == 0
    assert m.run("setpriv", "--reuid=nobody", "--clear-groups", "/etc/init.d/power", "status").returncode == 0
    refused = m.run("setpriv", "--reuid=nobody", "--clear-groups", "/etc/init.d/power", "stop")
    assert (refused.returncode, refused.stderr.strip()) == (
        4,
        "power: only root and power may do this: sudo /etc/init.d/power stop",
    )
    # An uninstall stops it, and nothing of it is left behind in /run.
    m.installed("--uninstall")
    assert holder(str(m.on_host("/var/lib/power/simulated/lock"))) is None
    assert not m.on_host("/run/power").exists()


@root_alone
def test_another_user_is_asked_for_by_the_place_of_the_source(machine):
    """In a person's home, closed to others, the service runs as that person, and the unit's sandbox allows reading."""
    m = machine(top="/home/pi/power", people=["pi"])
    m.on_host("/home/pi").chmod(0o700)
    m.run("chown", "-R", "pi:", "/home/pi")
    out = m.installed("--systemd", "--link")
    assert "user" not in out.replace("multi-user", "")
    assert "power runs as pi" in out
    assert m.owner("/var/lib/power") == "pi 750"
    unit = m.on_host("/etc/systemd/system/power.service").read_text()
    assert "\nUser=pi\n" in unit
    assert "\nProtectHome=read-only\n" in unit
    assert "pi" in m.on_host("/etc/logrotate.d/power").read_text()


@root_alone
def test_what_the_user_cannot_pass_is_found_with_what_mends_it(machine):
    """A home that is closed to the user is named before anything is changed, with the command that opens it."""
    m = machine(top="/home/pi/power", people=["pi", "other"])
    m.on_host("/home/pi").chmod(0o700)
    m.run("chown", "-R", "pi:", "/home/pi")
    before = m.files()
    done = m.install("--sysv", "--link", "--user", "other")
    assert done.returncode == 1
    assert "other can't pass /home/pi: sudo chmod o+x /home/pi, or --user pi" in done.stderr
    assert m.files() == before
    m.run("chmod", "o+x", "/home/pi")
    m.run("chown", "root", "/home/pi/power/settings.py")
    m.run("chmod", "-R", "o-r", "/home/pi/power/src/powermeter/writers")
    done = m.install("--sysv", "--link", "--user", "other")
    assert "other can't read /home/pi/power/src/powermeter/writers" in done.stderr
    m.run("sh", "-c", re.search(r"sudo (chmod -R .*)", done.stderr)[1])
    m.installed("--sysv", "--link", "--user", "other")


@root_alone
def test_settings_of_a_third_user_are_left_alone(machine):
    """Settings of a third user are not taken over; the message names the command that does it."""
    m = machine(people=["alice"])
    m.run("chown", "alice", "/opt/power/settings.py")
    done = m.install("--sysv", "--link", "--user", "nobody")
    assert (
        "/opt/power/settings.py belongs to alice, the service runs as nobody: "
        "sudo chown -h nobody /opt/power/settings.py && sudo chmod 600 /opt/power/settings.py" in done.stderr
    )
    assert m.owner("/opt/power/settings.py") == "alice 644"
    # Nor are they to be root's, who would run them: the user is made first.
    done = m.install("--sysv", "--link")
    assert re.search(
        r"/opt/power/settings.py belongs to alice, the service runs as power: sudo (useradd .*? power) && "
        r"sudo (chown -h power /opt/power/settings.py) && sudo chmod 600 \S+, or --user alice "
        r"[(]look at it first: it is code that power will run[)]\n",
        done.stderr,
    )
    assert "chown root" not in done.stderr


@root_alone
def test_settings_that_are_a_link_are_not_followed(machine):
    """A link in the settings' place does not make root give a file of /etc away."""
    m = machine(settings=None)
    m.on_host("/opt/power/settings.py").symlink_to("/etc/shadow")
    before = m.owner("/etc/shadow")
    done = m.install("--sysv", "--link")
    assert "/opt/power/settings.py is a link or not a file" in done.stderr
    assert m.owner("/etc/shadow") == before


@root_alone
def test_paths_of_the_settings_are_the_units_and_logrotates(machine):
    """If the settings name other places, the user must be able to write there, and the sandbox allows it."""
    m = machine(settings='DATA_DIR = "/home/data"\nWRITERS = {"file": {"type": "file", "path": "/home/my csv/p.csv"}}')
    done = m.install("--systemd", "--link")
    assert "power can't write /home, " not in done.stderr
    assert (
        "power can't write /home/data, which /opt/power/settings.py names: sudo install -d -m 750 -o power /home/data"
        in (done.stderr)
    )
    assert "sudo install -d -m 750 -o power '/home/my csv'" in done.stderr
    m.run("install", "-d", "-m", "757", "/home/data", "/home/my csv")
    m.installed("--systemd", "--link")
    unit = m.on_host("/etc/systemd/system/power.service").read_text()
    assert '\nReadWritePaths=-/home/data "-/home/my csv"\n' in unit
    assert "\nProtectHome=read-only\n" in unit
    assert '"/home/data/power.log" {' in m.on_host("/etc/logrotate.d/power").read_text()


@root_alone
def test_a_disk_that_is_away(machine):
    """Whether the user may write to a disk that is not mounted is not known: that is noted, and prevents nothing."""
    m = machine(settings='LOG_FILE = "/home/my stick/logs/power.log"')
    with m.on_host("/etc/fstab").open("a") as file:
        file.write("LABEL=stick /home/my\\040stick ext4 noauto 0 0\n")
    out = m.installed("--systemd", "--link")
    assert "not checked: /home/my stick/logs, as its disk is not mounted at /home/my stick\n" in out
    assert '"/home/my stick/logs/power.log" {' in m.on_host("/etc/logrotate.d/power").read_text()


@pytest.mark.parametrize(
    "path",
    ["/", "/mnt", "/mnt/nas", "/mnt/nas/x", "/mnt/nas2", "/mnt/a disk/x", "/mnt/nas/in", "/mnt/nas/in/x", "/proc/x"],
)
def test_what_is_mounted_is_seen_as_by_the_program(tmp_path, monkeypatch, path):
    """The installer, which runs nothing of src, and the program agree on what is not mounted."""
    fstab, mounted = tmp_path / "fstab", tmp_path / "mountinfo"
    fstab.write_text(
        "# /dev/sda1 /mnt ext4\n\n/dev/sda2 / ext4 defaults 0 1\n//nas/x /mnt/nas cifs noauto\nx /mnt/nas/in ext4\n"
        "/dev/sda3 /mnt/a\\040disk vfat\n/dev/sda4 none swap\nproc /proc/ proc\nbroken\n"
    )
    mounted.write_text("1 0 8:2 / / rw - ext4 /dev/sda2 rw\n2 1 8:3 / /mnt/a\\040disk rw - vfat /dev/sda3 rw\n")
    for name, table in (("FSTAB", fstab), ("MOUNTED", mounted)):
        monkeypatch.setattr(mounts, name, str(table))
        monkeypatch.setattr(installer, name, str(table))
    assert installer._not_mounted(path) == mounts.not_mounted(path)


@root_alone
def test_a_log_that_goes_to_syslog_is_not_rotated_by_its_socket(machine):
    """If LOG_FILE is a socket, the user need not write to its directory, and logrotate does not touch it."""
    m = machine(settings='LOG_FILE = "/opt/log"')
    m.run("/usr/bin/python3", "-c", "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind('/opt/log')")
    m.installed("--systemd", "--link")
    assert '"/var/lib/power/power.log" {' in m.on_host("/etc/logrotate.d/power").read_text()


@root_alone
def test_mistakes_in_the_settings_stop_an_install(machine):
    """Wrong settings are named by the program itself, before anything is changed."""
    m = machine(settings="COMMIT_INTERVAL = 0\nL1_PIN = 1\n")
    before = m.files()
    done = m.install("--sysv", "--link")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("install_init_script: /opt/power/settings.py: L1_PIN: found 1") or lines[0].startswith(
        "install_init_script: /opt/power/settings.py: COMMIT_INTERVAL: found 0"
    )
    assert m.files() == before


@root_alone
def test_a_missing_requirement_stops_an_install(machine):
    """A virtual environment without what requirements.txt names is found at install time."""
    m = machine()
    shutil.rmtree(next(m.on_host("/opt/power/venv").rglob("lockfile")))
    done = m.install("--sysv", "--link")
    assert "missing: lockfile" in done.stderr
    assert "pip install -r" in done.stderr


@root_alone
@pytest.mark.parametrize(
    "path", ["/etc/init.d/power", "/etc/default/power", "/etc/logrotate.d/power", "/etc/systemd/system/power.service"]
)
def test_a_foreign_file_in_the_way_is_left_alone(machine, path):
    """A file that was not written by this installer stops it before the first change, and an uninstall leaves it."""
    m = machine()
    m.on_host(path).write_text("# somebody's own\n")
    before = m.files()
    done = m.install("--systemd", "--link")
    assert (done.returncode, done.stderr) == (
        1,
        f"install_init_script: {path} was not written by this installer: look at it, then move it away\n",
    )
    m.install("--uninstall")
    assert m.files() == before


@root_alone
def test_a_step_that_fails_takes_back_those_before_it(machine):
    """If a command fails half way, everything is as it was before, and the line says which one and why."""
    m = machine()
    m.on_host("/var/lib/power").mkdir()
    m.on_host("/var/lib/power").chmod(0o755)
    # update-rc.d, found first in PATH, that fails: the step after the files.
    m.on_host("/usr/local/bin/update-rc.d").write_text("#!/bin/sh\necho 'no links today' >&2\nexit 9\n")
    m.on_host("/usr/local/bin/update-rc.d").chmod(0o755)
    before = m.files()
    done = m.run(PYTHON, f"{m.top}/{NAME}", "--sysv", "--link", env={"PATH": f"/usr/local/bin:{PATH}"})
    assert (done.returncode, done.stderr) == (
        1,
        (
            "install_init_script: update-rc.d power defaults failed with status 9: no links today; "
            "everything is as it was before\n"
        ),
    )
    left = m.files()
    changed = {name for name in before | left if before.get(name) != left.get(name)}
    assert {name for name in changed if not re.fullmatch(r"etc/\w+-", name)} == set()


@root_alone
def test_systemd_reads_what_is_there_after_a_step_that_failed(machine):
    """If the unit can't be enabled it is removed, and systemd is reloaded: it must not know a unit that is gone."""
    m = machine()
    m.on_host("/run/systemd/system").mkdir(parents=True)
    # systemctl, found first in PATH, that notes whether the unit is there, and can't enable it.
    m.on_host("/usr/local/bin/systemctl").write_text(
        "#!/bin/sh\n"
        'echo "$* $([ -e /etc/systemd/system/power.service ] && echo there)" >> /run/asked\n'
        '[ "$2" != enable ] || { echo "not today" >&2; exit 9; }\n'
    )
    # The real one has systemd read its units too.
    m.on_host("/usr/local/bin/update-rc.d").write_text("#!/bin/sh\n")
    for name in ("systemctl", "update-rc.d"):
        m.on_host(f"/usr/local/bin/{name}").chmod(0o755)
    done = m.run(PYTHON, f"{m.top}/{NAME}", "--systemd", "--link", env={"PATH": f"/usr/local/bin:{PATH}"})
    assert done.returncode == 1
    assert "enable power.service failed with status 9: not today; everything is as it was before\n" in done.stderr
    asked = m.on_host("/run/asked").read_text().splitlines()
    assert asked == ["daemon-reload there", "--quiet enable power.service there", "daemon-reload "]


@root_alone
def test_links_are_checked_and_their_commands_named(machine):
    """Without --link each missing link has its command, which makes it; a link to another source is refused."""
    m = machine()
    done = m.install("--sysv")
    commands = re.findall(r"is missing: sudo (ln -s \S+ \S+)", done.stderr)
    assert commands == [
        "ln -s /opt/power/venv /usr/local/rpienv",
        "ln -s /opt/power/src /usr/local/rpienv/rpienv",
    ]
    for command in commands:
        assert m.run(*command.split()).returncode == 0
    m.installed("--sysv")
    # Made by hand, they are not taken back.
    m.installed("--uninstall")
    assert m.on_host("/usr/local/rpienv").is_symlink()
    m.on_host("/opt/power/venv/rpienv").unlink()
    m.on_host("/opt/power/venv/rpienv").symlink_to("/opt")
    done = m.install("--sysv", "--link")
    assert done.stderr == (
        "install_init_script: /usr/local/rpienv/rpienv leads to /opt, not to /opt/power/src: "
        "install from there, or remove it: sudo rm /usr/local/rpienv/rpienv\n"
    )


@root_alone
def test_a_changed_default_file_is_kept(machine):
    """/etc/default/power is for the administrator: neither a second install nor an uninstall undoes a change."""
    m = machine()
    m.installed("--sysv", "--link")
    default = m.on_host("/etc/default/power")
    default.write_text(default.read_text() + 'POWER_OPTS="-v"\n')
    m.installed("--sysv")
    assert "keep /etc/default/power: it was changed" in m.installed("--uninstall")
    assert default.read_text().endswith('POWER_OPTS="-v"\n')
    m.installed("--sysv", "--link")


@root_alone
def test_named_settings_are_the_services(machine):
    """The file that POWER_SETTINGS names is the one that is checked and made private."""
    m = machine(settings=None)
    m.on_host("/etc/power").mkdir()
    m.on_host("/etc/power/settings.py").write_text("L1_PIN = None\n")
    m.on_host("/etc/default/power").write_text(f'# {installer.MARK}\nPOWER_SETTINGS="/etc/power/settings.py"\n')
    m.installed("--sysv", "--link")
    assert m.owner("/etc/power/settings.py") == "power 600"


@root_alone
def test_logrotate_takes_the_snippet(machine):
    """With it, logrotate rotates the daemon's log as the service's user, and the program writes to the new one."""
    if not shutil.which("logrotate", path=PATH):
        without("logrotate")
    m = machine()
    m.installed("--sysv", "--link")
    log = m.on_host("/var/lib/power/power.log")
    log.write_text("a line\n")
    shutil.chown(log, int(m.run("id", "-u", "power").stdout))
    done = m.run("logrotate", "--force", "--state", "/run/state", "/etc/logrotate.d/power")
    assert (done.returncode, done.stderr) == (0, "")
    assert m.on_host("/var/lib/power/power.log.1").read_text() == "a line\n"
    assert m.owner("/var/lib/power/power.log") == "power 640"


@root_alone
def test_a_log_with_the_letters_of_a_pattern(machine):
    """A LOG_FILE that logrotate could take for a pattern is that file, and not the others that match."""
    if not shutil.which("logrotate", path=PATH):
        without("logrotate")
    m = machine(settings="LOG_FILE = '/var/lib/power/[ab]*?.log'")
    m.installed("--sysv", "--link")
    for name in ("[ab]*?.log", "bc1.log"):
        m.on_host("/var/lib/power").joinpath(name).write_text("a line\n")
        shutil.chown(m.on_host("/var/lib/power") / name, int(m.run("id", "-u", "power").stdout))
    done = m.run("logrotate", "--force", "--state", "/run/state", "/etc/logrotate.d/power")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in m.on_host("/var/lib/power").iterdir()} == {"[ab]*?.log", "[ab]*?.log.1", "bc1.log"}


@root_alone
def test_a_user_of_a_domain(machine):
    """Names of a user and group with spaces, as in a domain, work in the service, the rotation and the unit."""
    if not shutil.which("logrotate", path=PATH) or not shutil.which("systemd-analyze"):
        without("logrotate or systemd-analyze")
    m = machine()
    for table, line in (
        ("passwd", "HOME\\jo smith:x:70001:70001::/nonexistent:/bin/sh"),
        ("group", "domain users:x:70001:"),
    ):
        with m.on_host(f"/etc/{table}").open("a") as file:
            file.write(f"{line}\n")
    user = "HOME\\jo smith"
    m.installed("--sysv", "--link", "--user", user)
    with m.on_host("/etc/default/power").open("a") as file:
        file.write(SIMULATED)
    assert m.service("start").returncode == 0
    assert m.owner("/var/lib/power") == f"{user} 750"
    assert m.run("setpriv", "--reuid=70001", "--clear-groups", "/etc/init.d/power", "status").returncode == 0
    assert m.service("stop").returncode == 0
    log = m.on_host("/var/lib/power/power.log")
    log.write_text("a line\n")
    os.chown(log, 70001, 70001)
    done = m.run("logrotate", "--force", "--state", "/run/state", "/etc/logrotate.d/power")
    assert (done.returncode, done.stderr) == (0, "")
    assert m.owner("/var/lib/power/power.log") == f"{user} 640"
    m.installed("--systemd", "--user", user)
    done = m.run("systemd-analyze", "verify", "/etc/systemd/system/power.service")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@root_alone
@pytest.mark.parametrize(
    ("group", "udev", "mend"),
    [
        (True, True, "sudo usermod -aG gpio pi"),
        (
            False,
            True,
            "sudo groupadd --system gpio && echo .* | sudo tee /etc/udev/rules.d/60-gpio.rules && sudo udevadm",
        ),
        (
            False,
            False,
            "sudo groupadd --system gpio && sudo chgrp gpio /dev/gpiochip0 && sudo chmod g[+]rw /dev/gpiochip0",
        ),
    ],
)
def test_a_gpio_chip_that_the_user_cannot_open_is_found(machine, group, udev, mend):
    """If the service's user may not open the chip, the message names the command for it; then the install works."""
    m = machine(people=["pi"], devices=True)
    chip = m.on_host("/dev/gpiochip0")
    chip.touch()
    chip.chmod(0o660)
    if group:
        m.run("groupadd", "gpio")
        m.run("chgrp", "gpio", "/dev/gpiochip0")
    if udev:
        m.on_host("/run/udev").mkdir()
    done = m.install("--sysv", "--link", "--user", "pi")
    assert done.returncode == 1
    assert re.search(f"pi can't open the GPIO chip: {mend}", done.stderr)
    m.run("groupadd", "--force", "gpio")
    m.run("chgrp", "gpio", "/dev/gpiochip0")
    done = m.install("--sysv", "--link", "--user", "pi")
    assert m.run(*re.search("pi can't open the GPIO chip: sudo (usermod .*)", done.stderr)[1].split()).returncode == 0
    m.installed("--sysv", "--link", "--user", "pi")


@root_alone
def test_another_user_needs_a_stopped_service(machine):
    """While it runs as one user it is not installed for another, who could not stop it in an orderly way."""
    m = machine(people=["pi"])
    m.installed("--sysv", "--link")
    m.on_host("/etc/default/power").write_text(f"# {installer.MARK}\n{SIMULATED}")
    assert m.service("start").returncode == 0
    done = m.install("--sysv", "--user", "pi")
    assert "install_init_script: power runs as power: sudo service power stop, then try again\n" in done.stderr
    assert m.owner("/var/lib/power/simulated/journal.db") == "power 600"
    assert "sudo service power restart" in m.installed("--sysv")
    assert m.service("stop").returncode == 0
    # The settings are code of the other one's.
    done = m.install("--sysv", "--user", "pi")
    m.run("sh", "-c", re.search("belongs to power, the service runs as pi: sudo (chown .*) &&", done.stderr)[1])
    m.installed("--sysv", "--user", "pi")
    assert m.owner("/var/lib/power/simulated/journal.db") == "pi 600"
    assert m.service("start").returncode == 0


@root_alone
def test_a_script_alone_is_not_installed_over_a_unit(machine):
    """Before an install with --sysv, what --systemd installed has to be removed."""
    m = machine()
    m.installed("--systemd", "--link")
    done = m.install("--sysv")
    assert "power.service was installed, but --sysv installs none: --uninstall first" in done.stderr
    m.installed("--uninstall")
    m.installed("--sysv", "--link")


# --- systemd's own judgement


@root_alone
@pytest.mark.parametrize("home", [False, True], ids=["in /opt", "in a home"])
def test_systemd_finds_nothing_wrong_with_the_unit(machine, home):
    """systemd-analyze verify prints nothing; its exposure level is 2.0 or less."""
    if not shutil.which("systemd-analyze"):
        without("systemd-analyze")
    m = machine(**({"top": "/home/pi/power", "people": ["pi"]} if home else {}))
    m.installed("--systemd", "--link")
    unit = "/etc/systemd/system/power.service"
    done = m.run("systemd-analyze", "verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = m.run("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout
    assert float(re.search(r"exposure level for power.service: ([\d.]+)", done.stdout)[1]) <= 2.0


# --- What needs no root


def run_installer(*args, env=None):
    """Run the installer of this tree as the user of the tests."""
    done = subprocess.run(
        [sys.executable, TOP / NAME, *args],
        env={"PATH": PATH, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("kind", ["--sysv", "--systemd"])
def test_dry_run_works_anywhere(kind):
    """A dry run lists every file, command and missing link, exits 0 and changes nothing, as any user."""
    if os.path.lexists("/usr/local/rpienv"):
        pytest.skip("power is installed on this machine")
    done = run_installer(kind, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    for path in ("/etc/init.d/power", "/etc/default/power", "/etc/logrotate.d/power"):
        assert f"would: write {path}" in done.stdout
    assert ("power.service" in done.stdout) == (kind == "--systemd")
    assert "run update-rc.d power defaults" in done.stdout
    assert "/usr/local/rpienv is missing: sudo ln -s" in done.stdout
    assert not any(map(os.path.lexists, ("/etc/init.d/power", "/etc/default/power", "/var/lib/power/power.log")))


@root_alone
def test_dry_run_works_for_another_user(machine):
    """The user nobody may try it, too; what only root can find out is reported as not checked."""
    m = machine()
    before = m.files()
    line = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", PYTHON, f"{m.top}/{NAME}"]
    done = m.run(*line, "--dry-run", "--sysv", "--link")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not checked: what power may read and write" in done.stdout
    m.run("install", "-d", "-m", "700", "/var/lib/power")
    done = m.run(*line, "--uninstall", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    m.run("rmdir", "/var/lib/power")
    done = m.run(*line, "--sysv", "--link")
    assert (done.returncode, done.stderr) == (
        1,
        "install_init_script: only root may change /etc/init.d: sudo, or try --dry-run\n",
    )
    assert m.files() == before


@pytest.mark.parametrize("args", [("--sysv", "--systemd"), ("--user",), ("--nonsense",), ("--dry",), ("word",)])
def test_wrong_usage_is_status_2(args):
    """Unknown arguments are answered with the usage."""
    assert run_installer(*args).returncode == 2


def test_the_service_never_runs_as_root():
    """--user root is refused in one clear line, and so are root's other names and places."""
    done = run_installer("--dry-run", "--sysv", "--user", "root")
    assert (done.returncode, done.stderr) == (
        1,
        "install_init_script: --user root: the service never runs as root: name another user, or none\n",
    )
    home = os.path.realpath(pwd.getpwuid(0).pw_dir)
    name, problem = installer.chosen_user(None, [f"{home}/power/venv"])
    assert name == "power"
    assert "is in root's home: move both" in problem
    assert installer.chosen_user(None, ["/opt/power"]) == ("power", None)


def test_an_unknown_init_is_one_line(place):
    """Neither systemd nor sysvinit: one line that says what to choose."""
    if os.path.isdir("/run/systemd/system") or os.path.exists("/etc/inittab"):
        pytest.skip("the init of this machine is known")
    done = run_installer("--dry-run")
    assert (done.returncode, done.stderr) == (
        1,
        "install_init_script: this machine's init is neither systemd nor sysvinit: choose with --systemd or --sysv\n",
    )


ANSWER = {"data_dir": "/var/lib/power", "log_file": None, "files": ["/srv/my csv/p.csv"]}


def test_the_program_s_answer_is_understood():
    """The program's answer about the settings is returned unchanged."""
    assert installer.understood(json.dumps(ANSWER).encode()) == ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 60000,
        b'{"data_dir": "/d"}',
        json.dumps({**ANSWER, "data_dir": None}).encode(),
        json.dumps({**ANSWER, "data_dir": "d"}).encode(),
        json.dumps({**ANSWER, "files": {"/a": "/b"}}).encode(),
        json.dumps({**ANSWER, "files": [["/a"]]}).encode(),
        json.dumps({**ANSWER, "files": ["/a"] * 65}).encode(),
        *(
            json.dumps({**ANSWER, name: [path] if name == "files" else path}).encode()
            for name in ANSWER
            for path in ("/var/lib/power/../../etc/x", "/var/./x", "//etc", "/etc/", "/etc//x", "/..")
        ),
    ],
)
def test_an_answer_that_is_none(answer):
    """Anything that is not an answer of the program is refused in one line."""
    with pytest.raises(installer.InstallError, match="is not understood: look at the file"):
        installer.understood(answer)


@pytest.mark.parametrize("letter", [*"\"'`\\{}\n\r\t\x1b\0\x9b\u2028\ud800", "/a" * 2048])
@pytest.mark.parametrize("name", ["data_dir", "log_file", "files"])
def test_paths_that_the_files_of_root_can_not_hold(name, letter):
    """A path that could end a line, a quotation or a block in a file that root obeys is refused, and shown plainly."""
    path = f"/srv/{letter}x"
    said = {**ANSWER, name: [path] if name == "files" else path}
    with pytest.raises(installer.InstallError) as refused:
        installer.understood(json.dumps(said).encode())
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", sorted(os.listdir(TOP / "init")))
def test_no_line_can_be_written_into_a_file_of_root_s(name):
    """If the path of the source or the settings contains a line feed, which its owner may choose, it is not written."""
    files = installer.Files("/srv/x\nExecStartPre=+/bin/sh", "/srv/x\n/etc/shadow {", ("/srv/x\n[Service]",))
    with pytest.raises(installer.InstallError, match="has control characters, and can't be written"):
        installer.rendered(name, installer.Places(), user="power", files=files)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time; time.sleep(600)", "does not end within 0.5 s"),
        ("import os, time; os.fork() or time.sleep(600)", "does not end within 0.5 s"),
        ("import os, time; os.fork() or (os.setsid(), time.sleep(5))", "does not end within 0.5 s"),
        ("print('x' * 10**6)", "prints without end"),
        ("import sys\nwhile True: sys.stderr.write('x')", "prints without end"),
    ],
    ids=["hangs", "its child hangs", "its child leaves the session", "floods", "floods with errors"],
)
def test_a_child_that_hangs_or_floods(code, said):
    """Whatever the program of the service's user does, the installer goes on in bounded time and memory."""
    begun_s = time.monotonic()
    with pytest.raises(installer.InstallError, match=said):
        installer._output([sys.executable, "-c", code], 0.5)
    assert time.monotonic() - begun_s < PATIENCE_S


def test_a_child_has_no_terminal():
    """It runs in a session of its own, without a terminal, and gets the given input."""
    code = (
        "import os, sys\nprint(os.getsid(0) == os.getpid(), any(map(os.isatty, range(3))), sys.stdin.read())\n"
        "try: open('/dev/tty')\nexcept OSError as error: print(error.strerror)"
    )
    done = installer._output([sys.executable, "-c", code], PATIENCE_S, given=b"given")
    assert done.stdout == b"True False given\nNo such device or address\n"


def test_no_option_names_another_root():
    """There is no option for the places: init would not find a file anywhere else."""
    options = {word for action in installer.parser()._actions for word in action.option_strings}
    assert options == {"-h", "--help", "--sysv", "--systemd", "--user", "--link", "--dry-run", "--uninstall"}


def test_paths_are_quoted_for_a_unit():
    """Spaces, quotes and percent signs in a path are escaped in a unit."""
    assert installer._unit_paths(["/a", "/a", "/b c", "/50%", '/"']) == '/a "/b c" /50%% "/\\""'


def make_venv(directory, requirement):
    """tools/make_venv.sh for *directory*/venv, without a network."""
    (directory / "requirements.txt").write_text(f"{requirement}\n")
    line = ["sh", TOP / "tools/make_venv.sh", sys.executable, directory / "venv", directory / "requirements.txt"]
    env = {**os.environ, "PIP_NO_INDEX": "1"}
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_make_keeps_a_virtual_environment_that_works(tmp_path):
    """make uses an existing environment: the service's links and options stay. A broken one is made again."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", venv], check=True, timeout=PATIENCE_S)
    (venv / "rpienv").symlink_to(TOP / "src")
    config = (venv / "pyvenv.cfg").read_text()
    assert make_venv(tmp_path, "no-such-thing-as-this").returncode == 1
    assert not (venv / ".made").exists()
    done = make_venv(tmp_path, "pip")
    assert (done.returncode, done.stderr) == (0, "")
    assert (venv / ".made").exists()
    assert (venv / "rpienv").is_symlink()
    assert (venv / "pyvenv.cfg").read_text() == config
    (venv / "bin" / "python").unlink()
    assert make_venv(tmp_path, "pip").returncode == 0
    assert subprocess.run([venv / "bin" / "python", "-c", "import pip"], check=False).returncode == 0
    assert not (venv / "rpienv").exists()


# --- The init script, with the real program


class Service(Program):
    """The init script, rendered with paths in *directory* for *user*, and the real program with its simulated meter."""

    def __init__(self, directory, user=None, opts="--simulate 20000"):
        super().__init__(directory / "own", "L1_PIN = None")
        self.user = user or pwd.getpwuid(os.geteuid()).pw_name
        self.rpienv = directory / "rpienv"
        self.state = directory / "state"
        (self.rpienv / "bin").mkdir(parents=True)
        (self.rpienv / "rpienv").symlink_to(TOP / "src")
        # The tests' own interpreter, with coverage and all.
        (self.rpienv / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (self.rpienv / "bin/python").chmod(0o755)
        run = self.directory / "run"
        run.mkdir()
        self.pidfile = run / "power.pid"
        self.default = directory / "default"
        self.options(opts)
        places = installer.Places(
            rpienv=str(self.rpienv),
            default=str(self.default),
            unit=str(directory / "no.service"),
            command=str(directory / "command"),
            state=str(self.state),
            run=str(run),
        )
        files = installer.Files(str(self.state), "", ())
        self.script = directory / "power"
        for path, name in ((self.script, "power.init"), (directory / "command", "power.command")):
            path.write_text(installer.rendered(name, places, user=self.user, files=files))
            path.chmod(0o755)

    def options(self, opts):
        """Write what /etc/default/power would contain."""
        self.default.write_text(f'POWER_SETTINGS="{self.settings}"\nPOWER_OPTS="{opts}"\n')

    def __call__(self, *verbs, status, says=""):
        """Run the script, whose exit status must be *status*, and its output must have *says*."""
        done = subprocess.run(
            [self.script, *verbs],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, said
        assert says in said
        assert "Traceback" not in said
        return said


@pytest.fixture
def service(tmp_path):
    """The init script, run as the user of the tests, who may be anyone: the program does not change its user."""
    with Service(tmp_path) as service:
        # As root the script would drop to the user it is for, who is root here, and make the directory.
        yield service


def test_the_script_is_good_shell():
    """dash and shellcheck, if installed, accept it; the command is Python; no placeholder of a template is left."""
    places, files = installer.Places(), installer.Files("/var/lib/power", "/var/lib/power/power.log", ())
    for name in os.listdir(TOP / "init"):
        text = installer.rendered(name, places, user="power", files=files, reads=["/opt/power"])
        assert not re.search(r"@[A-Z_]+@", text), name
        assert installer.MARK in text
    script = installer.rendered("power.init", places, user="power", files=files)
    for shell in ("dash", "sh"):
        done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    if shutil.which("shellcheck"):
        line = ["shellcheck", "--shell=sh", "--exclude=SC1091", "-"]
        done = subprocess.run(line, input=script, text=True, capture_output=True, check=False)
        assert done.stdout == ""
    command = installer.rendered("power.command", places, user='HOME\\jo "smith', files=files)
    assert 'HOME\\jo "smith' in compile(command, "power", "exec").co_consts


def test_start_and_stop_have_lsbs_statuses(service):
    """Start and stop, once and twice, return 0; status is 3 while it is stopped, and 0 while it runs."""
    service("status", status=3)
    service("start", status=0, says="counting, pid")
    pid = service.pid
    service("status", status=0, says=f"running, pid {pid}")
    service("start", status=0, says="already running")
    assert service.pid == pid
    service("stop", status=0, says=f"stopped, pid {pid}")
    service("stop", status=0, says="not running")
    service("status", status=3)


def test_the_state_directory_is_the_default_of_the_data(service):
    """Like systemd, the script passes the state directory to the program: DATA_DIR, if the settings have none."""
    service.settings.write_text("")
    service("start", status=0)
    assert (service.state / "simulated/journal.db").exists()
    service("stop", status=0)


def test_the_command_reports(service):
    """The installed command finds the service's journal, running or not, and needs no terminal."""
    service.settings.write_text('METERS = {"house": {"pin": 18, "impulses_per_kwh": 1000, "label": "Cellar"}}\n')
    service("start", status=0)
    wait_until(lambda: len(journal_rows(service.state / "simulated")) > 1)
    for words in ([], ["today", "--csv"], ["--json"]):
        line = [service.script.parent / "command", "--report", *words]
        done = subprocess.run(
            line, env=service.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["meters"][0]["label"] == "Cellar"
    service("stop", status=0)
    done = subprocess.run(line, env=service.env, capture_output=True, text=True, check=False)
    (meter,) = json.loads(done.stdout)["meters"]
    assert sum(row["kwh"] for row in meter["days"]) * 1000 == pytest.approx(
        len(journal_rows(service.state / "simulated"))
    )


@pytest.mark.parametrize("opts", ["--simulate 20000", "--simulate=20000 -v"])
def test_restart_is_another_process(service, opts):
    """A restart ends the running program and starts another; if none is running, it starts one."""
    service.options(opts)
    service("restart", status=0)
    first = service.pid
    service("restart", status=0)
    assert service.pid not in (None, first)
    service("stop", status=0)


@pytest.mark.parametrize("verb", ["condrestart", "try-restart"])
def test_a_conditional_restart_starts_nothing(service, verb):
    """If nothing is running, it returns 0 and starts nothing; otherwise it is a restart."""
    service(verb, status=0, says="not running")
    service("status", status=3)
    service("start", status=0)
    first = service.pid
    service(verb, status=0)
    assert service.pid not in (None, first)


def test_restart_keeps_the_old_one_where_the_settings_are_wrong(service):
    """The program's own restart finds mistakes before it stops anything."""
    service("start", status=0)
    pid = service.pid
    service.options("")
    service.set("COMMIT_INTERVAL = 0")
    service("restart", status=1, says="COMMIT_INTERVAL: found 0")
    assert service.pid == pid


@pytest.mark.parametrize("verb", ["reload", "force-reload"])
def test_reload_is_a_hangup_to_the_one_that_runs(service, verb):
    """Reload signals the pid that the program itself names and leaves it running; 7 if nothing is running."""
    service(verb, status=7, says="not running")
    service("start", status=0)
    pid = service.pid
    service(verb, status=0, says=f"pid {pid} reads its settings again")
    log = service.data_dir / "simulated/power.log"
    wait_until(lambda: "settings.py is in force" in log.read_text())
    service.set("L1_PIN = 1")
    service(verb, status=0)
    wait_until(lambda: "the settings from before stay in force" in log.read_text())
    service("status", status=0)
    assert service.pid == pid


def test_reload_never_signals_the_number_in_a_stale_pidfile(service):
    """After a power cut, the number in the pidfile may be another process's: that one gets no signal."""
    with subprocess.Popen(["sleep", "60"]) as other:
        service.pidfile.write_text(f"{other.pid}\n")
        service("reload", status=7)
        service("stop", status=0)
        assert other.poll() is None
        other.kill()


def test_a_stale_pidfile_blocks_no_start(service):
    """After SIGKILL the status is 1; a start works as usual."""
    service("start", status=0)
    kill(service.pid)
    service("status", status=1, says="was left")
    service("start", status=0)
    service("status", status=0)


def test_wrong_settings_are_status_1_with_the_reason(service):
    """A start with wrong settings says what is wrong and fails."""
    service.set("L1_PIN = 1")
    service("start", status=1, says="L1_PIN: found 1")
    service("status", status=3)


def test_no_settings_are_status_6(service):
    """Without settings the exit status is 6, LSB's "not configured"."""
    service.options("")
    service.settings.unlink()
    service("start", status=6, says="settings.py.example")


def test_a_stopped_program_is_status_4(service):
    """If a program holds its pidfile but does not answer, the status is unknown, and no second one is started."""
    service("start", status=0)
    os.kill(service.pid, signal.SIGSTOP)
    service("status", status=4, says="does not answer")
    service("reload", status=1, says="does not answer")
    service("start", status=1, says="already running")
    os.kill(service.pid, signal.SIGCONT)
    service("stop", status=0)


@pytest.mark.parametrize("verbs", [(), ("stopp",), ("start", "now"), ("--help",)])
def test_an_unknown_verb_is_status_2(service, verbs):
    """It refuses unknown actions, and names those that it knows."""
    service(*verbs, status=2, says="start|stop|restart|try-restart|condrestart|reload|force-reload|status")


@pytest.mark.parametrize(("verb", "status"), [("start", 5), ("stop", 5), ("reload", 5), ("status", 4)])
def test_a_program_that_has_gone_is_status_5(service, verb, status):
    """Without the virtual environment it is not installed, and whether it is running is unknown."""
    shutil.rmtree(service.rpienv)
    service(verb, status=status, says=str(service.rpienv))


def test_wrong_words_for_the_start_are_status_2(service):
    """Unknown options in POWER_OPTS are answered with the program's usage."""
    service.options("--nonsense")
    service("start", status=2, says="--nonsense")


def test_the_unit_and_the_script_name_the_same_files():
    """Init script and unit use the same pidfile, program, options and directories."""
    places, files = installer.Places(), installer.Files("/var/lib/power", "", ())
    unit = installer.rendered("power.service", places, user="power", files=files)
    assert (
        "ExecStart=/usr/local/rpienv/bin/python /usr/local/rpienv/rpienv/power.py "
        "--nodaemon --pidfile /run/power/power.pid $POWER_OPTS\n"
    ) in unit
    assert "EnvironmentFile=-/etc/default/power\n" in unit
    assert places.state == "/var/lib/" + re.search(r"^StateDirectory=(.*)$", unit, re.MULTILINE)[1]
    assert places.run == "/run/" + re.search(r"^RuntimeDirectory=(.*)$", unit, re.MULTILINE)[1]
