"""The page's process: when it runs, what it may do, and that nothing it does affects the counting."""

import contextlib
import ctypes
import dataclasses
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from counting import Running
from page_client import children_of, ended, field, get, open_files, page_of, page_settings
from program import (
    AS_ROOT,
    NOBODY,
    SOURCE,
    Program,
    first_page,
    kill,
    readable_to_all,
    root_alone,
    wait_until,
)
from server import free_port

from powermeter.lamps import Condition
from powermeter.process import confined
from powermeter.settings.values import PageSettings, Secret
from powermeter.views.page import server as page_server
from powermeter.views.page.server import PageServer

#: Gives an interface an address, turns it on (netdevice(7): SIOCSIFADDR, SIOCSIFFLAGS) and then runs a command, if any.
ADDRESS = """
import fcntl, os, socket, struct, sys
name = sys.argv[1].encode()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
    address = struct.pack("16sHH4s16x", name, socket.AF_INET, 0, socket.inet_aton(sys.argv[2]))
    fcntl.ioctl(asked, 0x8916, address)
    fcntl.ioctl(asked, 0x8914, struct.pack("16sH22x", name, 1))
if sys.argv[3:]:
    os.execv(sys.argv[3], sys.argv[3:])
"""

#: A page that has been taken over: it answers what it can still do, beside a *file*, *elsewhere*, to a listening *port*
#: and to the process *pid*, all of which are its own user's.
TAKEN_OVER = """
import pathlib
sys.path.insert(0, sys.argv[1])
import powermeter.views.page.app as app
from powermeter.views.page.child import main
path = pathlib.Path({file!r})
attempts = {{
    "read": path.read_bytes,
    "write": lambda: path.open("r+b"),
    "truncate": lambda: os.truncate(path, 0),
    "remove": path.unlink,
    "rename": lambda: path.rename(f"{{path}}.2"),
    "link": lambda: os.link(path, f"{{path}}.3"),
    "make": lambda: path.with_suffix(".new").touch(),
    "make a directory": lambda: path.with_suffix(".dir").mkdir(),
    "make elsewhere": lambda: pathlib.Path({elsewhere!r}, "new").touch(),
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "connect": lambda: socket.create_connection(("127.0.0.1", {port})),
    "signal": lambda: os.kill({pid}, 0),
}}
def answer(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    for name, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            pass
        else:
            yield name.encode() + b"; "
app.make_app = lambda *_: answer
main(*map(int, sys.argv[2:]))
"""

#: What a process runs in place of the page: a test adds what it does.
CODE = "import os, socket, sys, time; pair = socket.socket(fileno=int(sys.argv[3])); "


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def program(tmp_path, port):
    """A program with a page, which counts simulated watts."""
    with Program(tmp_path, page_settings(port)) as program:
        program.start("--simulate", "2000")
        yield program


def asked_again(port, path="/healthz"):
    """The answer to *path* as soon as somebody listens at *port*."""

    def ask():
        with contextlib.suppress(OSError):
            return get(port, path)

    return wait_until(ask)


# --- When it runs


def test_it_runs_once_somebody_looks(program, port):
    """Until somebody connects there is no process; then there is one for all visitors, and it shows the status."""
    pid = program.pid
    assert children_of(pid) == []
    assert program.status()["views"] == {"page": {"state": "ok", "reason": ""}}
    assert get(port).text == "ok\n"
    child = page_of(pid)
    for thread in (threads := [threading.Thread(target=get, args=[port]) for _ in range(20)]):
        thread.start()
    for thread in threads:
        thread.join()
    assert page_of(pid) == child
    assert get(port, "/api/now").text.startswith('{"version": ')
    assert program.run("--status").stdout.splitlines()[-1] == "view page: ok"


