"""
The state of the meters at an MQTT broker: what is published, and when.

Everything that is retained there is one mapping of topics to messages, made from the status. Whatever differs from what
this connection has sent is sent, and whatever has left the mapping is removed. So a new connection, a Home Assistant
that starts, another label and a meter that is gone are all the same case.

The energy never falls: it is what the journal's file has. If the broker has more of the same journal, as after a card
was restored from a backup, the difference is added from then on.
"""

import contextlib
import json
import logging
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from powermeter.errors import BrokerError
from powermeter.settings.values import MqttSettings
from powermeter.status import MeterStatus, Status, ViewStatus
from powermeter.views.mqtt import BIRTH_TOPIC, MONITOR, STATUS, place
from powermeter.views.mqtt.broker import ANSWER_S, Link, read_retained, word
from powermeter.views.mqtt.discovery import configs
from powermeter.views.text import TROUBLES

log = logging.getLogger(__name__)

#: The first and the longest pause, in s, before a broker that can't be used is tried again; it doubles each time.
PAUSE_S = 1.0, 60.0

#: How often to check whether the journal was opened, in s.
JOURNAL_S = 1.0

#: How long the last messages may take at a stop, in s.
END_S = 0.5

#: The keys of notes in the journal: the topics that have something retained, and what is added to a meter's energy, in
#: millionths of a kWh.
TOPICS, OFFSET = "mqtt topics", "mqtt offset "

#: Energy is counted in millionths of a kWh: ints are compared and added without rounding.
MILLIONTHS = 1_000_000


