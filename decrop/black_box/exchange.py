"""HTTP connections that keep one deadline, and one length, over a whole exchange.

Timeouts of sockets begin anew with every byte, so a server that sends one now and then, in headers,
trailers or `100 Continue`, would hold its client for ever.
"""

import http.client
import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection


class TooLongError(Exception):
    """An answer is longer than any that could be right."""


class Exchange:
    """What is left of the time and the length of one request and its answer."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        """Begin now; `most_bytes` counts whatever comes, headers too."""
        self._deadline = time.monotonic() + seconds
        self._bytes = most_bytes

    @property
    def is_over(self) -> bool:
        """Whether the time is."""
        return time.monotonic() >= self._deadline

    def keep(self, sock: socket.socket) -> None:
        """Let a socket wait no longer than is left.

        Raises:
            TimeoutError: nothing is.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)

    def count(self, received: int) -> None:
        """Count bytes that came.

        Raises:
            TooLongError: there are too many.
        """
        self._bytes -= received
        if self._bytes < 0:
            raise TooLongError


_current: ContextVar[Exchange] = ContextVar("exchange")


@contextmanager
def during(exchange: Exchange) -> Iterator[None]:
    """Let requests of this thread, and the answers that they return, keep to an exchange."""
    token = _current.set(exchange)
    try:
        yield
    finally:
        _current.reset(token)


class _Received(io.RawIOBase):
    def __init__(self, raw: Any, sock: socket.socket, exchange: Exchange) -> None:
        self._raw, self._socket, self._exchange = raw, sock, exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._exchange.keep(self._socket)
        received: int | None = self._raw.readinto(buffer)
        self._exchange.count(received or 0)
        return received

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Received(self.fp.detach(), sock, _current.get()))

    def begin(self) -> None:
        super().begin()
        if self.msg.defects:
            # urllib3 would write them to a log, as they came.
            raise http.client.HTTPException("headers that are none")


class _Bounded:
    response_class = _Response
    sock: socket.socket | None

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        assert self.sock is not None
        _current.get().keep(self.sock)
        super().send(data)  # type: ignore[misc]


class _Connection(_Bounded, HTTPConnection):  # type: ignore[misc]
    pass


class _TlsConnection(_Bounded, HTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class BoundedPools(urllib3.PoolManager):
    """Connections whose requests are sent, and answered, `during` an exchange."""

    def __init__(self, **options: Any) -> None:
        """Take the options of `urllib3.PoolManager`."""
        super().__init__(**options)
        self.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