def test_it_ends_when_nobody_is_looking(tmp_path, port):
    """It ends after a while without requests, which is not a failure; the next visitor gets an answer again."""
    soon = """
import powermeter.views.page.server as server
server.CODE = server.CODE.replace("from", "import powermeter.views.page.child as child; child.IDLE_S = 0.1; from", 1)
server.SOON_S = 0.05
"""
    with Program(tmp_path, page_settings(port)) as program:
        done = program.run_after(soon, "--simulate", "2000")
        assert done.returncode == 0, done.stderr
        pid = program.pid
        first = page_of(pid) if get(port).status == 200 else None
        wait_until(lambda: children_of(pid) == [])
        assert program.status()["views"]["page"]["state"] == "ok"
        assert get(port).status == 200
        assert page_of(pid) not in (first, None)
    assert "view page: ended" not in (program.data_dir / "simulated" / "power.log").read_text()


def test_without_a_visitor_its_thread_sleeps(tmp_path, port):
    """While nobody looks, the thread that waits for visitors is never woken."""
    with Running(tmp_path) as running:
        running.monitor.change(_with_page(running.settings, port))
        server, thread = running.monitor._page
        # A connection would be a visitor.
        wait_until(lambda: server._listener is not None)
        task = Path(f"/proc/self/task/{thread.native_id}/status")

        def switches():
            return [line for line in task.read_text().splitlines() if "ctxt_switches" in line]

        # It may not be asleep yet.
        wait_until(lambda: task.read_text().split("State:\t")[1][0] == "S")
        before = switches()
        time.sleep(1.5)
        assert switches() == before


def test_one_that_was_killed_comes_back(program, port):
    """A visitor who comes after the page was killed is answered by a new process."""
    pid = program.pid
    get(port)
    killed = page_of(pid)
    kill(killed)
    assert get(port).status in (200, 503)
    assert page_of(pid) not in (killed, None)
    assert program.pid == pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_never_outlives_the_program(program, port, number):
    """The page ends with the program, even if that is killed; the port is free for the next start."""
    get(port)
    pid, child = program.pid, page_of(program.pid)
    os.kill(pid, number)
    wait_until(lambda: ended(child))
    wait_until(lambda: ended(pid))
    program.start("--simulate", "2000")
    assert asked_again(port).status == 200


def test_a_restart_brings_the_page_back(program, port):
    """After --restart, as for an upgrade, another process answers at the same port."""
    get(port)
    before = page_of(program.pid)
    assert program.run("--restart").returncode == 0
    assert asked_again(port).status == 200
    assert page_of(program.pid) != before
    assert program.status()["views"]["page"]["state"] == "ok"


def test_signals_of_a_terminal_do_not_reach_it(program, port):
    """A signal to the program's process group does not reach the page."""
    get(port)
    child = page_of(program.pid)
    assert os.getsid(child) == child


# --- What it may do


def test_it_has_no_rights(program, port):
    """It can't become another user, is nobody if the program is root, and is killed first if memory is short."""
    get(port)
    child = page_of(program.pid)
    assert field(child, "NoNewPrivs") == "1"
    # Of root's rights, it keeps only that to read the journal.
    assert field(child, "CapEff") == f"{4 if AS_ROOT else 0:016x}"
    assert field(child, "CapPrm") == f"{4 if AS_ROOT else 0:016x}"
    assert field(child, "Uid").split() == [str(NOBODY if AS_ROOT else os.geteuid())] * 4
    assert Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n"
    limits = Path(f"/proc/{child}/limits").read_text().splitlines()
    found = {line[:25].strip(): line[25:].split()[:2] for line in limits}
    assert found["Max core file size"] == found["Max processes"] == found["Max file size"] == ["0", "0"]
    assert found["Max data size"] == [str(48 << 20)] * 2
    assert found["Max open files"] == ["128", "128"]


def landlock():
    """The version of Landlock that the kernel here has; 0 without it."""
    return max(0, ctypes.CDLL(None).syscall(confined.LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1))


#: Version 6 is the first that can forbid all of this. In CI the test is not skipped, but fails without it.
needs_landlock = pytest.mark.skipif(
    landlock() < 6 and "CI" not in os.environ, reason="the kernel has no Landlock, or an old one"
)


