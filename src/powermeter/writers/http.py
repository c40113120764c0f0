"""
An HTTP connection, based on Python's own library, on which no server can make a writer wait or use up its memory.

The library's timeout applies to each byte, and it reads some parts of an answer
without any limit: trailers, 100 Continue, a chunk of -1. Here a request has one
deadline, from connecting to the last byte of its answer, and an answer has a
maximum size. Both apply to the bytes on the wire. With TLS these are its records,
and a server can send any number of records that contain no part of an answer.
"""

import base64
import contextlib
import http.client
import io
import re
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from powermeter import __version__
from powermeter.settings.values import Secret

#: How much of an answer's body is read, in bytes: only the beginning of an error is shown. An answer may have twice as
#: many bytes on the wire before that much of its body is read, including headers, chunk sizes and the records of TLS.
#: The same limit applies to a TLS handshake.
MAX_READ = 65536
MAX_ANSWER = 2 * MAX_READ

#: How much is sent at a time, in bytes: with TLS, each part has the time that is left.
SENT_AT_ONCE = 16384

#: How much is received at a time below TLS, in bytes: about one record (RFC 8446, 5.2).
RECEIVED_AT_ONCE = 16384

#: Sent with every request: some firewalls refuse clients that do not identify themselves.
USER_AGENT = f"power/{__version__}"

#: OpenSSL's errors for an answer that is not TLS; which one depends on the first bytes and on OpenSSL's version.
NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"}

#: How a TLS server's alert begins (RFC 8446, 5.1), as Python shows it: some servers send one in answer to plain HTTP.
TLS_ALERT = r"\x15\x03"


class Cause(NamedTuple):
    """Why no answer came, in words, and which entry of a writer's ``ADVICE`` helps; "" for none."""

    text: str
    advice: str = ""


def cause(error: BaseException, timeout_s: float) -> Cause:
    """Why a request that may take *timeout_s* failed with *error*."""
    if isinstance(error, _AddressesError):
        causes = [(address, cause(each, timeout_s)) for address, each in error.failed]
        advice = next((found.advice for _, found in causes if found.advice), "")
        return Cause("; ".join(f"{address}: {found.text}" for address, found in causes), advice)
    if isinstance(error, TimeoutError):
        # The timeout of the whole request, or of one of several addresses; the kernel's own timeout has a text.
        return Cause(error.strerror or f"no answer within {timeout_s:g} s")
    if isinstance(error, ssl.SSLCertVerificationError):
        name = error.verify_code in (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        text = f"its certificate can't be verified: {error.verify_message.rstrip('.')}"
        return Cause(text, "name" if name else "certificate")
    if isinstance(error, ssl.SSLError) and error.reason in NOT_TLS:
        return Cause("this port does not speak TLS", "no tls")
    if isinstance(error, http.client.BadStatusLine) and TLS_ALERT in str(error):
        return Cause("its answer is TLS", "tls")
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return Cause(text or type(error).__name__)


class _AddressesError(OSError):
    """None of a host's addresses answered, for different reasons: *failed*."""

    def __init__(self, failed: list[tuple[str, Exception]]) -> None:
        self.failed = failed
        super().__init__("; ".join(f"{address}: {error}" for address, error in failed))


class _Allowance:
    """How much time a request has left, and how many bytes its answer may still have."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end_s = 0.0
        self._bytes = 0

    def begin(self) -> None:
        """A request begins."""
        self._end_s = time.monotonic() + self._timeout_s
        self.begin_answer()

    def begin_answer(self) -> None:
        """What is received from now on belongs to another answer."""
        self._bytes = MAX_ANSWER

    def left_s(self) -> float:
        """How much time is left, in s. Raises :exc:`TimeoutError` if none is."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def take(self, received: int) -> None:
        """Count *received* bytes. Raises :exc:`http.client.HTTPException` if these are too many."""
        self._bytes -= received
        if self._bytes < 0:
            raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER:,} bytes")


class _Socket(socket.socket):
    """A socket that reads only for as long, and only as much, as its allowance permits."""

    def __init__(self, allowance: _Allowance, *of: int) -> None:
        super().__init__(*of)
        self._allowance = allowance

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:
        self.settimeout(self._allowance.left_s())
        received = super().recv_into(buffer, nbytes, flags)
        self._allowance.take(received)
        return received

    def ends(self) -> bool:
        """Whether something can be read."""
        return bool(select.select([self], [], [], 0)[0])


class _TlsSocket(_Socket):
    """
    TLS on the connection of *sock*, which it takes over; the handshake is done.

    Python's own TLS socket goes on reading within one call for as long as records arrive: a server that sends only
    session tickets blocks it for ever, whatever its timeout. Here each read from the network has the time that is left.
    """

    def __init__(self, allowance: _Allowance, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        super().__init__(allowance, sock.family, sock.type, sock.proto, sock.detach())
        try:
            self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=name)
            self._do(self._tls.do_handshake)
        except BaseException:
            self.close()
            raise
        allowance.begin_answer()

    def recv_into(self, buffer: Any, nbytes: int = 0, _flags: int = 0, /) -> int:
        try:
            return int(self._do(self._tls.read, nbytes or len(buffer), buffer))
        except ssl.SSLEOFError:
            return 0  # many servers hang up without closing TLS; HTTP shows whether the answer is complete

    def sendall(self, data: Any, _flags: int = 0, /) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += self._do(self._tls.write, view[sent:])

    def ends(self) -> bool:
        return self._received.pending > 0 or super().ends()

    def _do(self, step: Callable[..., Any], *given: Any) -> Any:
        """Do a *step* of TLS, sending and receiving whatever it needs, and return its result."""
        while True:
            try:
                done = step(*given)
            except ssl.SSLWantReadError:
                self._send()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._send()  # an alert tells the server why
                raise
            else:
                self._send()
                return done
            self._receive()

    def _send(self) -> None:
        if self._to_send.pending:
            self.settimeout(self._allowance.left_s())
            super().sendall(self._to_send.read())

    def _receive(self) -> None:
        piece = bytearray(RECEIVED_AT_ONCE)
        if received := super().recv_into(piece):
            self._received.write(memoryview(piece)[:received])
        else:
            self._received.write_eof()


