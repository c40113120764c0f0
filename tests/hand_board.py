"""A board for tests: edges when the test makes them, lamps that remember."""

import threading
import time

from program import PATIENCE_S

from powermeter.boards import EdgeQueue
from powermeter.meter import NS_PER_S, Edge


class Circuit:
    """Two lamps that remember, and let a test wait for what they show."""

    def __init__(self):
        self.seen = []
        self._changed = threading.Condition()

    def light(self, lamp, lit):
        with self._changed:
            self.seen.append((lamp, lit))
            self._changed.notify_all()

    def wait_for(self, lamp, lit, times=1):
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen.count((lamp, lit)) >= times, PATIENCE_S), self.seen


class HandBoard(Circuit):
    """A board whose edges the test makes, from any thread; *sees_ends* as a board may or may not."""

    def __init__(self, *, sees_ends=False):
        super().__init__()
        self.sees_ends = sees_ends
        #: The meters whose input is lit; how often each was looked at; edges that come to light when unwatched.
        self.lit = set()
        self.looks = {}
        self.left = []
        self.flashed = 0
        self.watched = False
        self.closed = False
        self._edges = EdgeQueue()
        self._at_once = threading.Lock()
        self._start_ns = time.monotonic_ns() - 1000 * NS_PER_S

    def put(self, edge):
        self._edges.put(edge)

    def put_at_once(self, edges):
        """So that one take() gives them all."""
        with self._at_once:
            for edge in edges:
                self._edges.put(edge)

    def flash(self, count=1, index=0):
        """Flashes that stand a second apart, the first 1,000 s ago."""
        for _ in range(count):
            self.put(Edge(index, self._start_ns + self.flashed * NS_PER_S))
            self.flashed += 1

    def watch(self):
        self.watched = True

    def fileno(self):
        assert self.watched, "it has a descriptor once watched"
        return self._edges.fileno()

    def take(self):
        with self._at_once:
            return self._edges.take()

    def sees_light(self, meter):
        assert self.watched, "it can tell while watched"
        self.looks[meter] = self.looks.get(meter, 0) + 1
        return meter in self.lit

    def unwatch(self):
        self.watched = False
        while self.left:
            self.put(self.left.pop(0))

    def close(self):
        self.unwatch()
        self._edges.close()
        self.closed = True