@needs_landlock
def test_a_page_can_change_nothing_that_is_its_user_s(port, monkeypatch):
    """A page that has been taken over may read what its own user owns; it can't change it, and reaches nothing else."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(readable_to_all())
        data, elsewhere = place / "journal.db", place / "elsewhere"
        data.write_bytes(b"journal")
        elsewhere.mkdir()
        user = NOBODY if AS_ROOT else os.geteuid()  # root's page becomes nobody
        for path in (place, data, elsewhere):
            os.chown(path, user, -1)
        other = stack.enter_context(subprocess.Popen(["sleep", "600"], user=user))
        stack.callback(other.kill)
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        code = TAKEN_OVER.format(file=str(data), elsewhere=str(elsewhere), port=listening, pid=other.pid)
        stack.enter_context(served(port, f"\n{code}", monkeypatch))
        assert get(port, "/").text == "read; "
        assert sorted(path.name for path in place.iterdir()) == ["elsewhere", "journal.db"]
        assert data.read_bytes() == b"journal"


def test_a_user_s_page_reads_the_journal_that_it_can_t_change(port):
    """If the program is not root's, the page is its user's, under the same restrictions, and shows the history."""
    with readable_to_all() as place, Program(place / "power", page_settings(port)) as program:
        if AS_ROOT:
            # That user has to be able to read Python and all of the program.
            shutil.copytree(SOURCE, place / "src")
            for name in ("daemon", "lockfile", "waitress"):
                shutil.copytree(Path(find_spec(name).origin).parent, place / "src" / name)
            shutil.copy(find_spec("bottle").origin, place / "src")
            for path in (program.directory, program.settings):
                os.chown(path, NOBODY, NOBODY)
            user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            program.start_of_line = [*user, "/usr/bin/python3", str(place / "src" / "power.py")]
        program.start("--simulate", "2000")
        assert asked_again(port, "/bars?span=today").status == 200
        child = page_of(program.pid)
        assert field(child, "Uid").split() == [str(NOBODY if AS_ROOT else os.geteuid())] * 4
        assert field(child, "CapEff") == f"{0:016x}"
        assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[16] == "10"
        assert (get(port, "/healthz").text, program.status()["views"]["page"]["state"]) == ("ok\n", "ok")


@root_alone  # only root can see the open files of such a process
def test_it_has_what_it_needs_and_nothing_else(tmp_path, port):
    """From the program it gets the listening socket and one socket pair: no file, no pin, and no environment."""
    with Program(
        tmp_path, page_settings(port), env={"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "TZ": "UTC"}
    ) as program:
        program.start("--simulate", "2000")
        get(port)
        child = page_of(program.pid)
        opened = [path for path in open_files(child) if not path.startswith("pipe:")]
        assert [path for path in opened if not path.startswith("socket:")] == ["/dev/null"] * 3
        assert len(opened) <= 3 + 3  # and perhaps a connection that is ending
        environment = Path(f"/proc/{child}/environ").read_bytes().rstrip(b"\0").split(b"\0")
        assert sorted(environment) == [b"LANG=C.UTF-8", b"TZ=UTC"]


@root_alone
def test_another_process_of_its_user_can_t_look_into_it(program, port):
    """Not even its own user may read its memory, which holds a password."""
    get(port)
    child = page_of(program.pid)
    assert Path(f"/proc/{child}/mem").stat().st_uid == 0
    assert field(child, "Uid").split()[0] == str(NOBODY)


def test_the_password_is_nowhere_to_be_seen(tmp_path, port):
    """It is in no process title, no status and no log; it opens the page."""
    with Program(tmp_path, page_settings(port, password="hunter2secret")) as program:
        program.start("--simulate", "2000")
        assert get(port, "/").status == 401
        assert get(port, "/", Authorization="Basic bWU6aHVudGVyMnNlY3JldA==").status == 200
        assert get(port, "/healthz").text == "ok\n"
        for pid in (program.pid, page_of(program.pid)):
            assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert "hunter2" not in program.run("--status", "--json").stdout
        assert "hunter2" not in (program.data_dir / "simulated" / "power.log").read_text()


def test_another_site_s_name_is_refused(program, port):
    """A request by another name is refused: a foreign page may have pointed its own name here (DNS rebinding)."""
    assert get(port, "/", Host=f"evil.example:{port}").status == 421
    assert get(port, "/", Host=f"localhost:{port}").status == 200


def test_ipv6_and_ipv4_at_once(tmp_path, port):
    """At "::" it answers IPv6 and IPv4."""
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("the kernel has no IPv6: there is no /proc/net/if_inet6")
    with Program(tmp_path, page_settings(port, address="::")) as program:
        done = program.run("--simulate", "2000")
        assert "lets everyone on the network open the page" in done.stderr
        assert asked_again(port).status == 200
        assert get(port, address="::1").status == 200


# --- Ports


def _with_page(settings, port, password=None, **more):
    return dataclasses.replace(settings, page=PageSettings("127.0.0.1", port, password), **more)


def _listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture
def impatient(monkeypatch):
    """Shortens the pauses between attempts."""
    monkeypatch.setattr(page_server, "LISTEN_S", (0.05, 0.05))
    monkeypatch.setattr(page_server, "START_S", (0.05, 0.4))
    monkeypatch.setattr(page_server, "SOON_S", 0.5)


def test_a_port_that_is_taken(tmp_path, port, impatient):
    """A port that is taken is a failing view, which L2 shows, but no failed start; once it is free, it listens."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with Running(tmp_path, page=PageSettings("127.0.0.1", port, None)) as running:
            running.wait_for_condition(Condition.FAILING)
            view = running.monitor.status().views["page"]
            assert (view.state, view.reason) == ("failing", f"127.0.0.1 port {port}: Address already in use")
            other.close()
            running.wait_for_condition(Condition.WELL)
            assert running.monitor.status().views["page"].state == "ok"
            assert get(port).status == 200


