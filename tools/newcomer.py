#!/usr/bin/env python3
"""
Does what a newcomer does: the tutorial's commands, from a clean clone, as an ordinary user, each one timed.

    .venv-test/bin/python tools/newcomer.py

Root becomes nobody. Each time that a page promises is printed beside the time that it took. A command that fails, or
that shows something else than its page, ends this with 1. What needs a Pi, root or another machine is left out. The
meter is simulated, the virtual environment and its libraries are not: they need a network, or pip's cache.
"""

import contextlib
import os
import pty
import pwd
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "src")]

from console import Command, commands, same, screen  # noqa: E402 - found by the line above
from program import first_page  # noqa: E402 - as above

PAGES = ("laptop", "graph")

#: How long anything may take before it counts as hanging, in s.
PATIENCE_S = 300

#: What the pages promise, in their own words, which must be there, and the key of that time in Newcomer.times.
PROMISES = {
    "laptop": (
        ("The folder takes a minute", "make run: counting"),
        ("After a second or two it says ``at most``", "make run: at most"),
        ("shows 3,600 W three seconds after the start", "src/power.py: shown"),
    ),
}

#: On the page the data is the service's; here it is what the first page has left.
DATA = ("/var/lib/power/", "~/.local/state/power/simulated/")


class Newcomer:
    """A home with nothing in it, and who follows the pages there."""

    def __init__(self, home: Path) -> None:
        self.home = self.where = home
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.ids = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.remote = home / "remote"
        subprocess.run(["git", "clone", "--quiet", "--bare", TOP, self.remote], check=True)
        if user:
            for path in [home, *home.rglob("*")]:
                os.chown(path, user.pw_uid, user.pw_gid)
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "http_proxy"}
        # Debian's own programs only: of the Python that runs this nothing is in the way.
        self.env = kept | {"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TERM": "xterm"}
        #: How long what took, in s.
        self.times: dict[str, float] = {}

    def follow(self, page: str) -> None:
        """Do what *page* says."""
        for command in commands((TOP / "docs" / "tutorial" / f"{page}.rst").read_text()):
            if command.on_the_pi or command.text.startswith("sudo "):
                print(f"newcomer: {page}: left out: {command.text}")
                continue
            self.do(page, command)

    def do(self, page: str, command: Command) -> None:
        """Run *command* of *page*, and compare what it shows."""
        text = command.text.replace("REPOSITORY", str(self.remote)).replace(*DATA)
        if text.startswith("cd "):
            # Each page begins in the home.
            self.where = (self.home if page != PAGES[0] else self.where) / text[3:]
            assert self.where.is_dir(), text
            return
        begin_s = time.monotonic()
        if "^C" in command.seen:
            at = command.seen.index("^C")
            seen = self._until(text, command.seen[:at])
            wanted = ["...", *command.seen[at + 1 :]]
        else:
            status, seen = self.run(text)
            assert status == 0, f"{page}: $ {text}\nended with {status}:\n{seen}"
            wanted = command.seen
        assert not wanted or same(wanted, seen), f"{page}: $ {text}\nis to show:\n{wanted}\nbut shows:\n{seen}"
        print(f"newcomer: {page}: {time.monotonic() - begin_s:.1f} s: $ {command.text}")

    def run(self, text: str) -> tuple[int, str]:
        """Run the command line *text* to its end; its status and all it shows."""
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.where,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            **self.ids,
        )
        return done.returncode, done.stdout

    def _until(self, text: str, wanted: list[str]) -> str:
        """Run *text* on a terminal until the lines *wanted* are seen, then type Ctrl-C; all that is seen at the end."""
        name = "make run" if text == "make run" else "src/power.py"
        begin_s = counting_s = time.monotonic()
        ours, its = pty.openpty()
        started = subprocess.Popen(
            ["setsid", "--ctty", "bash", "-c", f"stty cols 120; exec {text}"],
            cwd=self.where,
            env=self.env,
            stdin=its,
            stdout=its,
            stderr=its,
            **self.ids,
        )
        os.close(its)
        output = b""
        interrupted = False
        try:
            while time.monotonic() < begin_s + PATIENCE_S:
                if not select.select([ours], [], [], 0.05)[0]:
                    continue
                try:
                    part = os.read(ours, 65536)
                except OSError:  # its last user has gone
                    break
                now_s = time.monotonic()
                output += part
                if f"{name}: counting" not in self.times and b"INFO counting" in output:
                    counting_s = now_s
                    self.times[f"{name}: counting"] = now_s - begin_s
                if f"{name}: at most" not in self.times and b"at most" in output:
                    self.times[f"{name}: at most"] = now_s - counting_s
                # At each change of the live line: several may have come at once.
                ends = [match.start() for match in re.finditer(rb"\x1b", output)]
                if not interrupted and any(same(wanted, screen(output[:end].decode(errors="replace"))) for end in ends):
                    # The environment is made before it counts; what is shown is so from then on.
                    self.times[f"{name}: shown"] = now_s - (begin_s if name == "make run" else counting_s)
                    os.write(ours, b"\x03")
                    interrupted = True
            seen = screen(output.decode(errors="replace"))
            assert interrupted, f"$ {text}\nis to show:\n{wanted}\nbut shows:\n{seen}"
            # make itself ends as Ctrl-C has it end; that what it runs stopped in order is seen.
            assert started.wait(10) == 0 or name == "make run", f"$ {text}\nended with {started.returncode}:\n{seen}"
            return seen
        finally:
            started.kill()
            started.wait()
            os.close(ours)


def advice(newcomer: Newcomer) -> None:
    """Call the program before anything is installed, and do what it advises."""
    newcomer.where = newcomer.home
    assert newcomer.run(f"git clone --quiet {newcomer.remote} advice")[0] == 0
    status, seen = newcomer.run("python3 advice/src/power.py --status")
    if status != 1:
        print("newcomer: advice: left out, as the system's Python has the libraries")
        return
    begin_s = time.monotonic()
    words, _, command = seen.strip().rpartition(": ")
    status, seen = newcomer.run(command)
    assert status == 0, f"{words}: {command}\nended with {status}:\n{seen}"
    (call,) = re.findall(r"call (\S+ \S+)$", words)
    assert newcomer.run(f"{call} --status") == (3, "power: not running\n")
    print(f"newcomer: advice: {time.monotonic() - begin_s:.1f} s: $ {command}")


def main() -> int:
    """Follow the pages; 1 where one does not hold what it says."""
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="power-newcomer."))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o755)
        newcomer = Newcomer(home)
        stack.enter_context(first_page())
        try:
            for page in PAGES:
                newcomer.follow(page)
                ET.parse(home / "power" / "power.svg")
            advice(newcomer)
        except (AssertionError, ET.ParseError, OSError, subprocess.SubprocessError) as error:
            print(f"newcomer: {error}", file=sys.stderr)
            return 1
        for page, promises in PROMISES.items():
            text = " ".join((TOP / "docs" / "tutorial" / f"{page}.rst").read_text().split())
            for promise, what in promises:
                if promise not in text:
                    print(f'newcomer: {page}.rst no longer promises "{promise}": correct PROMISES', file=sys.stderr)
                    return 1
                print(f'newcomer: {page} promises "{promise}": {what}: {newcomer.times[what]:.1f} s')
    return 0


if __name__ == "__main__":
    sys.exit(main())
