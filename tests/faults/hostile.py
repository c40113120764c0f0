"""
The program is given what nobody would give it on purpose.

- Settings files: the example with changed bytes or values, settings with any Python value at all, files that raise,
  exit, print, recurse or define their own classes. Each is accepted, or refused in short, plain lines.
- Answers of servers: endless bodies, headers, chunks and trailers, wrong lengths, a byte now and then, redirects,
  compression bombs, secrets echoed. Each keeps the batch with a plain line, within the writer's timeout and in bounded
  memory.
- Pidfiles, the sockets beside them, and journals, with any bytes and of any kind. Each is used, or refused in one line;
  what was there is neither overwritten nor waited for.
- In a directory that everyone may write: links, files and directories that another user has put in the way of what root
  writes. None is followed; root's own links are.
- The password and the token are in nothing that the program writes, logs or shows, and it leaves no core dump.
"""

import base64
import concurrent.futures
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import hostile_settings
from hostile_answers import ANSWERS, WRITTEN, Hostile, Unread, changed, said_back
from http_server import self_signed, tls_context
from program import PATIENCE_S, SOURCE, Program, wait_until
from rig import Row, times

from powermeter.errors import DeliveryError
from powermeter.meter import NS_PER_S, Pulse
from powermeter.process.control import ANSWER_S, MAX_ANSWER, stop
from powermeter.process.holder import holder
from powermeter.process.pidfile import PidFile
from powermeter.settings.schema import REQUIRED
from powermeter.settings.values import Secret, WriterSettings
from powermeter.writers import librato, open_writer, writer_type

TITLE = "Hostile input"
PROMISE = "No input makes it crash, hang or show a secret"
MEASURED = "password and token of services that echo them, in log (-v), journal, CSV, output and /proc/PID"

#: A view that has rows without an end, each longer than the one before.
ENDLESS = (
    "AS WITH RECURSIVE r(meter, name) AS (SELECT 1, 'x' UNION ALL SELECT meter + 1, name || 'x' FROM r) SELECT * FROM r"
)

SETTINGS_FILES, BY_COMMAND_LINE = 10_000, 300
CHANGED_ANSWERS = 2000
PIDFILES = 1000
JOURNALS = 100

#: The bounds. Of memory, in MiB: what the process has at its peak above what it had before.
MAX_GROWN_MIB = 32
#: The timeout of the writers here, and by how much a busy machine may be late, in s.
TIMEOUT_S = 1.0
LATE_S = 2.0

NOBODY = 65534
#: The load that is simulated: 5.6 pulses a second.
WATTS = "20000"
PASSWORD, TOKEN = "p4ss&w0rd/<hunter2>", "t0ken+'hunter3'"

#: So many session tickets of TLS, before an answer, are as good as no end of them.
TICKETS = 5000

#: How many may be tried at once; most of them wait.
AT_ONCE = 8


def run(part, rig):
    """Do it in *part*."""
    return [
        *settings_files(part, rig),
        *answers(part, rig),
        *pidfiles(part, rig),
        *sockets(rig),
        *laid_in_the_way(rig),
        *secrets(rig),
        *journals(part, rig),
    ]


def one_line(text):
    """Whether *text* is one plain line of the program's."""
    return re.fullmatch(r"power: [^\n]+\n", text) is not None and text[:-1].isprintable()


# --- Settings