class MqttView:
    """
    Publishes what *status* returns to the broker of *settings*, until it is stopped.

    *about* returns the journal's notes about itself, which are empty until a file
    has been opened; *note* adds one, a value for a key. *on_state* is called when
    :attr:`status` changes. :meth:`run` is for a thread of its own, and
    :meth:`stop` for any other.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        status: Callable[[], Status],
        about: Callable[[], Mapping[str, str]],
        note: Callable[[str, str], None],
        on_state: Callable[[], None],
    ) -> None:
        #: How it is doing.
        self.status = ViewStatus("waiting", "it has not connected yet")
        self._settings = settings
        self._place = place(settings)
        self._monitor = f"{settings.topic}/{MONITOR}"
        self._ask, self._about, self._note, self._on_state = status, about, note, on_state
        self._stopping = False
        self._withdraws = False
        self._wake, self._waker = socket.socketpair()
        self._failures = 0
        #: By a meter's name, the energy that was published last, and the least it may be: what was retained.
        self._energies: dict[str, int] = {}
        self._least: dict[str, int] = {}
        #: By a meter's name, its pulses when it was first seen; and the meters whose power has been measured since.
        self._pulses: dict[str, int] = {}
        self._measured: set[str] = set()
        #: In this connection: what was sent, by topic; and the id that came last.
        self._sent: dict[str, str] = {}
        self._retained_id = ""

    def stop(self, *, withdraw: bool = False) -> None:
        """Make :meth:`run` end; with *withdraw*, after removing from the broker what was published."""
        self._withdraws = withdraw
        self._stopping = True
        with contextlib.suppress(OSError):  # it has ended
            self._waker.send(b"\0")

    def run(self) -> None:
        """Publish until stopped. Whatever fails here is a failure of this view, and never touches the counting."""
        with self._wake, self._waker:
            try:
                while not self._stopping:
                    self._pause(self._serve())
                if self._withdraws and _listed(self._about().get(TOPICS, "")):
                    log.warning("view mqtt: what was published could not be removed from %s", self._place)
            except Exception:
                log.critical("view mqtt: ended by a bug: nothing is published until a restart", exc_info=True)
                self._set_state("failing", "ended by a bug: nothing is published until a restart")

    def _pause(self, seconds: float) -> None:
        self._wake.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            if not self._stopping:
                self._wake.recv(1)

    def _serve(self) -> float:
        """Publish for as long as the connection lasts; return the pause until the next try, in s."""
        if "id" not in self._about():
            self._set_state("waiting", "the journal is not open yet")
            return JOURNAL_S
        now = self._ask()
        if any(meter.energy_kwh is None for meter in now.meters.values()):
            self._set_state("waiting", "the energy counted so far is not known yet")
            return JOURNAL_S
        try:
            self._publish(list(now.meters))
        except BrokerError as error:
            if not self._stopping:
                self._fail(str(error))
        self._failures = min(self._failures + 1, 20)
        shortest_s, longest_s = PAUSE_S
        # Jitter, so that many monitors do not all return to a broker at once.
        return min(longest_s, shortest_s * 2.0 ** (self._failures - 1)) * random.uniform(0.5, 1)

    # --- One connection

    def _publish(self, meters: Sequence[str]) -> None:
        own_id = self._about()["id"]
        retained = read_retained(self._settings, meters, stopped=lambda: self._stopping, wake=self._wake)
        self._refuse_other(retained.monitor)
        if retained.monitor == own_id:
            for name, kwh in retained.energies.items():
                self._least[name] = max(self._least.get(name, 0), round(kwh * MILLIONTHS))
        self._sent, self._retained_id = {}, ""
        with Link(
            self._settings,
            f"power_{own_id}",
            mqtt5=retained.mqtt5,
            will=f"{self._settings.topic}/{STATUS}",
            stopped=lambda: self._stopping,
            wake=self._wake,
            on_message=self._take,
        ) as link:
            link.subscribe([self._monitor, BIRTH_TOPIC])
            self._claim(link, own_id)
            due_s = time.monotonic()
            while not self._stopping:
                if self._retained_id not in ("", own_id):
                    link.close()  # properly: our will would set the other one's topic
                self._refuse_other(self._retained_id)
                if time.monotonic() >= due_s:
                    self._update(link)
                    due_s = time.monotonic() + self._settings.update_period
                self._judge(link)
                link.turn(max(0.0, due_s - time.monotonic()))
            self._end(link)

    def _claim(self, link: Link, own_id: str) -> None:
        """
        Retain our id, and wait until it comes back.

        This shows that we may read what is retained: a broker may confirm a
        subscription that its rights forbid, and in MQTT 3.1.1 a message, too.
        """
        link.publish(self._monitor, own_id)
        self._sent[self._monitor] = own_id
        end_s = time.monotonic() + ANSWER_S
        while not self._retained_id:
            if link.refused:
                raise self._refusal(link)
            if (left_s := end_s - time.monotonic()) <= 0 or self._stopping:
                link.close()  # properly: the will has nothing to correct, as we are not online yet
                raise BrokerError(
                    f"{self._place} does not return what is published at {self._monitor}: check the rights of this user"
                )
            link.turn(left_s)

    def _refusal(self, link: Link) -> BrokerError:
        # The first by its name: the log names the same one for as long as it is refused.
        topic, reason = min(link.refused.items())
        return BrokerError(f"{self._place} refuses {topic}: {reason}: check the rights of this user")

    def _refuse_other(self, found: str) -> None:
        own_id = self._about()["id"]
        if found not in ("", own_id):
            raise BrokerError(
                f"another monitor publishes below {self._settings.topic} at {self._place}, its id is {found}, ours "
                f"{own_id}: set another topic, or remove what is retained at {self._monitor} if that monitor no longer "
                "exists"
            )

    def _take(self, topic: str, payload: bytes) -> None:
        """Take a message. What it asks for is done with the next update, so that many of them cause no flood."""
        if topic == self._monitor:
            self._retained_id = word(payload)
            if not self._retained_id:
                self._sent.pop(topic, None)
        elif topic == BIRTH_TOPIC and word(payload) == "online":
            self._sent.clear()

    def _update(self, link: Link) -> None:
        """Send whatever differs from what this connection has sent."""
        now = self._ask()
        for name, meter in now.meters.items():
            if meter.energy_kwh is not None:
                self._count(name, round(meter.energy_kwh * MILLIONTHS))
        if now.meters.keys() - self._energies.keys():
            return  # a meter that was added just now, whose energy is not known yet
        wanted = self._wanted(now)
        for topic in link.refused:
            self._sent.pop(topic, None)
        listed = _listed(self._about().get(TOPICS, ""))
        gone = [topic for topic in listed if topic not in wanted]
        removed = {topic for topic in gone if link.is_confirmed and self._sent.get(topic) == ""}
        # Noted before anything is sent, so that what a crash leaves at the broker is known.
        if (noted := sorted({*wanted, *listed} - removed)) != listed:
            self._note(TOPICS, json.dumps(noted))
        for topic, payload in {**dict.fromkeys(gone, ""), **wanted}.items():
            if self._sent.get(topic) != payload:
                link.publish(topic, payload)
                self._sent[topic] = payload

    def _judge(self, link: Link) -> None:
        """Set the state by the broker's answers to the messages so far."""
        if not self._sent or not link.is_confirmed:
            return
        if link.refused:
            self._fail(str(self._refusal(link)))
        else:
            if self.status.state != "ok":
                log.info("view mqtt: publishing to %s below %s", self._place, self._settings.topic)
            self._failures = 0
            self._set_state("ok", "")

    def _end(self, link: Link) -> None:
        """Leave the broker properly, in the time there is."""
        with contextlib.suppress(BlockingIOError):  # else the waits below would return at once
            self._wake.setblocking(False)
            self._wake.recv(1024)
        if self._withdraws:
            for topic in _listed(self._about().get(TOPICS, "")):
                link.publish(topic, "")
        else:
            link.publish(f"{self._settings.topic}/{STATUS}", "offline")
        end_s = time.monotonic() + END_S
        while not link.is_confirmed and (left_s := end_s - time.monotonic()) > 0:
            link.turn(left_s)
        if self._withdraws and link.is_confirmed:
            self._note(TOPICS, "[]")

    # --- What is published

    def _count(self, name: str, counted: int) -> None:
        """Note the energy of the meter *name* from what was *counted*, in millionths of a kWh; it never falls."""
        key = f"{OFFSET}{name}"
        offset = _whole(self._about().get(key, "0"))
        energy, least = counted + offset, self._least.get(name, 0)
        if energy < least:
            log.warning(
                "view mqtt: %s: %s kWh were published, but the journal has %s kWh less: the difference is added "
                "from now on, so that the energy does not fall",
                name,
                f"{least / MILLIONTHS:.3f}",
                f"{(least - energy) / MILLIONTHS:.3f}",
            )
            self._note(key, str(offset + least - energy))
            energy = least
        self._energies[name] = self._least[name] = energy

    def _wanted(self, now: Status) -> dict[str, str]:
        """The messages to be retained at the broker, by topic, in the order in which they are sent."""
        settings, own_id = self._settings, self._about()["id"]
        wanted = {self._monitor: own_id}
        if settings.discovery is not None:
            for name, meter in now.meters.items():
                wanted |= configs(settings.discovery, settings.topic, own_id, name, meter)
        for name, meter in now.meters.items():
            power = meter.watts if self._is_measured(name, meter) else None
            wanted[f"{settings.topic}/{name}"] = state(meter, power, self._energies[name] / MILLIONTHS, now)
        wanted[f"{settings.topic}/{STATUS}"] = "online"
        return wanted

    def _is_measured(self, name: str, meter: MeterStatus) -> bool:
        """
        Whether the power is known from two flashes.

        Before, it is only bounded by the time since the start, which would be a
        peak in every graph at each start.
        """
        pulses = meter.pulses or 0
        first = self._pulses.setdefault(name, pulses)
        if (meter.watts is not None and not meter.watts_is_bound) or pulses >= first + 2:
            self._measured.add(name)
        return name in self._measured

    # --- How it is doing

    def _fail(self, reason: str) -> None:
        if reason != self.status.reason:
            log.warning("view mqtt: failing: %s", reason)
        self._set_state("failing", reason)

    def _set_state(self, state: str, reason: str) -> None:
        before, self.status = self.status, ViewStatus(state, reason)
        if self.status != before:
            self._on_state()


