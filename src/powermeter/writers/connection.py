"""
An HTTP connection of Python's own library on which no server can make a writer wait, or grow.

The library's timeout is that of each byte, and some of an answer it reads
without an end: trailers, 100 Continue, a chunk of -1. Here a request has one
deadline, from connecting to the last byte of its answer, and an answer a size.
"""

import functools
import http.client
import io
import re
import socket
import ssl
import time
from typing import Any, NamedTuple

from powermeter import __version__

#: As much of an answer's body as is read, in bytes: only the beginning of an error's is shown. Twice that is the most
#: that an answer may have before its body is read so far, headers and the marks of chunks among it.
MOST_READ = 65536
MOST_ANSWER = 2 * MOST_READ

#: As much as is sent in one go, in bytes: with TLS, each has the time that is left.
SENT_AT_ONCE = 16384

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
        self._timeout_s = timeout
        self._context = context
        self._end_s = 0.0
        #: Why the request could not be sent whole; an answer may be there all the same.
        self._unsent: ConnectionError | None = None
        # As the server calls itself: the zone of an address and the last dot of a name are for looking it up alone.
        self._name = self.host.partition("%")[0].removesuffix(".")

    def left_s(self) -> float:
        """How much of the time is left, in s. Raises :exc:`TimeoutError` where none is."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def putrequest(self, method: str, url: str, *_args: Any, **_options: Any) -> None:
        """As the library's: a request begins."""
        self._end_s, self._unsent = time.monotonic() + self._timeout_s, None
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
                self.sock = self._connected(socket.socket(family, kind, protocol), address, len(found) - tried)
            # OSError of socket() too: a kernel without IPv6 knows names that have such an address. ValueError: a name
            # that TLS can't ask for.
            except (OSError, ValueError) as error:
                failed.append((str(address[0]), error))
            else:
                return
        if len({str(error) for _, error in failed}) > 1:
            raise _AddressesError(failed)
        raise failed[0][1]

    def _connected(self, sock: socket.socket, address: Any, shares: int) -> socket.socket:
        try:
            # One that does not answer leaves the others their share.
            sock.settimeout(self.left_s() / shares)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock.settimeout(self.left_s())
                sock = self._context.wrap_socket(sock, server_hostname=self._name)
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
                self.sock.settimeout(self.left_s())
                self.sock.sendall(data[at : at + SENT_AT_ONCE])
        except (BrokenPipeError, ConnectionResetError) as error:
            # One that does not want the request answers before it has read all of it, and hangs up.
            self._unsent = error

    def getresponse(self) -> http.client.HTTPResponse:
        """As the library's."""
        self.response_class = functools.partial(_Answer, self)  # type: ignore[assignment]
        try:
            return super().getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise (self._unsent or error) from None


def retry_after_s(answer: http.client.HTTPResponse) -> float:
    """How long the server asks to be left alone, in s; 0 where it does not, or names a date, by a clock of its own."""
    said = answer.getheader("Retry-After") or ""
    return float(said) if re.fullmatch("[0-9]{1,9}", said) else 0.0


class _Answer(http.client.HTTPResponse):
    """An answer that is read through :class:`_Bounded`."""

    def __init__(self, connection: Connection, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp: io.BufferedReader = io.BufferedReader(_Bounded(connection, sock, self.fp.detach(), self))


class _Bounded(io.RawIOBase):
    """What *sock* sends as *answer*, read by *raw*, until the deadline of *connection* and up to MOST_ANSWER bytes."""

    def __init__(self, connection: Connection, sock: socket.socket, raw: io.RawIOBase, answer: _Answer) -> None:
        self._connection, self._sock, self._raw, self._answer = connection, sock, raw, answer
        self._left = MOST_ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._connection.left_s())
        try:
            read = self._raw.readinto(buffer)
        except ConnectionResetError:
            # The end of an error from a server that did not read the whole request: what it said is there.
            if not isinstance(self._answer.status, int) or self._answer.status < 400:
                raise
            read = 0
        self._left -= read or 0
        if self._left < 0:
            raise http.client.HTTPException(f"an answer of more than {MOST_ANSWER:,} bytes")
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()
