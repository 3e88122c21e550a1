"""One HTTP response, with a lower limit on the rate of its body.

A response of urllib3 comes in; its bytes go out, or an error that says why the transfer stopped.
This module must not decide whether to retry.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from urllib3 import exceptions

from stacker.errors import IntegrityError, NetworkError
from stacker.registry.http.failures import reason

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

    from stacker.registry.settings import Timeouts

_SMALL = 64 * 1024  # bytes of an error response that are read: the body may say why
_CHUNK = 256 * 1024
_LONGEST_NUMBER = 19  # digits: sizes have 64 bits, and longer ones cost Python quadratic time


class TransferInterruptedError(NetworkError):
    """A response did not arrive, or ended early; another attempt may succeed."""


class Response:
    """A status, headers, and a body that can be read once.

    :param what: the object's name for messages; a caller may replace it by a better one.
    :param redirected: another origin than the requested one sent the response.
    """

    def __init__(
        self, raw: BaseHTTPResponse, what: str, timeouts: Timeouts, *, redirected: bool
    ) -> None:
        self._raw = raw
        self.what = what
        self._rate = _Rate(timeouts)
        self.status = raw.status
        self.redirected = redirected

    def header(self, name: str) -> str:
        """Return a header's value, empty if the header is absent."""
        return str(self._raw.headers.get(name, ""))

    def headers(self, name: str) -> list[str]:
        """Return every value of a header that may occur several times."""
        return [str(value) for value in self._raw.headers.getlist(name)]

    @property
    def length(self) -> int | None:
        """The body's length in bytes, None without a Content-Length."""
        return parse_number(self.header("Content-Length"))

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, as many as have arrived, b"" at the end.

        :raises TransferInterruptedError: the connection broke, timed out or was too slow.
        """
        started = time.monotonic()
        try:
            data = self._raw.read1(size, decode_content=False) or b""
        except (exceptions.HTTPError, OSError) as error:
            self.close()
            raise TransferInterruptedError(
                f"transfer interrupted: {self.what}: {reason(error)}"
            ) from error
        if fault := self._rate.add(time.monotonic() - started, len(data)):
            self.close()
            raise TransferInterruptedError(f"transfer interrupted: {self.what}: {fault}")
        return data

    def read_all(self, limit: int) -> bytes:
        """Return the whole body.

        :raises IntegrityError: the body exceeds `limit` bytes.
        :raises TransferInterruptedError: see `read`.
        """
        parts: list[bytes] = []
        got = self.length or 0
        while got <= limit and (part := self.read(_CHUNK)):
            parts.append(part)
            got = sum(map(len, parts))
        if got > limit:
            self.close()
            raise IntegrityError(
                f"document too large: {self.what}: got {got} bytes or more, want at most {limit}"
            )
        return b"".join(parts)

    def drain(self) -> bytes:
        """Read the rest of a small body, so that the connection can be reused.

        :returns: the body; empty if it is too large or does not arrive.
        """
        try:
            return self.read_all(_SMALL)
        except (TransferInterruptedError, IntegrityError):
            return b""

    def close(self) -> None:
        """Discard the rest of the body; the connection is reused if no byte is left."""
        self._raw.close()


def parse_number(text: str) -> int | None:
    """Return the decimal number in a header's value, None if it is malformed or exceeds 64 bits."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER
    return int(text) if is_number else None


class _Rate:
    """The transfer rate over the time that was spent in reads, measured window by window.

    The caller's own time does not count: unpacking may be slower than the registry.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._waited = 0.0
        self._got = 0

    def add(self, waited: float, got: int) -> str:
        """Count one more read; return the fault if the transfer is too slow, else empty."""
        self._waited += waited
        self._got += got
        if self._waited < self._timeouts.rate_window:
            return ""
        if self._got < self._timeouts.min_rate * self._waited:
            want = f"want at least {self._timeouts.min_rate} bytes per second"
            return f"too slow: got {self._got} bytes in {self._waited:.3g} s, {want}"
        self._waited, self._got = 0.0, 0
        return ""