def test_an_address_that_is_not_there(tmp_path, port):
    """An address that this machine does not have is a failing view; the status names it."""
    with Program(tmp_path, page_settings(port, address="192.0.2.1", password="x")) as program:
        program.start("--simulate", "2000")
        wait_until(lambda: program.status()["views"]["page"]["state"] == "failing")
        reason = f"192.0.2.1 port {port}: Cannot assign requested address"
        assert program.run("--status").stdout.splitlines()[-1] == f"view page: failing: {reason}"
        done = program.run("--check")
        assert done.returncode == 1
        assert f"view page: {reason}" in done.stdout


@root_alone  # only root can make a network namespace
def test_an_address_that_comes_later(tmp_path, port):
    """If the address does not exist yet, as early in a boot, the page is there once it does, without a restart."""
    with Program(tmp_path, page_settings(port, address="192.0.2.1", password="x")) as program:
        directly = program.start_of_line
        # While the namespace has no address at all, the kernel allows listening at any.
        program.start_of_line = ["unshare", "--net", sys.executable, "-c", ADDRESS, "lo", "127.0.0.1", *directly]
        pid = program.start("--simulate", "2000")
        program.start_of_line = directly
        wait_until(lambda: program.status()["views"]["page"]["state"] == "failing")

        def there(code, *args):
            line = ["nsenter", f"--target={pid}", "--net", sys.executable, "-c", code, *args]
            return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout

        there(ADDRESS, "lo:1", "192.0.2.1")
        wait_until(lambda: program.status()["views"]["page"]["state"] == "ok")
        ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')"
        assert there(ask, f"http://192.0.2.1:{port}/healthz") == "ok\n"
        assert program.pid == pid


def test_a_change_of_the_page_touches_nothing_else(tmp_path, port):
    """Another port or password takes effect at once, and every other thread goes on."""
    with Running(tmp_path) as running:
        running.monitor.change(_with_page(running.settings, port))
        others = [thread for thread in threading.enumerate() if thread.name != "view page"]
        assert asked_again(port).status == 200
        second = free_port()
        running.monitor.change(_with_page(running.settings, second))
        assert asked_again(second).status == 200
        assert not _listens(port)
        running.monitor.change(_with_page(running.settings, second, Secret("new")))
        assert asked_again(second, "/").status == 401
        assert set(others) <= set(threading.enumerate())
        running.monitor.change(running.settings)
        assert not _listens(second)
        assert running.monitor.status().views == {}
        assert "view page" not in running.threads()


