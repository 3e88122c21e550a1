"""One answer of an HTTP server, read with a watch on its pace.

In comes urllib3's response, out come bytes, or an error that says in what way they stopped.
What was asked for, and whether it is worth another try, is not known here.
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

_SMALL = 64 * 1024  # bytes of a refusal that are read: its body may say why
_CHUNK = 256 * 1024
_LONGEST_NUMBER = 19  # digits: sizes are of 64 bits, and Python takes ever longer for longer ones


class BrokenOffError(NetworkError):
    """An answer did not come, or stopped before its end; another try may do."""


class Answer:
    """A status, headers, and a body that is read once.

    :param what: whose answer it is, for messages; whoever knows better may say so.
    :param redirected: it came from another origin than the one that was asked.
    """

    def __init__(
        self, response: BaseHTTPResponse, what: str, timeouts: Timeouts, *, redirected: bool
    ) -> None:
        self._response = response
        self.what = what
        self._pace = _Pace(timeouts)
        self.status = response.status
        self.redirected = redirected

    def header(self, name: str) -> str:
        """Return a header's value, empty when it is absent."""
        return str(self._response.headers.get(name, ""))

    def headers(self, name: str) -> list[str]:
        """Return every value of a header that may occur several times."""
        return [str(value) for value in self._response.headers.getlist(name)]

    @property
    def length(self) -> int | None:
        """The body's length in bytes, where the server says it."""
        return number(self.header("Content-Length"))

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes as they come, b"" at the end.

        :raises BrokenOffError: the connection broke, nothing came for too long, or too little.
        """
        started = time.monotonic()
        try:
            data = self._response.read1(size, decode_content=False) or b""
        except (exceptions.HTTPError, OSError) as error:
            self.close()
            raise BrokenOffError(f"broken off: {self.what}: {reason(error)}") from error
        if slow := self._pace.after(time.monotonic() - started, len(data)):
            self.close()
            raise BrokenOffError(f"broken off: {self.what}: {slow}")
        return data

    def whole(self, limit: int) -> bytes:
        """Return the whole body.

        :raises IntegrityError: it has more than `limit` bytes.
        :raises BrokenOffError: as `read`.
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

    def refusal(self) -> bytes:
        """Return what the server says of a failure, shortened; empty when that fails, too."""
        try:
            return self.whole(_SMALL)
        except (BrokenOffError, IntegrityError):
            return b""

    def close(self) -> None:
        """Give up the rest; the connection is used again if nothing is left on it."""
        self._response.close()


def number(text: str) -> int | None:
    """Return the number that a header's value is, None when it is none or beyond all sizes."""
    is_one = text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER
    return int(text) if is_one else None


class _Pace:
    """Bytes that came in the time that was spent waiting for them, window by window.

    The reader's own time does not count: an unpacker may be slower than a registry.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._waited = 0.0
        self._got = 0

    def after(self, waited: float, got: int) -> str:
        """Return what is wrong after one more read, empty when nothing is."""
        self._waited += waited
        self._got += got
        if self._waited < self._timeouts.rate_window:
            return ""
        if self._got < self._timeouts.min_rate * self._waited:
            wanted = f"want at least {self._timeouts.min_rate} bytes a second"
            return f"too slow: got {self._got} bytes in {self._waited:.3g} s, {wanted}"
        self._waited, self._got = 0.0, 0
        return ""
