"""Connections whose answers must get on, however small the pieces they come in.

In come seconds, out come classes for urllib3's pools.  Its own time-outs are for each wait: a
server that sends a byte of its headers now and then stays within all of them, and for ever.
How fast a body must be, `answer` knows; here it is about what http.client reads in one go, the
headers, and the line before each chunk of a body (RFC 9112, section 7.1).
"""

from __future__ import annotations

import io
import time
from functools import partial
from http.client import HTTPResponse
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


def pools(seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """Return the classes of pools, by scheme, whose answers get on.

    :param seconds: from the first byte of what is read in one go to its last.
    """
    answered = partial(_Response, seconds=seconds)

    class Plain(HTTPConnection):
        response_class = answered  # type: ignore[assignment]

    class Secure(HTTPSConnection):
        response_class = answered  # type: ignore[assignment]

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _Response(HTTPResponse):
    def __init__(self, *args: Any, seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watched = _Watched(self.fp.detach(), seconds)
        self.fp = io.BufferedReader(self._watched)

    def read1(self, n: int = -1) -> bytes:
        self._watched.start()
        return super().read1(n)


class _Watched(io.RawIOBase):
    """What comes from a socket until that takes too long."""

    def __init__(self, socket: io.RawIOBase, seconds: float) -> None:
        self._socket = socket
        self._seconds = seconds
        self._end: float | None = None

    def start(self) -> None:
        """Count from the next byte on; how long that may take is for the socket to say."""
        self._end = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill as much of `buffer` as comes.

        :raises TimeoutError: it has been coming for too long.
        """
        got = self._socket.readinto(buffer)
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._seconds
        elif now > self._end:
            raise TimeoutError
        return got

    def close(self) -> None:
        self._socket.close()
        super().close()