def test_a_change_of_something_else_leaves_the_page(tmp_path, port):
    """A reload that changes nothing about the page does not end it."""
    with Running(tmp_path) as running:
        running.monitor.change(_with_page(running.settings, port))
        asked_again(port)
        child = page_of(os.getpid())
        running.monitor.change(_with_page(running.settings, port, keep_days=50))
        assert get(port).status == 200
        assert page_of(os.getpid()) == child


def test_a_reload_by_signal(program, port):
    """After SIGHUP the page is at its new port."""
    second = free_port()
    program.set(page_settings(second))
    os.kill(program.pid, signal.SIGHUP)
    assert asked_again(second).status == 200
    assert not _listens(port)


def test_check_tries_the_port(tmp_path, port):
    """--check says where the page will be, or why it can't; it can't try the port of the running program."""
    before = children_of(os.getpid())
    with Program(tmp_path, page_settings(port)) as program:
        assert f"view page: ok, http://127.0.0.1:{port}/" in program.run("--check").stdout
        assert children_of(os.getpid()) == before
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            assert f"view page: 127.0.0.1 port {port}: Address already in use" in program.run("--check").stdout


def test_the_page_of_a_first_try(tmp_path):
    """With --simulate and no settings there is a page."""
    with first_page(), Program(tmp_path) as program:
        # Where the data is if no settings say so.
        program.env |= {"STATE_DIRECTORY": str(program.data_dir)}
        line = [*program.start_of_line, "--pidfile", str(program.pidfile), "--simulate", "2000"]
        done = program._finished(line)
        assert done.returncode == 0, done.stderr
        assert list(program.status()["views"]) == ["page"]


def test_a_simulated_page_is_left_out(tmp_path, port):
    """If settings were found but not named, the port is the real program's: the page is left out, with a message."""
    with Program(tmp_path, page_settings(port)) as program:
        program.env["POWER_SETTINGS"] = str(program.settings)
        line = [*program.start_of_line, "--pidfile", str(program.pidfile), "--simulate", "2000"]
        done = program._finished(line)
        assert done.returncode == 0, done.stderr
        assert "left out by --simulate: view page; --settings PATH includes all" in done.stderr
        assert program.status()["left_out"] == ["view page"]
        assert program.status()["views"] == {}


# --- A process that fails


@contextlib.contextmanager
def served(port, code, monkeypatch, *, ask=dict):
    """A :class:`PageServer` whose process runs *code*; *ask* returns the status."""
    monkeypatch.setattr(page_server, "CODE", CODE + code)
    server = PageServer(
        PageSettings("127.0.0.1", port, None), "/nowhere/journal.db", {}, status=ask, on_state=lambda: None
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server._listener is not None)
        yield server
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()


def test_one_that_can_t_start(port, impatient, monkeypatch, tmp_path):
    """A process that ends at once is started again after longer and longer pauses; the status shows its last words."""
    path = tmp_path / "starts"
    code = (
        f"open({str(path)!r}, 'a').write(f'{{time.monotonic()}}\\n'); "
        "pair.sendall(b'failed no bottle here\\n'); os._exit(3)"
    )
    with served(port, code, monkeypatch) as server, socket.create_connection(("127.0.0.1", port)):
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= 5)
        assert server.status.state == "failing"
        assert server.status.reason == "ended with exit status 3: no bottle here"
        times = [float(line) for line in path.read_text().split()]
        pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
        for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4), strict=False):
            assert pause >= least


def test_one_that_ends_soon(port, impatient, monkeypatch, tmp_path):
    """One that ends without an error, but as soon as it serves, is a failure too."""
    with (
        served(port, "pair.sendall(b'ready\\n'); os._exit(0)", monkeypatch) as server,
        socket.create_connection(("127.0.0.1", port)),
    ):
        wait_until(lambda: server.status.state == "failing")
        assert server.status.reason == "ended too soon"


