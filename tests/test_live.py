"""The live line, on a real terminal."""

import os
import pty
import signal
import subprocess

from program import PATIENCE_S, Program, wait_until


def test_live_line(tmp_path):
    """On a terminal there is one line with power, energy and the writers' state; the log goes to its file alone."""
    with Program(tmp_path, f'LOG_FILE = "{tmp_path}/my.log"') as program:
        ours, theirs = pty.openpty()
        env = program.env | {"TERM": "xterm", "COLUMNS": "100"}
        line = program.line("--nodaemon", "--simulate", "20000")
        popen = subprocess.Popen(line, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        shown = b""

        def sees():
            nonlocal shown
            shown += os.read(ours, 65536)
            return b"20,000 W, today 0.0" in shown and b"file ok" in shown

        wait_until(sees)
        popen.send_signal(signal.SIGINT)
        assert popen.wait(PATIENCE_S) == 0
        os.close(ours)
    log = (tmp_path / "my.log").read_text()
    assert "counting" in log
    assert "stopped" in log
    assert b"INFO" not in shown