class Connection(http.client.HTTPConnection):
    """
    A connection to *host*, with TLS if there is a *context*; each request takes at most *timeout* s as a whole.

    The system looks up the host's name, with a limit of its own.
    """

    def __init__(
        self, host: str, port: int | None = None, *, timeout: float, context: ssl.SSLContext | None = None
    ) -> None:
        if context is not None:
            self.default_port = http.client.HTTPS_PORT
        super().__init__(host, port)
        self._allowance = _Allowance(timeout)
        self._context = context
        #: Why the request could not be sent completely; there may be an answer all the same.
        self._unsent: ConnectionError | None = None
        # What the server calls itself: an address's zone and a name's final dot are only used to look it up.
        self._name = self.host.partition("%")[0].removesuffix(".")

    def has_ended(self) -> bool:
        """
        Whether the connection kept from the last request can't be used again.

        Anything to read before a request is sent means the end: a server or router has closed it.
        """
        return isinstance(self.sock, _Socket) and self.sock.ends()

    def putrequest(self, method: str, url: str, *_args: Any, **_options: Any) -> None:
        """As in the library; a request begins."""
        self._unsent = None
        self._allowance.begin()
        super().putrequest(method, url, skip_host=True, skip_accept_encoding=True)
        host = f"[{self._name}]" if ":" in self._name else self._name
        self.putheader("Host", host if self.port == self.default_port else f"{host}:{self.port}")
        self.putheader("Accept-Encoding", "identity")

    def connect(self) -> None:
        """As in the library, with one deadline for all addresses of the host; the first that answers is used."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        failed: list[tuple[str, Exception]] = []
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            try:
                sock = _Socket(self._allowance, family, kind, protocol)
                self.sock = self._connected(sock, address, len(found) - tried)
            # OSError from socket(), too: a name may have an IPv6 address even if the kernel has no IPv6. ValueError: a
            # name that is not allowed in TLS. HTTPException: a handshake without an end.
            except (OSError, ValueError, http.client.HTTPException) as error:
                failed.append((str(address[0]), error))
            else:
                return
        if len({str(error) for _, error in failed}) > 1:
            raise _AddressesError(failed)
        raise failed[0][1]

    def _connected(self, sock: _Socket, address: Any, shares: int) -> _Socket:
        try:
            # An address that does not answer leaves the others their share of the time.
            sock.settimeout(self._allowance.left_s() / shares)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock = _TlsSocket(self._allowance, sock, self._context, self._name)
        except BaseException:
            sock.close()
            raise
        return sock

    def send(self, data: Any) -> None:
        """As in the library, for bytes."""
        if self.sock is None:
            self.connect()
        try:
            for at in range(0, len(data), SENT_AT_ONCE):
                self.sock.settimeout(self._allowance.left_s())
                self.sock.sendall(data[at : at + SENT_AT_ONCE])
        except (BrokenPipeError, ConnectionResetError) as error:
            # A server that refuses the request may answer before it has read all of it, and hang up.
            self._unsent = error

    def getresponse(self) -> http.client.HTTPResponse:
        """As in the library."""
        self.response_class = _Answer
        try:
            return super().getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise (self._unsent or error) from None


def basic(user: str, password: Secret) -> Secret:
    """The Authorization header of Basic authentication (RFC 7617)."""
    return Secret("Basic " + base64.b64encode(f"{user}:{password.reveal()}".encode()).decode())


def retry_after_s(answer: http.client.HTTPResponse) -> float:
    """The pause that the server asks for, in s; 0 if it asks for none, or names a date by its own clock."""
    found = answer.getheader("Retry-After") or ""
    return float(found) if re.fullmatch("[0-9]{1,9}", found) else 0.0


class _Answer(http.client.HTTPResponse):
    """The library's response, read through :class:`_UntilReset`."""

    def __init__(self, sock: socket.socket, *given: Any, **options: Any) -> None:
        super().__init__(sock, *given, **options)
        self.fp: io.BufferedReader = io.BufferedReader(_UntilReset(self.fp.detach(), self))


class _UntilReset(io.RawIOBase):
    """Reads *answer* from *raw*; if it is an error, a reset of the connection counts as its end."""

    def __init__(self, raw: io.RawIOBase, answer: _Answer) -> None:
        self._raw, self._answer = raw, answer

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        try:
            return self._raw.readinto(buffer)
        except ConnectionResetError:
            # The server did not read the whole request; its answer has arrived.
            if not isinstance(self._answer.status, int) or self._answer.status < 400:
                raise
            return 0

    def close(self) -> None:
        self._raw.close()
        super().close()
