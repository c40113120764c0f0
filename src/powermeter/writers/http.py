"""
An HTTP connection of Python's own library on which no server can make a writer wait, or grow.

The library's timeout is that of each byte, and some of an answer it reads
without an end: trailers, 100 Continue, a chunk of -1. Here a request has one
deadline, from connecting to the last byte of its answer, and an answer a size.
Both apply to the bytes on the wire. With TLS these are its records, and a
server can send any number of records that carry nothing of an answer.
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

#: As much of an answer's body as is read, in bytes: only the beginning of an error's is shown. Twice that is the most
#: that an answer may have on the wire before its body is read so far: headers, the marks of chunks and the records of
#: TLS included. A handshake of TLS may have as much.
MAX_READ = 65536
MAX_ANSWER = 2 * MAX_READ

#: As much as is sent in one go, in bytes: with TLS, each has the time that is left.
SENT_AT_ONCE = 16384

#: As much as is received in one go below TLS, in bytes: about one record (RFC 8446, 5.2).
RECEIVED_AT_ONCE = 16384

#: Sent with every request: some firewalls refuse a client that does not say what it is.
USER_AGENT = f"power/{__version__}"

#: What OpenSSL calls the first bytes of an answer that is not TLS, as it depends on the bytes and on its version.
NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"}

#: How a TLS server's alert begins (RFC 8446, 5.1), as Python shows it: some send one to a client that speaks http.
TLS_ALERT = r"\x15\x03"


class Cause(NamedTuple):
    """Why no answer came, in words, and which of the advice of a writer helps; "" for none."""

    text: str
    advice: str = ""


def cause(error: BaseException, timeout_s: float) -> Cause:
    """Why a request that may take *timeout_s* failed with *error*."""
    if isinstance(error, _AddressesError):
        causes = [(address, cause(each, timeout_s)) for address, each in error.failed]
        advice = next((found.advice for _, found in causes if found.advice), "")
        return Cause("; ".join(f"{address}: {found.text}" for address, found in causes), advice)
    if isinstance(error, TimeoutError):
        # Of the whole request, or of one of several addresses; the kernel's own has a text.
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
    """None of several addresses of a host answered, for more than one reason: *failed*."""

    def __init__(self, failed: list[tuple[str, Exception]]) -> None:
        self.failed = failed
        super().__init__("; ".join(f"{address}: {error}" for address, error in failed))


class _Allowance:
    """How much time a request has left, and how many bytes its answer."""

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
        """How much of the time is left, in s. Raises :exc:`TimeoutError` where none is."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def take(self, received: int) -> None:
        """Count so many bytes. Raises :exc:`http.client.HTTPException` if that is too many."""
        self._bytes -= received
        if self._bytes < 0:
            raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER:,} bytes")


class _Socket(socket.socket):
    """A socket that reads only as long and as much as its allowance permits."""

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
    session tickets holds it for ever, whatever its timeout. Here every read from the network has the time that is left.
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
            return 0  # many servers hang up without closing TLS; HTTP knows whether the answer is complete

    def sendall(self, data: Any, _flags: int = 0, /) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += self._do(self._tls.write, view[sent:])

    def ends(self) -> bool:
        return self._received.pending > 0 or super().ends()

    def _do(self, step: Callable[..., Any], *given: Any) -> Any:
        """Return what *step* of TLS gives, receiving and sending what it needs."""
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
    To *host*, by TLS with a *context*; each request as a whole takes *timeout* s at most.

    What looks up the host's name is the system's, and has a limit of its own.
    """

    def __init__(
        self, host: str, port: int | None = None, *, timeout: float, context: ssl.SSLContext | None = None
    ) -> None:
        if context is not None:
            self.default_port = http.client.HTTPS_PORT
        super().__init__(host, port)
        self._allowance = _Allowance(timeout)
        self._context = context
        #: Why the request could not be sent whole; an answer may be there all the same.
        self._unsent: ConnectionError | None = None
        # As the server calls itself: the zone of an address and the last dot of a name are for looking it up alone.
        self._name = self.host.partition("%")[0].removesuffix(".")

    def has_ended(self) -> bool:
        """
        Whether the connection kept from the last request can't be used again.

        Anything to read before a request is sent means the end: a server or router has closed it.
        """
        return isinstance(self.sock, _Socket) and self.sock.ends()

    def putrequest(self, method: str, url: str, *_args: Any, **_options: Any) -> None:
        """As the library's: a request begins."""
        self._unsent = None
        self._allowance.begin()
        super().putrequest(method, url, skip_host=True, skip_accept_encoding=True)
        host = f"[{self._name}]" if ":" in self._name else self._name
        self.putheader("Host", host if self.port == self.default_port else f"{host}:{self.port}")
        self.putheader("Accept-Encoding", "identity")

    def connect(self) -> None:
        """As the library's, with one deadline for all addresses of the host; the first that answers is taken."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        failed: list[tuple[str, Exception]] = []
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            try:
                sock = _Socket(self._allowance, family, kind, protocol)
                self.sock = self._connected(sock, address, len(found) - tried)
            # OSError of socket() too: a kernel without IPv6 knows names that have such an address. ValueError: a name
            # that TLS can't ask for. HTTPException: a handshake without an end.
            except (OSError, ValueError, http.client.HTTPException) as error:
                failed.append((str(address[0]), error))
            else:
                return
        if len({str(error) for _, error in failed}) > 1:
            raise _AddressesError(failed)
        raise failed[0][1]

    def _connected(self, sock: _Socket, address: Any, shares: int) -> _Socket:
        try:
            # One that does not answer leaves the others their share.
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
        """As the library's, of bytes."""
        if self.sock is None:
            self.connect()
        try:
            for at in range(0, len(data), SENT_AT_ONCE):
                self.sock.settimeout(self._allowance.left_s())
                self.sock.sendall(data[at : at + SENT_AT_ONCE])
        except (BrokenPipeError, ConnectionResetError) as error:
            # One that does not want the request answers before it has read all of it, and hangs up.
            self._unsent = error

    def getresponse(self) -> http.client.HTTPResponse:
        """As the library's."""
        self.response_class = _Answer
        try:
            return super().getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise (self._unsent or error) from None


def basic(user: str, password: Secret) -> Secret:
    """The header Authorization of Basic authentication (RFC 7617)."""
    return Secret("Basic " + base64.b64encode(f"{user}:{password.reveal()}".encode()).decode())


def retry_after_s(answer: http.client.HTTPResponse) -> float:
    """How long the server asks to be left alone, in s; 0 where it does not, or names a date, by a clock of its own."""
    said = answer.getheader("Retry-After") or ""
    return float(said) if re.fullmatch("[0-9]{1,9}", said) else 0.0


class _Answer(http.client.HTTPResponse):
    """The library's answer, read through :class:`_UntilReset`."""

    def __init__(self, sock: socket.socket, *given: Any, **options: Any) -> None:
        super().__init__(sock, *given, **options)
        self.fp: io.BufferedReader = io.BufferedReader(_UntilReset(self.fp.detach(), self))


class _UntilReset(io.RawIOBase):
    """Reads *answer* from *raw*; a reset of the connection counts as the end of an error."""

    def __init__(self, raw: io.RawIOBase, answer: _Answer) -> None:
        self._raw, self._answer = raw, answer

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        try:
            return self._raw.readinto(buffer)
        except ConnectionResetError:
            # The server did not read the whole request; what it answered has arrived.
            if not isinstance(self._answer.status, int) or self._answer.status < 400:
                raise
            return 0

    def close(self) -> None:
        self._raw.close()
        super().close()