def test_one_that_serves_again(port, impatient, monkeypatch, tmp_path):
    """Once a process has served for a while, the page is healthy again."""
    path = tmp_path / "second"
    code = (
        f"second = os.path.exists({str(path)!r}); open({str(path)!r}, 'w'); second or os._exit(3); "
        "pair.sendall(b'ready\\n'); time.sleep(60)"
    )
    with served(port, code, monkeypatch) as server, socket.create_connection(("127.0.0.1", port)):
        wait_until(lambda: server.status.state == "failing")
        wait_until(lambda: server.status.state == "ok")


def test_one_that_never_serves(port, impatient, monkeypatch):
    """A process that does not become ready is ended."""
    monkeypatch.setattr(page_server, "READY_S", 0.2)
    with served(port, "time.sleep(60)", monkeypatch) as server, socket.create_connection(("127.0.0.1", port)):
        wait_until(lambda: server.status.reason == "did not begin to serve")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pair.sendall(b'the password, please\\n'); time.sleep(60)", "asked for what it may not have"),
        ("pair.sendall(b'ready\\n' * 2); time.sleep(60)", "asked for what it may not have"),
        ("pair.sendall(b'x' * 5000); time.sleep(60)", "sent a line without an end"),
        ("pair.close(); time.sleep(60)", "closed its socket"),
        ("pair.sendall(b'\\xff\\xfe\\n'); time.sleep(60)", "asked for what it may not have"),
        ("os.kill(os.getpid(), 11)", "ended with SIGSEGV"),
        (
            "[pair.sendall(b'settings\\n') for _ in range(100_000)]; time.sleep(60)",
            "does not read what it has asked for",
        ),
    ],
)
def test_one_that_was_taken_over(port, impatient, monkeypatch, code, reason):
    """Whatever a process sends that was taken over, it is ended, and the program goes on."""
    with served(port, code, monkeypatch) as server, socket.create_connection(("127.0.0.1", port)):
        wait_until(lambda: server.status.reason == reason)
        assert server.status.state == "failing"


def test_one_status_a_second(port, monkeypatch, tmp_path):
    """However often it asks, it gets one status a second; and not more."""
    monkeypatch.setattr(page_server, "STATUS_S", 0.2)
    asked = []

    def ask():
        asked.append(time.monotonic())
        return {}

    code = "pair.sendall(b'ready\\n'); [(pair.sendall(b'status\\n'), pair.recv(100)) for _ in range(1000)]"
    with served(port, code, monkeypatch, ask=ask), socket.create_connection(("127.0.0.1", port)):
        wait_until(lambda: len(asked) >= 6)
    for sooner, later in itertools.pairwise(asked):
        assert later - sooner >= 0.2


def test_its_complaints_have_an_end(port, monkeypatch, caplog):
    """It can't fill the log: only its first complaints are logged."""
    monkeypatch.setattr(page_server, "STATUS_S", 0.0)
    code = "pair.sendall(b'ready\\n'); [pair.sendall(b'failed \\x1b[2J%d\\n' % n) for n in range(1000)]; time.sleep(60)"
    with served(port, code, monkeypatch) as server, socket.create_connection(("127.0.0.1", port)):
        wait_until(lambda: server._process is not None and server._process._complaints == 1000)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(logged) == page_server.MAX_COMPLAINTS
    assert logged[0] == "view page: \\x1b[2J0"


def test_a_bug_of_its_own_ends_no_counting(tmp_path, port, monkeypatch):
    """If the program's own side of the page fails, it is a failing view, and counting goes on."""
    monkeypatch.setattr(page_server.PageServer, "_wait", lambda _self: {}["a bug"])
    with Running(tmp_path) as running:
        running.monitor.change(_with_page(running.settings, port))
        running.wait_for_condition(Condition.FAILING)
        assert running.monitor.status().views["page"].reason.startswith("ended by a bug")
        assert not running.monitor.crashed


def test_a_missing_library_is_named(tmp_path, port):
    """With PAGE, a start without the libraries says which is missing; without PAGE none of them is needed."""
    gone = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "waitress" else find(name)
"""
    with Program(tmp_path, page_settings(port)) as program:
        done = program.run_after(gone, "--simulate", "2000")
        assert done.returncode == 1
        assert "missing: waitress: " in done.stderr
        program.set("")
        assert program.run_after(gone, "--simulate", "2000").returncode == 0
