"""A blob as a file that is downloaded while it is read, and that resumes after an interruption.

A function that requests the blob from an offset comes in; the blob's bytes go out.  The caller
chooses the server and verifies the digest.
Source: RFC 9110, section 14 (Range, Content-Range, 206, 416).
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NetworkError
from stacker.registry.http.response import TransferInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.registry.http.response import Response
    from stacker.registry.ranges import ParallelRanges
    from stacker.registry.settings import Timeouts
    from stacker.stream.compression import Readable

    Fetch = Callable[[int], Response]
    """Requests the bytes from an offset; offset 0 is requested without a range."""

_PROGRESS = 64 * 1024  # bytes after which earlier failures no longer count
_CHUNK = 256 * 1024
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class _UnusableRangeError(Exception):
    """The response has another range than the requested one."""


class BlobDownload(io.RawIOBase):
    """A blob of `size` bytes, as a raw file; the first request is sent at once.

    :param what: the blob's name for messages.
    :param have: the blob's first bytes from an earlier download; the request then asks for the
        bytes after them, once they have been read.
    :param next_mirror: makes `fetch` use the next server; returns False if there is none.
    :param split: requests the bytes from an offset in parallel ranges, or returns None.
    :raises IntegrityError: the server announces another size.
    :raises NetworkError: the transfer was interrupted too often.
    """

    def __init__(
        self,
        fetch: Fetch,
        size: int,
        *,
        what: str,
        timeouts: Timeouts,
        have: Readable | None = None,
        next_mirror: Callable[[], bool] | None = None,
        split: Callable[[int], ParallelRanges | None] | None = None,
    ) -> None:
        self._fetch = fetch
        self._size = size
        self._what = what
        self._timeouts = timeouts
        self._response: Response | None = None
        self._position = self._last_progress = self._end = 0
        self._failures = 0
        self._has_ranges = True
        self._checksum = 0
        self._have = have
        self._next_mirror = next_mirror
        self._split = split
        self._ranges: ParallelRanges | None = None
        if size and have is None:
            self._connect()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Read bytes into `buffer`, and return how many."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, all that are left if negative, b"" at the end.

        :raises NetworkError: the transfer was interrupted too often.
        """
        if size is None or size < 0:
            return self.readall()
        while size and self._position < self._size:
            if self._have is not None:
                if data := self._read_earlier(self._have, size):
                    return data
            elif self._ranges is not None:
                if data := self._read_ranges(self._ranges, size):
                    return data
            elif self._response is None:
                self._connect()
            elif data := self._read_response(self._response, size):
                return data
        return b""

    def close(self) -> None:
        """Close the connections; unread bytes are discarded."""
        self._disconnect()
        if self._ranges is not None:
            self._ranges.close()
        super().close()

    def _read_earlier(self, have: Readable, size: int) -> bytes:
        """Return bytes of the earlier download, empty at its end."""
        data = have.read(min(size, self._size - self._position))
        if data:
            self._advance(data)
        else:
            self._have, self._last_progress = None, self._position
        return data

    def _read_ranges(self, ranges: ParallelRanges, size: int) -> bytes:
        """Return bytes of the parallel ranges, empty where they end."""
        data = ranges.read(size)
        if data:
            self._advance(data)
        else:
            ranges.close()
            self._ranges, self._last_progress = None, self._position
        return data

    def _advance(self, data: bytes) -> None:
        self._position += len(data)
        self._checksum = _crc32(data, self._checksum)

    def _read_response(self, response: Response, size: int) -> bytes:
        """Return bytes of the response, empty after an interruption."""
        try:
            data = response.read(min(size, self._end - self._position))
        except TransferInterruptedError as error:
            return self._fail(error.message)
        if not data:
            return self._fail(f"transfer interrupted: {self._what}: the body ended early")
        self._advance(data)
        if self._position == self._end:
            self._disconnect()
            if self._position < self._size:
                self._count_failure()  # one shortened range is no failure, but many are
        return data

    def _connect(self) -> None:
        """Get a response that continues at our position, or count a failure."""
        split, self._split = self._split, None
        if split is not None:
            self._ranges = split(self._position)
            if self._ranges is not None:
                return
        if self._failures >= self._timeouts.attempts:
            self._give_up(f"transfer interrupted: {self._what}: got too many short ranges")
        offset = self._position if self._has_ranges else 0
        self._response = response = self._fetch(offset)
        try:
            start, self._end = self._extent(response, offset)
            if start < self._position:
                self._skip(response)
        except _UnusableRangeError:
            self._has_ranges = False
            self._fail(f"transfer interrupted: {self._what}: got another range than requested")
        except TransferInterruptedError as error:
            self._fail(error.message)

    def _extent(self, response: Response, offset: int) -> tuple[int, int]:
        """Return the offsets where a response starts and ends."""
        if response.status == 200:
            self._check_size(response.length)
            return 0, self._size
        match = _RANGE.fullmatch(response.header("Content-Range"))
        if not (offset and match):
            raise _UnusableRangeError
        start, last = int(match[1]), int(match[2])
        self._check_size(None if match[3] == "*" else int(match[3]))
        if start != offset or not start <= last < self._size:
            raise _UnusableRangeError
        return start, last + 1

    def _check_size(self, size: int | None) -> None:
        if size not in (None, self._size):
            self._disconnect()
            raise IntegrityError(
                f"wrong size: {self._what}: got {size} bytes from the registry, want {self._size}"
            )

    def _skip(self, response: Response) -> None:
        """Read the bytes before our position again, and check that they are unchanged.

        Otherwise only the digest check at the end finds the change, and reports a damaged blob.
        """
        seen = checksum = 0
        while seen < self._position:
            data = response.read(min(_CHUNK, self._position - seen))
            if not data:
                raise TransferInterruptedError(
                    f"transfer interrupted: {self._what}: the body ended early"
                )
            seen += len(data)
            checksum = _crc32(data, checksum)
        if checksum != self._checksum:
            self._disconnect()
            raise IntegrityError(
                f"changed during the transfer: {self._what}: got other bytes for the first "
                f"{seen} bytes than before, want the same",
                hint="try again; if the error persists, the registry serves different bytes",
            )

    def _fail(self, message: str) -> bytes:
        """Count a failure, and wait before the next attempt.

        :raises NetworkError: it was the last attempt with the last server.
        """
        self._disconnect()
        self._count_failure()
        if self._failures >= self._timeouts.attempts:
            self._give_up(message)
        else:
            self._timeouts.sleep(self._timeouts.pause(self._failures))
        return b""

    def _give_up(self, message: str) -> None:
        """Continue with the next server.

        :raises NetworkError: there is none.
        """
        if self._next_mirror is None or not self._next_mirror():
            raise NetworkError(f"{message}; got {self._position} of {self._size} bytes")
        self._failures, self._has_ranges = 0, True

    def _count_failure(self) -> None:
        if self._position - self._last_progress >= _PROGRESS:
            self._failures, self._last_progress = 0, self._position
        self._failures += 1

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def total_size(response: Response) -> int | None:
    """Return the size of the whole blob in bytes, None if the response does not contain it."""
    if response.status == 200:
        return response.length
    match = _RANGE.fullmatch(response.header("Content-Range"))
    return int(match[3]) if match and match[3] != "*" else None


def _crc32(data: bytes, before: int) -> int:
    from isal import isal_zlib  # ten times as fast as a digest, which would prove more

    return isal_zlib.crc32(data, before)