def settings_files(part, rig):
    """The settings files."""
    count, seed = times(SETTINGS_FILES, part), rig.random.randrange(10**6)
    line = [sys.executable, hostile_settings.__file__, str(seed), str(count), str(rig.directory)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended by {done.returncode}, see {rig.directory}/settings.py: {done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    assert found["faults"] == {}, f"{found['faults']}: see {rig.directory}"
    assert found["grown_kib"] < MAX_GROWN_MIB * 1024, found
    tried = set(rig.random.sample(found["local"], min(times(BY_COMMAND_LINE, part), len(found["local"]))))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = (source for number, source in enumerate(hostile_settings.generated(seed, count)) if number in tried)
        directories = (rig.directory / "settings" / str(number) for number in itertools.count())
        slowest_s = max(pool.map(checked, directories, sources))
    return [
        Row(
            f"{count:,} settings files, read",
            f"{found['taken']:,} taken, {found['refused']:,} refused in plain lines, "
            f"the slowest in {found['slowest_s']:.1f} s, {found['grown_kib'] / 1024:.1f} MiB grown",
            f"no traceback, no secret, no line of more than {hostile_settings.LONGEST_LINE:,} characters, "
            f"none longer than {hostile_settings.PATIENCE_S} s, {MAX_GROWN_MIB} MiB",
        ),
        Row(
            f"{len(tried)} of these with --check",
            f"exit 0 or 1, the slowest in {slowest_s:.1f} s",
            f"no traceback, within {PATIENCE_S} s",
        ),
    ]


def checked(directory, source):
    """How long --check took of the settings file *source*, in s."""
    with Program(directory) as program:
        program.settings.write_bytes(source)
        begun_s = time.monotonic()
        done = program.run("--check")  # it has no traceback, and an end
        took_s = time.monotonic() - begun_s
    assert done.returncode in (0, 1), (done, source)
    assert done.stderr + done.stdout, (done, source)
    assert hostile_settings.SECRET not in done.stderr + done.stdout, (done, source)
    return took_s


# --- Answers


def pulses(count):
    """As the journal gives them."""
    return [Pulse("house", n, 1_795_418_000_123_456_789 + n * NS_PER_S, 1000.5, 1.0, n / 1000) for n in range(1, count)]


@contextlib.contextmanager
def writer_to(kind, port, **options):
    """A writer to *port* of loopback, with a secret."""
    account = {
        "influxdb": {
            "host": "127.0.0.1",
            "port": port,
            "timeout": TIMEOUT_S,
            "username": "me",
            "password": Secret(PASSWORD),
        },
        "librato": {"user": "me", "token": Secret(TOKEN), "hostname": f"127.0.0.1:{port}", "protocol": "http"},
    }[kind]
    defaults = {name: key.default for name, key in writer_type(kind).keys.items() if key.default is not REQUIRED}
    writer = open_writer(WriterSettings(kind, kind, {**defaults, **account, **options}))
    try:
        yield writer
    finally:
        writer.close()


def delivered(writer, batch, what):
    """How long a delivery of *batch* took, in s, and "taken" or "kept"; what may not be raises AssertionError."""
    begun_s = time.monotonic()
    try:
        receipt = writer.deliver(batch, "")
        assert 0 <= receipt.refused <= receipt.taken <= len(batch), (what, receipt)
        said, outcome = receipt.reason, "taken"
    except DeliveryError as error:
        said, outcome = str(error), "kept"
        assert said, what
    took_s = time.monotonic() - begun_s
    assert took_s < TIMEOUT_S + LATE_S, (what, took_s)
    assert not said or said.isprintable(), (what, said)
    assert len(said) < 400, (what, said)
    for secret in secret_forms():
        assert secret not in said, (what, said)
    return took_s, outcome


def secret_forms():
    """The secrets, as they are sent, and as they are echoed."""
    pairs = [base64.b64encode(f"me:{secret}".encode()).decode() for secret in (PASSWORD, TOKEN)]
    return [write(secret) for secret in (PASSWORD, TOKEN, *pairs) for write in (str, *WRITTEN.values())]


def peak_mib():
    """The most memory of this process since :func:`forget_peak`, in MiB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def forget_peak():
    """Let the peak be what is used now; it is returned, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


@contextlib.contextmanager
def timeouts_of_librato():
    """Librato's timeout, which no setting changes, is that of the writers here."""
    before, librato.TIMEOUT_S = librato.TIMEOUT_S, TIMEOUT_S
    try:
        yield
    finally:
        librato.TIMEOUT_S = before


def answers(part, rig):
    """The answers of servers."""
    cert = self_signed(rig.directory)

    def named(kind, name):
        with Hostile(ANSWERS[name]) as server, writer_to(kind, server.port) as writer:
            took_s, outcome = delivered(writer, pulses(20), (kind, name))
            return took_s, outcome, server.sent

    def over_tls(name, tickets=2):
        options = {"ssl": True, "verify_ssl": cert[0]}
        context = tls_context(*cert)
        context.num_tickets = tickets
        with (
            Hostile(ANSWERS[name], context) as server,
            writer_to("influxdb", server.port, **options) as writer,
        ):
            return *delivered(writer, pulses(20), ("TLS", name)), server.sent

    def no_tls(kind, **options):
        with Unread() as server, writer_to(kind, server.port, **options) as writer:
            return *delivered(writer, pulses(20), (kind, "no TLS")), 0

    with timeouts_of_librato(), concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        # More than the kernel takes for a server that does not read; not measured, as it is what we send.
        with Unread() as server, writer_to("influxdb", server.port, measurement="m" * 400) as writer:
            unread = *delivered(writer, pulses(50_000), "unread"), 0
        over_tls("nothing")  # what is loaded once
        before_mib = forget_peak()
        jobs = [
            *(pool.submit(named, kind, name) for kind in ("influxdb", "librato") for name in ANSWERS),
            *(pool.submit(over_tls, name) for name in ANSWERS),
            pool.submit(over_tls, "nothing", TICKETS),
            pool.submit(no_tls, "influxdb", ssl=True),
            pool.submit(no_tls, "librato", protocol="https"),
        ]
        found = [unread, *(job.result() for job in jobs)]
    grown_mib = peak_mib() - before_mib
    slowest_s = max(took_s for took_s, _, _ in found)
    assert grown_mib < MAX_GROWN_MIB, f"{grown_mib} MiB"
    outcomes = [outcome for _, outcome, _ in found]
    count = times(CHANGED_ANSWERS, part)
    changed_outcomes = [changed_answers(rig, kind, count // 2) for kind in ("influxdb", "librato")]
    return [
        Row(
            f"{len(found)} hostile answers, to InfluxDB's and Librato's writers, with TLS too",
            f"{outcomes.count('kept')} batches kept, {outcomes.count('taken')} taken; the slowest in {slowest_s:.1f} s "
            f"of a timeout of {TIMEOUT_S:g}; {AT_ONCE} at once took {grown_mib:.0f} MiB",
            f"one plain line without a secret, within the timeout (late: {LATE_S:g} s), {MAX_GROWN_MIB} MiB",
        ),
        Row(
            f"{count:,} right answers with bytes changed",
            f"{sum(changed_outcomes)} batches kept, the others taken",
            "the same; and a right answer after each hundredth is understood",
        ),
    ]


def changed_answers(rig, kind, count):
    """Answers with bytes changed, to one writer; how many batches were kept."""
    right = b"HTTP/1.1 20%d X\r\nContent-Length: 0\r\n\r\n" % (4 if kind == "influxdb" else 0)
    kept = 0
    with timeouts_of_librato(), Hostile(None) as server, writer_to(kind, server.port) as writer:
        for number in range(count):
            answer = changed(rig.random)
            server.script = lambda _request, answer=answer: iter([answer])
            _, outcome = delivered(writer, pulses(3), (kind, answer))
            kept += outcome == "kept"
            if number % 100 == 0:
                server.script = lambda _request: iter([right])
                # The server closes the connection and does not say so: the first may meet that.
                after = [delivered(writer, pulses(3), (kind, "a right one after", answer))[1] for _ in range(2)]
                assert "taken" in after, (kind, answer, after)
    return kept


# --- Pidfiles, and what answers beside them


def assert_refused(done, *, name="", statuses=(1, 4)):
    """A command that refused in one line, which has *name*."""
    assert done.returncode in statuses, done
    assert one_line(done.stderr or done.stdout), done
    assert name in done.stderr + done.stdout, done


def _make_socket(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def pidfiles(part, rig):
    """Pidfiles of any bytes, and what is no pidfile."""
    path = rig.directory / "power.pid"
    count = times(PIDFILES, part)
    for _ in range(count):
        content = rig.random.randbytes(rig.random.choice([0, 1, 10, 4096, 10**6]))
        path.write_bytes(rig.random.choice([content, b"-1\n", b"1\n", b"%d\n" % os.getpid(), b"9" * 5000]))
        assert holder(str(path)) is None
        assert stop(str(path)) is None
        with PidFile(str(path)):
            assert path.read_bytes() == b"%d\n" % os.getpid()
        assert not path.exists()
    kinds = {
        "a FIFO": os.mkfifo,
        "a directory": os.mkdir,
        "a socket": _make_socket,
        "a link to itself": lambda path: path.symlink_to(path),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a link to a pidfile": lambda path: path.symlink_to("/run/other.pid"),
        "below a file": lambda path: path.parent.write_text(""),
    }
    if os.geteuid() == 0:
        kinds["a device"] = lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    for kind, make in kinds.items():
        with Program(rig.directory / "kinds") as program:
            program.pidfile = program.directory / "p" / "power.pid"
            if kind != "below a file":
                program.pidfile.parent.mkdir()
            make(program.pidfile)
            assert_refused(program.run("--simulate", "3000"), name=str(program.pidfile))
            for command in ("--status", "--kill"):
                done = program.run(command)
                assert done.returncode in (0, 1, 4), (kind, done)
                assert one_line(done.stdout + done.stderr), (kind, done)
        shutil.rmtree(rig.directory / "kinds")
    return [
        Row(f"{count:,} pidfiles of any bytes", "none counts as held, each is taken over and removed", "the same"),
        Row(
            f"in its place {', '.join(kinds)}",
            "each refused in one line, by a start, --status and --kill",
            f"no traceback, nothing waited for, within {PATIENCE_S} s",
        ),
    ]


#: Holds the pidfile of its first argument and answers at the socket beside it: ends with what its second says.
HOLDER = f"""
import itertools, socket, sys, time; sys.path.insert(0, {str(SOURCE)!r})
from powermeter.process.pidfile import PidFile
pieces = {{
    "silence": lambda: iter(lambda: time.sleep(60), 1),
    "an end": lambda: [],
    "a byte now and then": lambda: (time.sleep(0.2) or b"x" for _ in itertools.count()),
    "bytes without an end": lambda: itertools.repeat(b"x" * 65536),
    "random bytes": lambda: [bytes(range(256)) * 10],
    "control characters": lambda: [b"\\x1b[2J\\x1b]0;x\\x07\\xc2\\x9b2J"],
    "no JSON": lambda: [b"{{"],
    "a list": lambda: [b"[]"],
    "nothing known": lambda: [b"{{}}"],
    "deep JSON": lambda: [b"[" * 100_000],
    "long JSON": lambda: [b"9" * 900_000],
}}[sys.argv[2]]
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".sock")
listener.listen(8)
with PidFile(sys.argv[1]):
    print("held", flush=True)
    while True:
        asked, _ = listener.accept()
        asked.recv(64)
        try:
            for piece in pieces():
                asked.sendall(piece)
        except OSError:
            pass
        asked.close()
"""
SAID = re.findall(r'^    "([\w ]+)": lambda', HOLDER, re.MULTILINE)


def sockets(rig):
    """What answers --status and --restart in place of the program."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        slowest_s = max(pool.map(lambda said: answered_at_the_socket(rig, said), [*SAID, "another process"]))
    bound_s = ANSWER_S + 4 * LATE_S
    assert slowest_s < bound_s, slowest_s
    return [
        Row(
            f"at the socket beside it {', '.join(SAID)}, another process",
            f"--status, --status --json and --restart report it or show it plainly, the slowest in {slowest_s:.1f} s",
            f"no traceback, no control character, nothing stopped, within {bound_s:g} s",
        )
    ]


def answered_at_the_socket(rig, said):
    """The answer *said* to each command; how long the slowest took, in s."""
    directory = rig.directory / "sockets" / said
    directory.mkdir(parents=True)
    slowest_s = 0.0
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(Program(directory))
        answer = "a list" if said == "another process" else said
        line = [sys.executable, "-c", HOLDER, str(program.pidfile), answer]
        holder = stack.enter_context(subprocess.Popen(line, stdout=subprocess.PIPE, text=True))
        stack.callback(holder.kill)
        assert holder.stdout.readline() == "held\n"
        if said == "another process":
            address = Path(f"{program.pidfile}.sock")
            address.unlink()
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(address))
            listener.listen(8)
        for args in (["--status"], ["--status", "--json"], ["--restart"]):
            begun_s = time.monotonic()
            done = program.run(*args)
            slowest_s = max(slowest_s, time.monotonic() - begun_s)
            assert done.returncode in (0, 1, 4), (said, args, done)
            shown = (done.stdout + done.stderr).replace("\n", "")
            assert shown.isprintable(), (said, args, done)
            assert len(shown) <= MAX_ANSWER, (said, args)
        assert_refused(done, name="nothing was stopped")
        assert holder.poll() is None
    return slowest_s


# --- What another user has laid in the way


class Public:
    """A directory that all may write, as /tmp, and a victim's file and directory that must stay as they are."""

    def __init__(self, directory):
        self.path = directory / "public"
        self.path.mkdir()
        self.path.chmod(0o1777)
        self.victims = directory / "victims"
        self.victims.mkdir()
        self.file = self.victims / "shadow"
        self.file.write_text("root:x\n")
        directory.chmod(0o755)

    def lay(self, name, kind):
        """Lay a *kind* of another user's at *name*; return its path."""
        path = self.path / name
        # What stands above it is root's, and open to all too.
        for above in [above for above in reversed(path.parents) if not above.exists()]:
            above.mkdir()
            above.chmod(0o1777)
        if kind == "file":
            path.write_text("")
            path.chmod(0o666)
        elif kind == "directory":
            path.mkdir(0o777)
        else:
            path.symlink_to(self.file if kind == "link" else self.victims)
        os.lchown(path, NOBODY, NOBODY)
        return path

    def assert_untouched(self):
        """The victims are as they were."""
        assert [path.name for path in self.victims.iterdir()] == ["shadow"]
        assert self.file.read_text() == "root:x\n"


REFUSED = "and is not followed"
NOT_PRIVATE = "choose a directory of your own"


class Attack(NamedTuple):
    """A *kind* of thing laid at *name* in a :class:`Public`, in the way of what *settings* or the others name."""

    kind: str
    name: str
    settings: str = ""
    pidfile: str = ""
    data_dir: str = ""
    refused: str = REFUSED
    #: Whether root itself has laid it: then it is followed.
    honest: bool = False


CSV = """COMMIT_INTERVAL = 0.1
WRITERS = {"csv": {"type": "file", "path": "PUBLIC/NAME"}}"""
LOG = 'LOG_FILE = "PUBLIC/NAME"'


def attacks():
    """All of them."""
    for kind in ("link", "file", "link to a directory", "directory"):
        below = "directory" in kind
        for settings, name in ((LOG, "my.log"), (CSV, "power.csv")):
            path = f"d/{name}" if below else name
            yield Attack(kind, "d" if below else name, settings.replace("NAME", path))
        if kind != "link":  # refused whosesoever it is
            yield Attack(kind, "d" if below else "power.pid", pidfile="d/power.pid" if below else "power.pid")
        for data_dir in ("d", "d/data") if below else ():
            yield Attack(kind, "d", data_dir=data_dir)
        for name in () if below else ("journal.db", "journal.db-wal", "power.log", "lock"):
            yield Attack(kind, f"d/simulated/{name}", data_dir="d", refused=NOT_PRIVATE)


def attacked(directory, attack):
    """The program, started by root."""
    directory.mkdir(parents=True)
    public = Public(directory)
    laid = public.lay(attack.name, attack.kind)
    if attack.honest:
        os.lchown(laid, 0, 0)
    with Program(directory, attack.settings.replace("PUBLIC", str(public.path))) as program:
        if attack.pidfile:
            program.pidfile = public.path / attack.pidfile
        if attack.data_dir:
            program.data_dir = public.path / attack.data_dir
            program.set("")
        done = program.run("--simulate", WATTS)
        if not attack.honest and not attack.settings:
            assert_refused(done, name=str(laid if attack.refused == REFUSED else laid.parent), statuses=(1,))
            assert attack.refused in done.stderr, (attack, done)
        else:
            assert done.returncode == 0, (attack, done)
            if attack.honest:
                wait_until(lambda: public.file.read_text().count("\n") > 1)
            elif attack.settings.startswith("LOG_FILE"):  # it is reported, and counting goes on
                assert one_line(done.stderr), (attack, done)
                assert str(laid) in done.stderr, (attack, done)
                assert REFUSED in done.stderr, (attack, done)
                wait_until(lambda: program.status()["meters"]["house"]["pulses"])
            else:  # only the writer is held up
                log = program.data_dir / "simulated" / "power.log"
                wait_until(lambda: REFUSED in log.read_text())
                status = program.status()
                assert status["writers"]["csv"]["state"] == "failing", (attack, status)
                wait_until(lambda: program.status()["meters"]["house"]["pulses"])
            assert program.run("--kill").returncode == 0
        if not attack.honest:
            public.assert_untouched()


def laid_in_the_way(rig):
    """Links, files and directories of another user's."""
    if os.geteuid() != 0:
        return [Row("files and links of another user's", "not tried: only root can create them", "")]
    found = list(attacks())
    honest = [
        Attack("link", "my.log", LOG.replace("NAME", "my.log"), honest=True),
        Attack("link", "power.csv", CSV.replace("NAME", "power.csv"), honest=True),
    ]
    rig.directory.chmod(0o755)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        directories = (rig.directory / "laid" / str(number) for number in itertools.count())
        jobs = [pool.submit(attacked, next(directories), attack) for attack in [*found, *honest]]
        jobs.append(pool.submit(swapped, next(directories)))
        for job in jobs:
            job.result()
    return [
        Row(
            f"{len(found)} links, files and directories of another user, in a directory like /tmp, in the way of "
            "root's log, pidfile, CSV file, DATA_DIR and the files in it",
            "none followed, each named in one line",
            "what they point at is untouched",
        ),
        Row("root's own links there, for the log and the CSV file", "followed", "the same"),
        Row(
            "the log and the CSV file of a running one replaced by such links",
            "not followed; the writer is shown as failing, counting goes on",
            "the same",
        ),
    ]


def swapped(directory):
    """The log and the CSV file replaced while it runs."""
    directory.mkdir(parents=True)
    public = Public(directory)
    text = f"""COMMIT_INTERVAL = 0.1
LOG_FILE = "{public.path}/power.log"
WRITERS = {{"csv": {{"type": "file", "path": "{public.path}/power.csv"}}}}
"""
    with Program(directory, text) as program:
        program.start("--simulate", WATTS)
        for name in ("power.log", "power.csv"):
            wait_until((public.path / name).exists)
            (public.path / name).unlink()
            public.lay(name, "link")
        os.kill(program.pid, signal.SIGHUP)  # it has something to say, and delivers at once
        wait_until(lambda: program.status()["writers"]["csv"]["state"] == "failing")
        before = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] > before)
        assert program.run("--kill").returncode == 0
    public.assert_untouched()


# --- Secrets


def secrets(rig):
    """The password and the token, searched for in all that a run leaves and shows."""
    shown = []
    with (
        Hostile(said_back(400)) as influxdb,
        Hostile(said_back(401)) as other,
        Program(rig.directory / "secrets") as program,
    ):
        program.set(f"""COMMIT_INTERVAL = 0.1
WRITERS = {{
    "file": {{"type": "file"}},
    "influxdb": {{"type": "influxdb", "host": "127.0.0.1", "port": {influxdb.port}, "username": "me",
                  "password": {PASSWORD!r}, "update_period": 0.1}},
    "librato": {{"type": "librato", "user": "me", "token": {TOKEN!r}, "hostname": "127.0.0.1:{other.port}",
                 "protocol": "http", "period": 1}},
}}""")

        def look(pid):
            writers = program.status()["writers"]
            for command in (["--status"], ["--status", "--json"], ["--check"], ["-v", "--simulate", WATTS]):
                done = program.run(*command)
                shown.extend([done.stdout.encode(), done.stderr.encode()])
            for name in ("cmdline", "environ", "comm", "status", "limits"):
                shown.append(Path(f"/proc/{pid}/{name}").read_bytes())
            core = re.search(r"Max core file size\s+(\S+)\s+(\S+)", shown[-1].decode())
            assert core.groups() == ("0", "0"), core[0]
            return writers

        def both_failed():
            return all(program.status()["writers"][name]["state"] == "failing" for name in ("influxdb", "librato"))

        program.start("-v", "--simulate", WATTS)
        wait_until(both_failed)
        look(program.pid)
        assert program.run("--kill").returncode == 0
        popen = program.foreground("-v", "--simulate", WATTS)
        wait_until(both_failed)
        look(popen.pid)
        popen.send_signal(signal.SIGTERM)
        popen.wait(PATIENCE_S)
        assert influxdb.requests
        assert other.requests
        assert any(PASSWORD in base64.b64decode(r.headers["authorization"][6:]).decode() for r in influxdb.requests)
        files = [path for path in program.directory.rglob("*") if path.is_file() and path != program.settings]
        assert {path.name for path in files} >= {"journal.db", "power.log", "power.csv", "foreground.err"}
        shown += [path.read_bytes() for path in files]
    for secret in secret_forms():
        for content in shown:
            assert secret.encode() not in content, content[:2000]
    return [
        Row(
            "password and token of services that echo them, in log (-v), journal, CSV, output and /proc/PID",
            f"nowhere in {len(shown)} files and outputs",
            "nowhere",
        ),
        Row("size of a core dump, of a daemon and in the foreground", "0", "0"),
    ]


# --- Journals


def journals(part, rig):
    """Files of any bytes in place of a journal."""
    good = rig.directory / "good"
    with Program(good, "COMMIT_INTERVAL = 0.1") as program:
        program.start("--simulate", WATTS)
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= 40)
        assert program.run("--kill").returncode == 0
        ours = (program.data_dir / "simulated" / "journal.db").read_bytes()
    other = rig.directory / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE pulses (house TEXT)")
        connection.execute("INSERT INTO pulses VALUES ('mine')")

    def ours_and(*statements):
        """A journal, changed by *statements*."""
        crafted = rig.directory / "crafted.db"
        crafted.write_bytes(ours)
        with contextlib.closing(sqlite3.connect(crafted, isolation_level=None)) as connection:
            for statement in (*statements, "PRAGMA journal_mode = DELETE"):
                connection.execute(statement)
        return crafted.read_bytes()

    choose = rig.random
    kinds = {
        "random bytes": lambda: choose.randbytes(
            choose.choice([2, 100, 4096, 50_000])
        ),  # one byte is an empty file to SQLite
        "text": lambda: b"no journal\n" * 1000,
        "another SQLite file": other.read_bytes,
        "a view without an end": lambda: ours_and("DROP TABLE meters", f"CREATE VIEW meters {ENDLESS}"),
        "a trigger": lambda: ours_and("CREATE TRIGGER t AFTER INSERT ON pulses BEGIN DELETE FROM pulses; END"),
        "a text of 100 MB": lambda: ours_and("UPDATE writers SET place = CAST(zeroblob(100000000) AS TEXT)"),
        "a journal of a later version": lambda: ours[:60] + (10**6).to_bytes(4, "big") + ours[64:],
        "only a header": lambda: ours[:100],
        # Of which Python's sqlite3 can't even make its error: a UnicodeDecodeError.
        "a schema that is no text": lambda: ours.replace(b"CREATE TABLE", b"CREATE T\xd9BLE"),
        "cut off": lambda: ours[: choose.randrange(1, len(ours))],
        "with random bytes in it": lambda: _scribbled(choose, ours),
    }
    chosen = [list(kinds)[number % len(kinds)] for number in range(times(JOURNALS, part, least=len(kinds)))]
    contents = [kinds[kind]() for kind in chosen]
    directories = [rig.directory / "journals" / str(number) for number in range(len(chosen))]
    with concurrent.futures.ThreadPoolExecutor(2 * os.cpu_count()) as pool:
        started = list(pool.map(started_with, directories, chosen, contents))
    return [
        Row(
            f"{len(started)} files in the journal's place: {', '.join(kinds)}",
            f"{started.count(True)} started, {started.count(False)} refused in one line",
            f"what was there still exists, under its name or another; no traceback, within {PATIENCE_S} s",
        )
    ]


def started_with(directory, kind, content):
    """Whether the program started with a journal of *content*; where not, it said so in one line."""
    with Program(directory) as program:
        journal = program.data_dir / "simulated" / "journal.db"
        journal.parent.mkdir(parents=True)
        journal.write_bytes(content)
        done = program.run("--simulate", WATTS)
        if done.returncode == 0:
            assert program.status()["running"]
            assert program.run("--kill").returncode == 0
        else:
            assert_refused(done, name=str(journal), statuses=(1,))
        kept = [path for path in journal.parent.iterdir() if path.read_bytes() == content]
        # What is whole is gone on with: what a change has not hurt too.
        assert kept or (kind in ("cut off", "with random bytes in it") and _is_whole(journal)), (kind, done)
    return done.returncode == 0


def _scribbled(choose, content):
    at = choose.randrange(len(content))
    return content[:at] + choose.randbytes(choose.choice([1, 100, 4096])) + content[at:][100:]


def _is_whole(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
