"""
A throwaway machine for attacks: mounts, processes and users of its own, and nothing of the real one is changed.

Its /etc is a copy; /opt, /home, /run, /tmp, /usr/local and /var/lib are new. Whoever attacks is a real user of it, and
whatever still runs on it at the end is killed by the kernel, with the first process of its pid namespace.
The program is that of the source tree in POWER_TREE, this one if none is named: so the attacks can be tried on another
version of it.
"""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from program import PATIENCE_S, wait_until

TOP = Path(__file__).resolve().parents[2]

#: The source tree under attack.
TREE = Path(os.environ.get("POWER_TREE", TOP)).resolve()

#: Debian's Python of the version that runs the tests: every user may run it.
PYTHON = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/bin")

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

#: What else the machine is made with.
TOOLS = ("unshare", "nsenter", "setpriv", "prlimit", "mount", "useradd", "update-rc.d", "systemctl", "logrotate", "git")

#: Who is on it: the one who is attacked, who attacks, and a group that both are in.
VICTIM, MALLORY, FAMILY = 70001, 70002, 70003
USERS = {"root": (0, ()), "victim": (VICTIM, (FAMILY,)), "mallory": (MALLORY, (FAMILY,))}

#: What requirements.txt names, and what that needs.
PACKAGES = ("daemon", "lockfile", "influxdb", "librato", "requests", "urllib3", "idna", "certifi", "charset_normalizer",
            "dateutil", "msgpack", "pytz", "six.py")  # fmt: skip

#: Where the source is on it, as the handbook has it.
POWER = "/opt/power"
PROGRAM = f"{POWER}/src/power.py"
VENV = f"{POWER}/venv/bin/python"

#: The load that is simulated: 5.6 pulses a second.
WATTS = "20000"

#: The libraries of the virtual environment, beside the template.
LIBRARIES = "libraries"

#: Directories of /etc that no attack is about, and that have most of its files: they are mounted in place of a copy.
AS_THEY_ARE = [name for name in ("alternatives", "fonts", "ssl", "X11") if os.path.isdir(f"/etc/{name}")]

BOUND = ("etc", "home", "opt", "run", "usr/local", "var/lib", "tmp")

#: The machine's first process: it takes leave of all that ends, and ends with its last user.
FIRST = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
while True: signal.pause()
"""

#: Code of an attacker's: it notes who runs it. *label* tells where it stands.
SPY = """
import os
with open("/opt/ran", "a") as _ran:
    _ran.write(f"{{os.geteuid()}} {label}\\n")
