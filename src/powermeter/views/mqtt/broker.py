"""
One connection to an MQTT broker, and what the broker has retained; hides the library.

MQTT 5 is tried first, since such a broker reports what it refuses, then MQTT 3.1.1. Nothing here is retried. Whatever
a broker sends, it can do no more than end a connection: its packets are bounded, and so is each wait for it.
"""

import contextlib
import json
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from powermeter.certificates import context
from powermeter.errors import BrokerError
from powermeter.settings.values import MqttSettings
from powermeter.views.mqtt import MONITOR, place

#: How long a connection, and each answer, may take, in s.
CONNECT_S = 5.0
ANSWER_S = 10.0

#: The keep-alive, in s: a broker that is silent for one and a half times as long is gone (MQTT 5.0, 3.1.2.10).
KEEPALIVE_S = 30

#: No packet may be longer, in bytes.
MAX_PACKET = 65_536

#: How many bytes of a message are read; a longer one is allowed for a state, which we have retained ourselves.
MAX_WORD = 64
MAX_STATE = 2048

#: More kWh than any meter counts: a retained value above this is not ours.
MAX_KWH = 1e9

#: Retained messages are read until none has come for this long, in s.
QUIET_S = 0.3

#: The answer of an MQTT 3.1.1 broker to an unknown version, as MQTT 5's reason code.
UNSUPPORTED_VERSION = 132


class OtherVersionError(BrokerError):
    """The broker does not seem to speak this version of MQTT."""


