"""Machines on which the installed program counts, for tests and bench."""

import json

import machine

SETTINGS = """\
METERS = {"house": {"pin": 18, "impulses_per_kwh": 1000, "max_watts": 9_000_000}}
COMMIT_INTERVAL = 1
CLOCK_WAIT = 0  # nobody sets the machine's clock
"""

#: Where the project and its virtual environment are in the machine: at home, as on a Pi.
PROJECT = "/home/pi/power"

PROGRAM = "/usr/local/rpienv/bin/python /usr/local/rpienv/rpienv/power.py --pidfile /run/power/power.pid"

#: Read with the machine's own Python, even while the program is running.
JOURNAL = 'import sqlite3; db = sqlite3.connect("file:/var/lib/power/journal.db?mode=ro", uri=True)'

#: What is not a trace of the program: files in memory, files that the system itself writes, Python's compiled files.
PRUNED = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log"),
    *("/var/lib/systemd", "/var/lib/urandom", "/var/lib/logrotate", "*/__pycache__"),
)


class Counting(machine.Machine):
    """A machine with the program, which runs as *user*; *settings* is the path of its settings."""

    def __init__(self, kernel, flavour, *, changes=None, disk=None):
        super().__init__(kernel, machine.image_path(flavour), changes=changes, disk=disk)
        self.flavour = flavour
        self.user = "pi"
        self.settings = f"{PROJECT}/settings.py"

    def unpack(self):
        """Put the project there from the disk, with settings."""
        self.run(f"tar -C {PROJECT} -xf /dev/ubdb")
        self.set(SETTINGS)
        self.run(f"chmod 600 {self.settings} && chown -R pi: {PROJECT}")

    def install(self, *words, project=PROJECT):
        """Install it as its documentation says; return the output."""
        return self.run(f"cd {project} && python3 install_init_script.py {' '.join(words)}")

    def service(self, action):
        """``service power ACTION``, or systemctl's; its :class:`machine.Done`."""
        line = f"systemctl {action} power" if self.flavour == "systemd" else f"service power {action}"
        return self.try_run(line)

    def status(self):
        """The status of the running program."""
        who = f"--reuid={self.user} --regid={self.user} --init-groups"
        return json.loads(self.run(f"setpriv {who} {PROGRAM} --status --json"))

    def wait_counting(self):
        """Return its status once it counts."""
        self.wait_until("[ -S /run/power/power.pid.sock ]")
        return self.status()

    def wait_pulses(self, count):
        """Return its status once *count* pulses are on the disk."""
        self.wait_until(f"""/usr/bin/python3 -c '{JOURNAL}
found = db.execute("SELECT max(count) FROM pulses").fetchone()[0]
raise SystemExit(None if found == {count} else f"{{found}} pulses")'""")
        return self.status()

    def kept(self):
        """The times of the pulses in the journal, in ns, and the lines of the file."""
        counted = self.run(f"""/usr/bin/python3 -c '{JOURNAL}
print(db.execute("SELECT json_group_array(json_array(count, time_ns)) FROM pulses").fetchone()[0])'""")
        rows = sorted(json.loads(counted))
        assert [count for count, _ in rows] == list(range(1, len(rows) + 1))
        _, *lines = self.run("cat /var/lib/power/power.csv").splitlines()
        return [time_ns for _, time_ns in rows], lines

    def log(self):
        """What the program has logged since the boot."""
        return self.run("journalctl -b -u power -o cat || cat /var/lib/power/power.log 2> /dev/null")

    def set(self, text):
        """Rewrite the settings."""
        self.write(self.settings, text)

    def files(self):
        """Every file but :data:`PRUNED`; links to init scripts without their numbers, which insserv assigns again."""
        pruned = " -o ".join(f"-path '{path}'" for path in PRUNED)
        unnumbered = "sed 's,^/etc/rc\\(.\\)[.]d/[SK][0-9][0-9],/etc/rc\\1.d/,'"
        return set(self.run(f"find / -xdev \\( {pruned} \\) -prune -o -print | {unnumbered}").splitlines())

    def begin_again(self):
        """Undo what a test has counted and changed in the installation; the program then counts from nothing."""
        self.service("stop")
        self.run("rm -rf /var/lib/power/* /run/systemd/system/power.service.d")
        if self.flavour == "systemd":
            self.run("systemctl daemon-reload && systemctl reset-failed")
        self.set(SETTINGS)
        if self.service("start").status != 0:
            raise machine.MachineError("it does not start")
        self.wait_counting()

    def boot_flashing(self):
        """
        Switch it on; return the time from then to the first flash that is counted, in s.

        The input flashes every 50 ms, from early in the boot on.
        """
        self.boot(whole=False)
        while self.try_run("[ -S /run/power/power.pid.sock ]").status != 0:
            self.flash(10, apart_ms=50)
        self.flash(10, apart_ms=50)
        self.wait_booted()
        first = self.wait_until(f"""/usr/bin/python3 -c '{JOURNAL}
print(db.execute("SELECT time_ns FROM pulses WHERE count = 1").fetchone()[0])'""")
        return (int(first) - self.on_ns) / 1e9


def install(kernel, flavour, project, changes):
    """
    Make *changes*, those of a machine where the program of the tar *project* was installed, and that was shut down.

    Returns the machine's files before.
    """
    with Counting(kernel, flavour, disk=project) as on:
        on.boot()
        on.unpack()
        before = on.files()
        on.install("--link")
        on.off()
        on.changes(changes)
    return before


def time_to_first_flash(kernel, flavour, changes):
    """From power-on to the first counted flash, in s, of the machine with *changes*, as :func:`install` made them."""
    with Counting(kernel, flavour, changes=changes) as on:
        return on.boot_flashing()
