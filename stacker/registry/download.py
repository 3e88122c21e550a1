"""A blob as a file that is fetched while it is read, and goes on where it broke off.

In comes a function that asks for the blob from some byte on, out come its bytes.  Which server
that is, and whether the bytes have the right digest, is not known here.
Source: RFC 9110, section 14 (Range, Content-Range, 206, 416).
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NetworkError
from stacker.registry.http.response import BrokenOffError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.registry.http.response import Answer
    from stacker.registry.ranges import Parts
    from stacker.registry.settings import Timeouts
    from stacker.stream.compression import Readable

    Fetch = Callable[[int], Answer]
    """Asks for the bytes from an offset on; at 0 without a range."""

_WELL = 64 * 1024  # bytes after which a transfer counts as going well again
_CHUNK = 256 * 1024
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class _UnusableRangeError(Exception):
    """The answer is not what the range asked for."""


class Transfer(io.RawIOBase):
    """A blob of `size` bytes; it is asked for at once, and ends after `size` bytes.

    :param what: the blob's name for messages.
    :param have: its first bytes, where there are some; then it is asked for the rest after them.
    :param move_on: has `fetch` ask another server from then on, and returns whether there is one.
    :param split: fetches what lies behind a position in several ranges, where that may be done.
    :raises IntegrityError: the server says that it has another size.
    :raises NetworkError: it broke off too often.
    """

    def __init__(
        self,
        fetch: Fetch,
        size: int,
        *,
        what: str,
        timeouts: Timeouts,
        have: Readable | None = None,
        move_on: Callable[[], bool] | None = None,
        split: Callable[[int], Parts | None] | None = None,
    ) -> None:
        self._fetch = fetch
        self._size = size
        self._what = what
        self._timeouts = timeouts
        self._answer: Answer | None = None
        self._position = self._well_at = self._until = 0
        self._failures = 0
        self._takes_ranges = True
        self._sum = 0
        self._have = have
        self._move_on = move_on
        self._split = split
        self._parts: Parts | None = None
        if size and have is None:
            self._connect()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill as much of `buffer` as comes, and return how much that is."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, all that are left when negative, b"" at the end.

        :raises NetworkError: it broke off too often.
        """
        if size is None or size < 0:
            return self.readall()
        while size and self._position < self._size:
            if self._have is not None:
                if data := self._from_before(self._have, size):
                    return data
            elif self._parts is not None:
                if data := self._from_parts(self._parts, size):
                    return data
            elif self._answer is None:
                self._connect()
            elif data := self._read(self._answer, size):
                return data
        return b""

    def close(self) -> None:
        """Give up what has not been read."""
        self._disconnect()
        if self._parts is not None:
            self._parts.close()
        super().close()

    def _from_before(self, have: Readable, size: int) -> bytes:
        """Return what was here before, nothing at its end."""
        data = have.read(min(size, self._size - self._position))
        if data:
            self._advance(data)
        else:
            self._have, self._well_at = None, self._position
        return data

    def _from_parts(self, parts: Parts, size: int) -> bytes:
        """Return what came in several ranges, nothing where they end."""
        data = parts.read(size)
        if data:
            self._advance(data)
        else:
            parts.close()
            self._parts, self._well_at = None, self._position
        return data

    def _advance(self, data: bytes) -> None:
        self._position += len(data)
        self._sum = _checksum(data, self._sum)

    def _read(self, answer: Answer, size: int) -> bytes:
        """Return what comes, or nothing when the answer broke off."""
        try:
            data = answer.read(min(size, self._until - self._position))
        except BrokenOffError as error:
            return self._failed(error.message)
        if not data:
            return self._failed(f"broken off: {self._what}: the body ended early")
        self._advance(data)
        if self._position == self._until:
            self._disconnect()
            if self._position < self._size:
                self._count()  # a range that was cut short is no failure, until it is a habit
        return data

    def _connect(self) -> None:
        """Have an answer that stands at our position, or count a failure."""
        split, self._split = self._split, None
        if split is not None:
            self._parts = split(self._position)
            if self._parts is not None:
                return
        if self._failures >= self._timeouts.attempts:
            self._give_up(f"broken off: {self._what}: got too many short ranges")
        asked = self._position if self._takes_ranges else 0
        self._answer = answer = self._fetch(asked)
        try:
            start, self._until = self._extent(answer, asked)
            if start < self._position:
                self._skip(answer)
        except _UnusableRangeError:
            self._takes_ranges = False
            self._failed(f"broken off: {self._what}: got another range than was asked for")
        except BrokenOffError as error:
            self._failed(error.message)

    def _extent(self, answer: Answer, asked: int) -> tuple[int, int]:
        """Return where an answer starts and ends."""
        if answer.status == 200:
            self._check_size(answer.length)
            return 0, self._size
        match = _RANGE.fullmatch(answer.header("Content-Range"))
        if not (asked and match):
            raise _UnusableRangeError
        start, last = int(match[1]), int(match[2])
        self._check_size(None if match[3] == "*" else int(match[3]))
        if start != asked or not start <= last < self._size:
            raise _UnusableRangeError
        return start, last + 1

    def _check_size(self, size: int | None) -> None:
        if size not in (None, self._size):
            self._disconnect()
            raise IntegrityError(
                f"wrong size: {self._what}: the registry says {size} bytes, want {self._size}"
            )

    def _skip(self, answer: Answer) -> None:
        """Read what has been read before, and see that it is the same.

        The blob's digest has the last word; a checksum says sooner, and of what, that it failed.
        """
        seen = checksum = 0
        while seen < self._position:
            data = answer.read(min(_CHUNK, self._position - seen))
            if not data:
                raise BrokenOffError(f"broken off: {self._what}: the body ended early")
            seen += len(data)
            checksum = _checksum(data, checksum)
        if checksum != self._sum:
            self._disconnect()
            raise IntegrityError(
                f"changed during the transfer: {self._what}: the first {seen} bytes differ from "
                "those that came before",
                hint="try again; if it happens again, the registry serves different bytes",
            )

    def _failed(self, message: str) -> bytes:
        """Count a failure and wait before the next try.

        :raises NetworkError: it was the last one, of the last server.
        """
        self._disconnect()
        self._count()
        if self._failures >= self._timeouts.attempts:
            self._give_up(message)
        else:
            self._timeouts.sleep(self._timeouts.pause(self._failures))
        return b""

    def _give_up(self, message: str) -> None:
        """Begin again with another server, if there is one.

        :raises NetworkError: there is none.
        """
        if self._move_on is None or not self._move_on():
            raise NetworkError(f"{message}; got {self._position} of {self._size} bytes")
        self._failures, self._takes_ranges = 0, True

    def _count(self) -> None:
        if self._position - self._well_at >= _WELL:
            self._failures, self._well_at = 0, self._position
        self._failures += 1

    def _disconnect(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def size_said(answer: Answer) -> int | None:
    """Return how many bytes there are in all, by what an answer with any of them says."""
    if answer.status == 200:
        return answer.length
    match = _RANGE.fullmatch(answer.header("Content-Range"))
    return int(match[3]) if match and match[3] != "*" else None


def _checksum(data: bytes, before: int) -> int:
    from isal import isal_zlib  # ten times faster than a digest, and it proves nothing

    return isal_zlib.crc32(data, before)
