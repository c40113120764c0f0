"""What the foreground shows, on real terminals of any width and encoding, and without one."""

import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import termios

import pytest
from http_server import Answering, http_answer
from program import PATIENCE_S, Program, wait_until

#: A reason with letters that most code pages lack.
REASON = '{"error":"Zugriff für Küche verweigert: недостаточно прав ⚡"}'


class Terminal:
    """A pseudo-terminal of so many columns, and all that was shown on it."""

    def __init__(self, columns):
        self.ours, self.theirs = pty.openpty()
        self.resize(columns)
        self.shown = b""

    def resize(self, columns, rows=24):
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def sees(self, *texts):
        """Read what is there; whether each of *texts* was shown."""
        self.shown += os.read(self.ours, 65536)
        return all(text in self.shown for text in texts)

    def close(self):
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def started():
    """Starts a program on a terminal; what still runs after the test is killed."""
    running = []

    def start(program, terminal, *args, before=(), **env):
        environment = program.env | {"TERM": "xterm"} | env
        environment.pop("COLUMNS", None)
        line = [*before, *program.line("--nodaemon", *args)]
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.theirs)
        running.append(subprocess.Popen(line, cwd=program.directory, env=environment, **ends))
        return running[-1]

    yield start
    for popen in running:
        popen.kill()
        popen.wait()


def end(popen):
    popen.send_signal(signal.SIGINT)
    assert popen.wait(PATIENCE_S) == 0


def lines_of(shown):
    """What was drawn, without the terminal's commands."""
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)
    return [line for line in re.split(rb"[\r\n]+", plain) if line]


def test_live_line(tmp_path, started):
    """On a terminal there is one line with power, energy and the writers' state; the log goes only to its file."""
    with Program(tmp_path, f'LOG_FILE = "{tmp_path}/my.log"') as program:
        terminal = Terminal(100)
        popen = started(program, terminal, "--simulate", "20000")
        wait_until(lambda: terminal.sees(b"20,000 W, today 0.0", b"file ok"))
        end(popen)
        terminal.close()
    log = (tmp_path / "my.log").read_text()
    assert "counting" in log
    assert "stopped" in log
    assert b"INFO" not in terminal.shown


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp437", "koi8-r", "utf-8"])
def test_any_encoding(tmp_path, started, encoding):
    """Letters that the terminal lacks end nothing: live line, log, --status and --check say what they can."""
    with Answering(http_answer(403, REASON.encode())) as server, Program(tmp_path) as program:
        text = "METERS = {'house': {'pin': 18, 'impulses_per_kwh': 1000}}\nWRITERS = {'db': {'type': 'influxdb', "
        program.set(f"{text}'host': '127.0.0.1', 'port': {server.port}, 'update_period': 0}}}}")
        program.env["PYTHONIOENCODING"] = encoding
        terminal = Terminal(120)
        popen = started(program, terminal, "--simulate", "20000")
        wait_until(lambda: terminal.sees(b"db failing: answered 403", b"Zugriff f"))
        for command in ("--status", "--check"):
            done = subprocess.run(program.line(command), env=program.env, capture_output=True, timeout=60, check=False)
            assert b"Traceback" not in done.stdout + done.stderr
            assert b"answered 403: Zugriff f" in done.stdout
        end(popen)
        terminal.close()
        assert b"Traceback" not in terminal.shown


def test_any_width(tmp_path, started):
    """The line takes no more columns than there are, and follows a terminal that is resized."""
    with Program(tmp_path, f'LOG_FILE = "{tmp_path}/my.log"') as program:
        terminal = Terminal(1)
        popen = started(program, terminal, "--simulate", "20000")
        for width in (1, 2, 3, 5, 500, 20, 80, 1):
            terminal.resize(width)
            seen = len(terminal.shown)
            wait_until(lambda seen=seen: terminal.sees() and len(lines_of(terminal.shown[seen:])) > 1)
            # The first may be of the width before.
            assert 0 < max(map(len, lines_of(terminal.shown[seen:])[1:])) <= width
        end(popen)
        terminal.close()


#: How a terminal's cursor is hidden, and shown again (xterm's control sequences, DECTCEM).
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


