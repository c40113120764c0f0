"""A real Home Assistant, whose clock runs as fast as a test wants, asked by its own interfaces."""

import datetime as dt
import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

from server import cache, free_port

#: What runs in its own Python.
INSIDE = Path(__file__).resolve().parent / "inside"
PYTHON = cache() / "home-assistant-2025.4.4" / "bin" / "python"

#: Who logs in too late is disconnected: within 10 s of its clock, which are 0.04 s where that runs 240 times as fast.
ATTEMPTS = 10

#: What its log calls whatever comes from the meter: topics, entities, the label.
OURS = ("power", "house", "_meter", " meter", "homeassistant/")

#: How it says that an entity was slow.
TOO_SLOW = re.compile(r"Updating state for .* took [\d.]+ seconds")

#: When its clock begins: at the top of an hour, as its statistics do.
BEGIN = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)


class HomeAssistant:
    """
    A Home Assistant in *directory* at the broker at *mqtt_port*, *rate* times as fast as the world; a context manager.

    libfaketime gives it its clock, which goes on over a restart.
    """

    def __init__(self, directory, mqtt_port, rate):
        self.directory, self.mqtt_port, self.rate = directory, mqtt_port, rate
        self.port = free_port()
        self.log = directory / "home-assistant.log"
        self._process = None
        self._log_of_runs_before = []
        #: What its clock showed at a time of the world's.
        self._begin, self._begun_s = BEGIN, time.time()

    def __enter__(self):
        self._begun_s = time.time()
        self.start()
        return self

    def __exit__(self, kind, error, trace):
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def now(self):
        """What its clock shows."""
        return self._begin + dt.timedelta(seconds=(time.time() - self._begun_s) * self.rate)

    def start(self):
        """Start it, and wait until it answers."""
        (faketime,) = (cache() / "faketime").rglob("libfaketimeMT.so.1")
        clock = {"LD_PRELOAD": str(faketime), "FAKETIME": f"@{self.now():%Y-%m-%d %H:%M:%S} x{self.rate}", "TZ": "UTC"}
        command = [PYTHON, INSIDE / "minimal.py", self.directory, str(self.port), str(self.mqtt_port)]
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "out").open("ab") as out:
            self._process = subprocess.Popen(
                command, env=os.environ | clock | {"FAKETIME_DONT_RESET": "1"}, stdout=out, stderr=out
            )
        end_s = time.monotonic() + 120
        while self._process.poll() is None and time.monotonic() < end_s:
            try:
                self.get("/api/config")
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError(f"Home Assistant did not start: see {self.directory}/out")

    def restart(self, rate=None):
        """End it in order, and start it again; with *rate*, so many times as fast as the world from now on."""
        self._process.terminate()
        self._process.wait(60)
        # It keeps the log of one run before.
        self._log_of_runs_before += self.log.read_text().splitlines()
        if rate is not None:
            self._begin, self._begun_s, self.rate = self.now(), time.time(), rate
        self.start()

    def get(self, path):
        """What its REST interface answers."""
        token = (self.directory / "token").read_text() if (self.directory / "token").exists() else ""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def states(self):
        """Each entity's state and attributes, by its id."""
        return {one["entity_id"]: (one["state"], one["attributes"]) for one in self.get("/api/states")}

    def ask(self, *questions):
        """What its websocket answers to each of *questions*."""
        token = (self.directory / "token").read_text()
        for _ in range(ATTEMPTS):
            done = subprocess.run(
                [PYTHON, INSIDE / "ask.py", str(self.port), token],
                input=json.dumps(questions),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode == 0:
                return json.loads(done.stdout)
        raise AssertionError(done.stderr)

    def complaints(self):
        """The lines of its logs that are warnings or errors and name something that comes from the meter."""
        lines = [*self._log_of_runs_before, *self.log.read_text().splitlines()]
        # Its own files may be anywhere, also below a directory of such a name.
        lines = [line.replace(str(self.directory), "") for line in lines]
        bad = [line for line in lines if " WARNING " in line or " ERROR " in line]
        named = [
            line for line in bad if any(word in line.lower() for word in ("power", "house", "meter", "assistant/"))
        ]
        # An entity that takes 2 ms takes half a second of a clock that is 240 times as fast.
        return [line for line in named if not TOO_SLOW.search(line)]
