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
from typing import Any

#: As much of an answer's body as is read, in bytes: only the beginning of an error's is shown. Twice that is the most
#: that an answer may have before its body is read so far, headers and the marks of chunks among it.
MOST_READ = 65536
MOST_ANSWER = 2 * MOST_READ

#: As much as is sent in one go, in bytes: with TLS, each has the time that is left.
SENT_AT_ONCE = 16384


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

    def left_s(self) -> float:
        """How much of the time is left, in s. Raises :exc:`TimeoutError` where none is."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def putrequest(self, *args: Any, **options: Any) -> None:
        """As the library's: a request begins."""
        self._end_s = time.monotonic() + self._timeout_s
        super().putrequest(*args, **options)

    def connect(self) -> None:
        """As the library's, with one deadline for all addresses of the host."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for number, (family, kind, protocol, _, address) in enumerate(found, 1):
            sock = socket.socket(family, kind, protocol)
            try:
                # One that does not answer leaves the others their share.
                sock.settimeout(self.left_s() / (len(found) - number + 1))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._context is not None:
                    sock.settimeout(self.left_s())
                    sock = self._context.wrap_socket(sock, server_hostname=self.host)
            except (OSError, ValueError):  # ValueError: a name that TLS can't ask for
                sock.close()
                if number == len(found):
                    raise
            else:
                self.sock = sock
                return

    def send(self, data: Any) -> None:
        """As the library's, of bytes."""
        if self.sock is None:
            self.connect()
        for at in range(0, len(data), SENT_AT_ONCE):
            self.sock.settimeout(self.left_s())
            self.sock.sendall(data[at : at + SENT_AT_ONCE])

    def getresponse(self) -> http.client.HTTPResponse:
        """As the library's."""
        self.response_class = functools.partial(_Answer, self)  # type: ignore[assignment]
        return super().getresponse()


def retry_after_s(answer: http.client.HTTPResponse) -> float:
    """How long the server asks to be left alone, in s; 0 where it does not, or names a date, by a clock of its own."""
    said = answer.getheader("Retry-After") or ""
    return float(said) if re.fullmatch("[0-9]{1,9}", said) else 0.0


class _Answer(http.client.HTTPResponse):
    """An answer that is read through :class:`_Bounded`."""

    def __init__(self, connection: Connection, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp: io.BufferedReader = io.BufferedReader(_Bounded(connection, sock, self.fp.detach()))


class _Bounded(io.RawIOBase):
    """What *sock* sends, read by *raw*, until the deadline of *connection* and up to MOST_ANSWER bytes."""

    def __init__(self, connection: Connection, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._connection, self._sock, self._raw = connection, sock, raw
        self._left = MOST_ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._connection.left_s())
        read = self._raw.readinto(buffer)
        self._left -= read or 0
        if self._left < 0:
            raise http.client.HTTPException(f"an answer of more than {MOST_ANSWER:,} bytes")
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()