class Link:
    """
    A connection to the broker of *settings* as the client *client_id*; a context manager, for one thread.

    *will* is a topic that the broker sets to "offline" when the connection is
    lost. Each wait asks *stopped* whether to give up; *wake* becomes readable
    then. Incoming messages are passed to *on_message* as topic and payload.
    Raises :exc:`BrokerError`, as every method does.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        *,
        mqtt5: bool,
        will: str | None = None,
        stopped: Callable[[], bool] = lambda: False,
        wake: socket.socket | None = None,
        on_message: Callable[[str, bytes], None],
    ) -> None:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self._settings = settings
        self._place = place(settings)
        self._stopped = stopped
        self._wake = wake
        self._on_message = on_message
        #: The broker's answers: to the connection and to each subscription, and why it ended the connection.
        self._answer: Any = None
        self._subscribed: dict[int, Sequence[Any]] = {}
        self._ended = ""
        #: Each topic whose receipt has not been confirmed, by the number of its message.
        self._sent: dict[int, str] = {}
        #: Why the broker refused the last message to a topic, by topic.
        self.refused: dict[str, str] = {}
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=mqtt.MQTTv5 if mqtt5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._took_subscription
        client.on_publish = self._took_message
        client.on_message = lambda _client, _data, message: self._on_message(message.topic, bytes(message.payload))
        if settings.username is not None:
            password = settings.password
            client.username_pw_set(settings.username, None if password is None else password.reveal())
        if will is not None:
            client.will_set(will, "offline", qos=1, retain=True)
        self._client = client
        self._properties = None
        if mqtt5:
            from paho.mqtt.packettypes import PacketTypes
            from paho.mqtt.properties import Properties

            self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            self._properties.MaximumPacketSize = MAX_PACKET

    def __enter__(self) -> "Link":
        try:
            self._open()
        except BaseException:
            self._drop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        self._drop()  # after an error the broker shall publish the will

    def close(self) -> None:
        """Disconnect properly, so that the broker discards the will; may be called twice."""
        with contextlib.suppress(Exception):  # whatever became of it
            self._client.disconnect()
            self._client.loop(0)
        self._drop()

    def _drop(self) -> None:
        # The library closes its socket once it sees the end of the connection, and we do not wait for that.
        if (sock := self._client.socket()) is not None:
            sock.close()

    def _open(self) -> None:
        settings = self._settings
        if self._stopped():
            raise BrokerError(f"{self._place}: stopped while waiting")
        if settings.ssl:
            try:
                trusted = context(settings.verify_ssl)
            except OSError as error:
                raise BrokerError(
                    f"{settings.verify_ssl}: no CA certificates: {error.strerror or error}: check verify_ssl"
                ) from error
            trusted.sslsocket_class = _closing_socket()
            self._client.tls_set_context(trusted)
            self._client.tls_insecure_set(not trusted.check_hostname)
        try:
            self._client.connect(settings.host, settings.port, KEEPALIVE_S, properties=self._properties)
        except (OSError, ValueError) as error:  # ValueError: a host that is not a name (UnicodeError)
            raise BrokerError(f"{self._place}: {_words(error)}") from error
        try:
            self.wait(lambda: self._answer is not None)
        except BrokerError as error:
            # A broker that does not know the version may just close the connection, as one that refuses us does.
            if self._answer is None:
                raise OtherVersionError(f"{error}: check host, port and ssl") from error
        if self._answer.is_failure:
            if self._answer.value == UNSUPPORTED_VERSION:
                raise OtherVersionError(f"{self._place} refuses the connection: {self._answer}")
            raise BrokerError(f"{self._place} refuses the connection: {self._answer}: check username and password")

    def turn(self, timeout_s: float) -> None:
        """Wait for at most *timeout_s*, and serve the connection."""
        client = self._client
        if (sock := client.socket()) is not None:
            # The kernel does not know of what TLS has already decrypted.
            pending = getattr(sock, "pending", lambda: 0)()
            waiting = [sock] if self._wake is None else [sock, self._wake]
            # The library sends its keep-alive only when it is called.
            wait_s = 0.0 if pending else min(timeout_s, KEEPALIVE_S / 3)
            select.select(waiting, [sock] if client.want_write() else [], [], wait_s)
            try:
                client.loop(0)
            except Exception as error:
                # The library may raise anything when it gets something that is not MQTT.
                raise BrokerError(f"{self._place} sends something that is not MQTT: check host and port") from error
            # The library has no bound of its own: it would keep a packet of 256 MB.
            if client._in_packet["remaining_length"] > MAX_PACKET:  # noqa: SLF001
                raise BrokerError(f"{self._place} sends a packet of more than {MAX_PACKET:,} bytes")
        if client.socket() is None:
            raise BrokerError(f"{self._place} closed the connection{self._ended}")

    def wait(self, done: Callable[[], bool]) -> None:
        """Wait until *done* is true, for as long as an answer may take."""
        end_s = time.monotonic() + ANSWER_S
        while not done():
            if self._stopped():
                raise BrokerError(f"{self._place}: stopped while waiting")
            if time.monotonic() >= end_s:
                raise BrokerError(f"{self._place} does not answer within {ANSWER_S:g} s")
            self.turn(max(0.0, end_s - time.monotonic()))

    def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe to *topics*, and wait until the broker has agreed."""
        wanted = list(topics)
        _, number = self._client.subscribe([(topic, 0) for topic in wanted])
        if number is None:
            raise BrokerError(f"{self._place} closed the connection{self._ended}")
        self.wait(lambda: number in self._subscribed)
        for topic, code in zip(wanted, self._subscribed.pop(number), strict=False):
            if code.is_failure:
                raise BrokerError(f"{self._place} does not let us read {topic}: {code}: check the rights of this user")

    def publish(self, topic: str, payload: str) -> None:
        """Send *payload* to be retained at *topic*; an empty one removes what is retained there."""
        message = self._client.publish(topic, payload, qos=1, retain=True)
        self._sent[message.mid] = topic

    @property
    def is_confirmed(self) -> bool:
        """Whether the broker has confirmed or refused everything that was published."""
        return not self._sent

    # --- Called by the library

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._answer = reason

    def _disconnected(self, _client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._ended = f": {reason}"

    def _took_subscription(self, _client: Any, _data: Any, number: int, reasons: Any, _properties: Any) -> None:
        self._subscribed[number] = reasons

    def _took_message(self, _client: Any, _data: Any, number: int, reason: Any, _properties: Any) -> None:
        topic = self._sent.pop(number, None)
        if topic is None:
            return
        self.refused.pop(topic, None)
        if reason.is_failure:
            self.refused[topic] = str(reason)


@dataclass(slots=True)
class Retained:
    """
    What a broker has retained below a topic: the id of the *monitor*, or "", and the *energies* of meters (kWh).

    *mqtt5*: whether the broker speaks MQTT 5; *version* is its own name and version, "" if it does not tell.
    """

    mqtt5: bool
    version: str
    monitor: str
    energies: dict[str, float]


def read_retained(
    settings: MqttSettings,
    meters: Iterable[str],
    *,
    stopped: Callable[[], bool] = lambda: False,
    wake: socket.socket | None = None,
) -> Retained:
    """
    Read what the broker of *settings* has retained for *meters*, as a separate client that publishes nothing.

    Raises :exc:`BrokerError`.
    """
    try:
        return _read_retained(settings, meters, mqtt5=True, stopped=stopped, wake=wake)
    except OtherVersionError:
        return _read_retained(settings, meters, mqtt5=False, stopped=stopped, wake=wake)


def _read_retained(
    settings: MqttSettings,
    meters: Iterable[str],
    *,
    mqtt5: bool,
    stopped: Callable[[], bool],
    wake: socket.socket | None,
) -> Retained:
    found = Retained(mqtt5, "", "", {})
    topics = {f"{settings.topic}/{name}": name for name in meters}
    monitor, version = f"{settings.topic}/{MONITOR}", "$SYS/broker/version"
    came_s = time.monotonic()

    def take(topic: str, payload: bytes) -> None:
        nonlocal came_s
        came_s = time.monotonic()
        if topic == monitor:
            found.monitor = word(payload)
        elif topic == version:
            found.version = word(payload)
        elif (name := topics.get(topic)) and (energy := _energy(payload)) is not None:
            found.energies[name] = energy

    client_id = f"power_look_{secrets.token_hex(4)}"
    with Link(settings, client_id, mqtt5=mqtt5, stopped=stopped, wake=wake, on_message=take) as link:
        link.subscribe([monitor, *topics])
        with contextlib.suppress(BrokerError):  # not every broker has it, or shows it to everyone
            link.subscribe([version])
        # A broker handles requests in turn: with its second answer, everything retained has been sent or is on its way.
        came_s = begun_s = time.monotonic()
        while (quiet_s := came_s + QUIET_S - time.monotonic()) > 0 and came_s < begun_s + ANSWER_S and not stopped():
            link.turn(quiet_s)
    return found


def word(payload: bytes) -> str:
    """The beginning of *payload* as text that can be shown."""
    return "".join(c for c in payload[:MAX_WORD].decode("ascii", "replace") if c.isprintable())


def _energy(payload: bytes) -> float | None:
    """The energy in a retained state, in kWh; None if it has no credible one."""
    if len(payload) > MAX_STATE:
        return None
    try:
        energy = json.loads(payload)["energy_kwh"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(energy, bool) or not isinstance(energy, int | float) or not 0 <= energy < MAX_KWH:
        return None
    return energy


def _closing_socket() -> type:
    """A TLS socket that is closed if the handshake fails: the library loses track of it then."""
    import ssl

    class ClosingSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except BaseException:
                self.close()
                raise

    return ClosingSocket


def _words(error: Exception) -> str:
    """What went wrong with a connection, and what to do about it."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}: set verify_ssl to the file of its CA"
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error}: check port and ssl"
    if isinstance(error, socket.gaierror):
        return "no such host, or no network: check host"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:g} s"
    return str(getattr(error, "strerror", None) or error)