def state(meter: MeterStatus, watts: float | None, energy_kwh: float, now: Status) -> str:
    """The published state of *meter*, as JSON, with the power *watts* and the energy *energy_kwh*."""
    reasons = [words for key, words in TROUBLES.items() if getattr(meter, key)]
    if now.journal.failing:
        reasons.append(f"journal: {now.journal.failing}")
    waiting = [writer.waiting for writer in now.writers.values()]
    known = [pulses for pulses in waiting if pulses is not None]
    return json.dumps(
        {
            "power_w": None if watts is None else round(watts),
            "power_is_bound": watts is not None and meter.watts_is_bound,
            "energy_kwh": energy_kwh,
            "register_kwh": None if meter.register_kwh is None else round(meter.register_kwh, 6),
            "kwh_today": None if meter.kwh_today is None else round(meter.kwh_today, 6),
            "problem": "ON" if reasons else "OFF",
            "reason": "; ".join(reasons),
            "rejected": meter.rejected,
            "waiting": max(known, default=0) if len(known) == len(waiting) else None,
        }
    )


def _whole(noted: str) -> int:
    """The number that was *noted* in the journal; 0 if a flipped bit has made something else of it."""
    return int(noted) if noted.isascii() and noted.isdigit() and len(noted) < 18 else 0


def _listed(noted: str) -> list[str]:
    """The topics that were *noted* in the journal; none if a flipped bit has made something else of it."""
    try:
        topics = json.loads(noted) if noted else []
    except ValueError:
        return []
    return [topic for topic in topics if isinstance(topic, str)] if isinstance(topics, list) else []