def test_ctrl_z(tmp_path):
    """Ctrl-Z leaves the terminal to the shell, with its cursor; with bg it counts unseen, fg brings the line back."""
    with Program(tmp_path, f'LOG_FILE = "{tmp_path}/my.log"') as program:
        terminal = Terminal(100)
        # In a session of its own, whose terminal this is: only there a shell has jobs.
        shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "-i"],
            cwd=program.directory,
            env=program.env | {"TERM": "xterm", "PS1": "PROMPT "},
            **dict.fromkeys(("stdin", "stdout", "stderr"), terminal.theirs),
        )

        def typed(text, *shows):
            """What is shown after *text* was typed, until all of *shows* is there."""
            terminal.shown = b""
            os.write(terminal.ours, text)
            wait_until(lambda: terminal.sees(*shows))
            return terminal.shown

        def counted():
            return program.status()["meters"]["house"]["pulses"]

        try:
            line = shlex.join(map(str, program.line("--nodaemon", "--simulate", "20000")))
            typed(f"{line}\n".encode(), b"20,000 W, today 0.0")
            settings = termios.tcgetattr(terminal.theirs)
            for in_background in (False, True):
                seen = typed(b"\x1a", b"Stopped", b"PROMPT ")
                assert seen.rindex(SHOW) > seen.rfind(HIDE)
                if in_background:
                    seen = typed(b"bg\n", b"power.py", b"PROMPT ")
                    at_first = counted()
                    wait_until(lambda at_first=at_first: counted() > at_first + 10)
                    assert b" W, today" not in seen + typed(b"echo mark$((6*7))\n", b"mark42", b"PROMPT ")
                typed(b"fg\n", HIDE, b"20,000 W, today 0.")
            assert termios.tcgetattr(terminal.theirs) == settings
            seen = typed(b"\x03", b"PROMPT ")
            assert seen.rindex(SHOW) > seen.rfind(HIDE)
            typed(b"echo status$?\n", b"status0")
        finally:
            shell.send_signal(signal.SIGHUP)
            shell.wait(PATIENCE_S)
            terminal.close()


def test_a_terminal_that_goes(tmp_path, started):
    """A terminal that has gone ends a foreground program in order, as a hang-up means; never by an error."""
    with Program(tmp_path, f'LOG_FILE = "{tmp_path}/my.log"') as program:
        terminal = Terminal(80)
        popen = started(program, terminal, "--simulate", "20000")
        wait_until(lambda: terminal.sees(b"20,000 W"))
        terminal.close()
        popen.send_signal(signal.SIGHUP)
        assert popen.wait(PATIENCE_S) == 0


def test_a_terminal_that_goes_under_nohup(tmp_path, started):
    """Where a hang-up is ignored, it counts on without a terminal."""
    with Program(tmp_path, f'LOG_FILE = "{tmp_path}/my.log"') as program:
        terminal = Terminal(80)
        popen = started(program, terminal, "--simulate", "20000", before=["nohup"])
        wait_until(lambda: program.pid is not None and program.run("--status").returncode == 0)
        terminal.close()
        before = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] > before + 10)
        program.run("--kill")
        assert popen.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_dumb_terminal(tmp_path, started, environment):
    """On a terminal that can't go back in a line there is a plain line now and then."""
    with Program(tmp_path, f'LOG_FILE = "{tmp_path}/my.log"') as program:
        terminal = Terminal(80)
        popen = started(program, terminal, "--simulate", "20000", **environment)
        wait_until(lambda: terminal.sees(b"file ok\r\n"))
        assert b"\x1b" not in terminal.shown
        end(popen)
        terminal.close()


def test_no_terminal(tmp_path):
    """Without a terminal one plain line is printed at once, and then every minute; none for a service manager."""
    with Program(tmp_path) as program:
        program.foreground("--simulate", "20000")
        wait_until(lambda: "file ok\n" in program.out.read_text())
        assert program.out.read_text().count("\n") == 1
        program.end()
        program.out.write_text("")
        program.env["NOTIFY_SOCKET"] = str(tmp_path / "nobody")
        program.foreground("--simulate", "20000")
        assert program.out.read_text() == ""