"""


def spy(label="settings"):
    """Code that notes who runs it."""
    return SPY.format(label=label)


def why_not():
    """Why no such machine can be made here; "" where it can."""
    if os.geteuid() != 0:
        return "needs root: it makes users and mounts of its own"
    if PYTHON is None:
        return f"no python3.{sys.version_info.minor} of Debian's, which other users can run"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]:
        return f"not installed: {', '.join(missing)}"
    line = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return f"no namespaces: {done.stderr.strip()}" if done.returncode else ""


def make_template(directory):
    """What a machine begins with, in *directory*: it is copied for each."""
    for name in BOUND[1:]:
        (directory / name).mkdir(parents=True)
        (directory / name).chmod(0o755)
    for name in AS_THEY_ARE:
        (directory / "etc" / name).mkdir(parents=True)
    shutil.copytree(
        "/etc", directory / "etc", symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*AS_THEY_ARE)
    )
    for table, template in {
        "passwd": "{name}:x:{uid}:{uid}::/home/{name}:/bin/sh",
        "group": "{name}:x:{uid}:",
        "shadow": "{name}:*:20000::::::",
    }.items():
        lines = [template.format(name=name, uid=uid) for name, (uid, _) in USERS.items() if uid]
        if table == "group":
            lines.append(f"family:x:{FAMILY}:victim,mallory")
        with (directory / "etc" / table).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
    for name, (uid, _) in USERS.items():
        if uid:
            (directory / "home" / name).mkdir()
            os.chown(directory / "home" / name, uid, uid)
    (directory / "tmp").chmod(0o1777)
    (directory / "usr/local/bin").mkdir()
    (directory / "opt/ran").touch()
    (directory / "opt/ran").chmod(0o666)
    power = directory / POWER[1:]
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("src", "init", "tools", "docs/howto"):
        shutil.copytree(TREE / name, power / name, ignore=ignored)
    for name in ("install_init_script.py", "settings.py.example", "requirements.txt", "README.rst", ".gitignore"):
        shutil.copy(TREE / name, power)
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", power / "venv"], check=True)
    # The tests' own, copied, as they may lie where nobody else can read.
    packages = next((power / "venv" / "lib").glob("python3*")) / "site-packages"
    for name in PACKAGES:
        found = Path(sysconfig.get_path("purelib")) / name
        if found.is_dir():
            shutil.copytree(found, packages / name, ignore=ignored)
        elif found.exists():
            shutil.copy(found, packages)
    # Only root could write it, and most of what runs is not root's.
    subprocess.run([PYTHON, "-m", "compileall", "-q", "-s", directory, power / "src", packages], check=True)
    # The many files that no attack changes are not copied: they are mounted.
    (power / "venv" / "lib").rename(directory.parent / LIBRARIES)
    (power / "venv" / "lib").mkdir()


class Machine:
    """One in *directory*, made of *template*; a context manager."""

    def __init__(self, directory, template):
        self.directory = directory
        self._libraries = template.parent / LIBRARIES
        subprocess.run(["cp", "-a", f"{template}/.", directory], check=True)
        self._begun = []

    def __enter__(self):
        mounts = " && ".join(
            [f'mount -n --bind /etc/{name} "$0/etc/{name}"' for name in AS_THEY_ARE]
            + [f'mount -n --rbind "$0/{name}" /{name}' for name in BOUND]
        )
        mounts += f' && mount -n --bind "$1" {POWER}/venv/lib && shift'
        # Ends with the tests, however they end.
        line = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._first = subprocess.Popen(
            [*line, "sh", "-c", f'{mounts} && cd / && exec "$@"', self.directory, self._libraries, PYTHON, "-c", FIRST],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._first.stdout.readline() == "up\n"
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text()
        self._pid = children.split()[0]
        return self

    def __exit__(self, *_):
        self._first.kill()
        self._first.communicate()
        # All of them have ended with it: what is waited for is that the kernel says so.
        for popen in self._begun:
            popen.communicate()

    def on_host(self, path):
        """Where the machine's *path* is on the real one."""
        return self.directory / str(path).lstrip("/")

    # --- Who runs what

    def line(self, *line, user="root", env=None):
        """The command line that runs *line* here as *user*: a name, or the number of one that was made here."""
        uid, groups = USERS[user] if user in USERS else (self.uid(user), ())
        ids = [
            f"--reuid={uid}",
            f"--regid={uid}",
            f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups",
        ]
        home = "/root" if user == "root" else f"/home/{user}"
        pairs = {"PATH": PATH, "HOME": home, "LANG": "C.UTF-8", **(env or {})}
        words = ["env", "-i", *(f"{key}={value}" for key, value in pairs.items())]
        return ["nsenter", "-t", self._pid, "-m", "-p", "--", "setpriv", *ids, *words, *map(str, line)]

    def run(self, *line, user="root", env=None, patience_s=PATIENCE_S, ours=True):
        """Run *line* to its end. No command may show a traceback, if it is *ours*."""
        popen = self.begin(*line, user=user, env=env, stderr=subprocess.PIPE, errors="replace")
        try:
            out, err = popen.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still not ended after {patience_s} s: {line}") from None
        self._begun.remove(popen)
        assert not ours or "Traceback" not in out + err, err
        return subprocess.CompletedProcess(line, popen.returncode, out, err)

    def begin(self, *line, user="root", env=None, **options):
        """Begin *line*; it is killed in the end."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True, **options}
        popen = subprocess.Popen(self.line(*line, user=user, env=env), **options)
        self._begun.append(popen)
        return popen

    def attack(self, code, *args, user="mallory"):
        """Run the Python *code* of an attacker's, and return once it prints "ready"."""
        popen = self.begin("/usr/bin/python3", "-c", code, *args, user=user)
        said = popen.stdout.readline()
        assert said == "ready\n", (said, code)
        return popen

    def end(self, popen):
        """End what was begun as *popen*."""
        os.kill(self.numbers(popen)[0], signal.SIGKILL)
        popen.communicate()
        self._begun.remove(popen)

    @staticmethod
    def numbers(popen):
        """The process ids of what was begun as *popen*: on the real machine, and here."""
        child = Path(f"/proc/{popen.pid}/task/{popen.pid}/children").read_text().split()[0]
        status = Path(f"/proc/{child}/status").read_text()
        return [int(number) for number in re.search(r"^NSpid:(.*)$", status, re.MULTILINE)[1].split()]

    def power(self, *args, user="root", env=None, **options):
        """Run the program."""
        return self.run(VENV, PROGRAM, *args, user=user, env=env, **options)

    def install(self, *args, **options):
        """Run the installer."""
        return self.run(PYTHON, f"{POWER}/install_init_script.py", *args, **options)

    def installed(self, *args):
        """Run the installer, which must succeed."""
        done = self.install(*args)
        assert done.returncode == 0, done.stderr
        return done

    def on_terminal(self, script, *, user="root", patience_s=PATIENCE_S):
        """
        Run the shell's *script* on a terminal, and then a shell that reads what was typed there; all that was shown.

        Only what somebody else typed is there to be read: nothing but "exit" is typed here.
        """
        line = self.line("sh", "-c", f'{script}; echo "(the shell)"; PS1= exec sh', user=user)
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp(line[0], line)
        shown, end_s = b"", time.monotonic() + patience_s
        try:
            while b"(the shell)" not in shown and time.monotonic() < end_s:
                shown += _read(terminal, end_s)
            os.write(terminal, b"\nexit\n")
            while (more := _read(terminal, end_s)) and time.monotonic() < end_s:
                shown += more
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(terminal)
        return shown

    # --- What is there

    def uid(self, name):
        """The number of the user *name* here."""
        found = [line.split(":") for line in self.on_host("/etc/passwd").read_text().splitlines()]
        return next(int(entry[2]) for entry in found if entry[0] == name)

    def write(self, path, text="", *, owner=0, mode=0o600):
        """The file *path* with *text*, and the directories above it, root's."""
        there = self.on_host(path)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text)
        there.chmod(mode)
        os.chown(there, owner, owner)
        return there

    def made(self, path, *, owner=0, group=None, mode=0o755):
        """The directory *path*, made."""
        there = self.on_host(path)
        there.mkdir(parents=True, exist_ok=True)
        there.chmod(mode)
        os.chown(there, owner, owner if group is None else group)
        return there

    def ran(self):
        """Who ran an attacker's code, by the number of the user."""
        return {int(line.split()[0]) for line in self.on_host("/opt/ran").read_text().splitlines()}

    def ran_labels(self, uid):
        """Which code of an attacker's the user *uid* ran."""
        lines = [line.split(" ", 1) for line in self.on_host("/opt/ran").read_text().splitlines()]
        return {label for who, label in lines if int(who) == uid}

    def runs(self, number):
        """Whether there is a process of this *number* here."""
        return self.run("test", "-e", f"/proc/{number}").returncode == 0

    def status(self, *args, user="root"):
        """What ``--status --json`` tells; None where it can't."""
        done = self.power(*args, "--status", "--json", user=user)
        with contextlib.suppress(ValueError):
            return json.loads(done.stdout)
        return None

    def counts(self, *args, user="root", least=1):
        """Wait until a running one has counted *least* pulses; its status."""

        def counted():
            status = self.status(*args, user=user)
            return status and "meters" in status and status["meters"]["house"]["pulses"] >= least and status

        return wait_until(counted)


def _read(terminal, end_s):
    """What is shown on *terminal*, b"" at its end."""
    if not select.select([terminal], [], [], max(0.0, end_s - time.monotonic()))[0]:
        return b""
    try:
        return os.read(terminal, 65536)
    except OSError:  # the last one that had it open has ended
        return b""


def tree_of(path):
    """All below *path*: its kind, mode, owner and content."""
    found = {}
    for each in sorted([path, *path.rglob("*")]):
        about = each.lstat()
        content = each.read_bytes() if stat.S_ISREG(about.st_mode) else None
        content = os.readlink(each) if each.is_symlink() else content
        found[str(each.relative_to(path))] = about.st_mode, about.st_uid, about.st_gid, content
    return found
