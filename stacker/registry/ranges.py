"""Download the rest of a blob in parallel range requests, and read it in order.

A function that requests a range comes in; the bytes from an offset go out.  If a range fails,
reading ends early, and the caller continues with ordinary requests.  The bytes in memory are
bounded.  The caller verifies them.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from stacker.errors import StackerError
from stacker.registry.http.response import TransferInterruptedError
from stacker.stream.pipe import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.registry.http.response import Response
    from stacker.registry.settings import Timeouts

    FetchRange = Callable[[int, int], Response]
    """Requests the bytes from an offset up to, not including, another one."""

_FEWEST_PARTS = 4  # fewer gain nothing
_READ_AHEAD = 2  # unread parts per concurrent request
_CHUNK = 256 * 1024


def open_ranges(
    fetch: FetchRange, start: int, size: int, *, part: int, count: int, timeouts: Timeouts
) -> ParallelRanges | None:
    """Return the bytes from `start` up to `size`, or None if ranges gain nothing.

    :param part: bytes per range.
    :param count: concurrent requests.
    :raises StackerError: `fetch` fails.
    """
    if count < 2 or size - start < _FEWEST_PARTS * part:
        return None
    response = fetch(start, start + part)
    if not _has_range(response, start, start + part, size):
        response.close()
        return None
    return ParallelRanges(fetch, response, (start, size), part=part, count=count, timeouts=timeouts)


class ParallelRanges:
    """The bytes of a span in order, downloaded in parts by several threads.

    :param first: the response with the first part.
    :param span: the offsets where the span starts and ends.
    """

    def __init__(
        self,
        fetch: FetchRange,
        first: Response,
        span: tuple[int, int],
        *,
        part: int,
        count: int,
        timeouts: Timeouts,
    ) -> None:
        self._fetch = fetch
        self._first = first
        self._start, self._size = span
        self._part = part
        self._timeouts = timeouts
        self._total = -(-(self._size - self._start) // part)
        self._window = _READ_AHEAD * count
        self._state = threading.Condition()
        self._ready: dict[int, list[bytes]] = {}
        self._started = self._consumed = 0
        self._is_closed = False
        self._current: list[bytes] = []
        for _ in range(min(count, self._total)):
            start_thread(self._work)

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; b"" at the end, or where a part failed."""
        if not self._current:
            self._current = self._next_part()
        if not self._current:
            return b""
        chunk = self._current.pop()
        if len(chunk) > size:
            self._current.append(chunk[size:])
        if not self._current:
            self._release_part()
        return chunk[:size]

    def close(self) -> None:
        """Start no more requests; parts that have arrived can still be read."""
        with self._state:
            self._is_closed = True
            self._state.notify_all()

    def _next_part(self) -> list[bytes]:
        """Wait for the next part; return its chunks, last one first."""
        with self._state:
            self._state.wait_for(
                lambda: (
                    self._consumed in self._ready
                    or self._is_closed
                    or self._consumed == self._total
                )
            )
            return self._ready.pop(self._consumed, [])[::-1]

    def _release_part(self) -> None:
        with self._state:
            self._consumed += 1
            self._state.notify_all()

    def _work(self) -> None:
        while (number := self._claim_part()) is not None:
            try:
                chunks = self._download(number)
            except StackerError:
                self.close()
                return
            with self._state:
                if self._is_closed:
                    return
                self._ready[number] = chunks
                self._state.notify_all()

    def _claim_part(self) -> int | None:
        """Wait until another part fits into memory; return its number, None if none is left."""
        with self._state:
            self._state.wait_for(
                lambda: (
                    self._is_closed
                    or self._started == self._total
                    or self._started < self._consumed + self._window
                )
            )
            if self._is_closed or self._started == self._total:
                return None
            self._started += 1
            return self._started - 1

    def _download(self, number: int) -> list[bytes]:
        """Return the chunks of a part, after several attempts if necessary.

        :raises StackerError: all attempts failed.
        """
        at = self._start + number * self._part
        end = min(at + self._part, self._size)
        chunks: list[bytes] = []
        failures = 0
        response = None if number else self._first
        while at < end:
            response = response or self._request(at, end)
            try:
                data = response.read(min(_CHUNK, end - at))
            except TransferInterruptedError:
                data = b""
            if data:
                chunks.append(data)
                at += len(data)
                continue
            response.close()
            response, failures = None, failures + 1
            if failures >= self._timeouts.attempts or self._is_closed:
                raise TransferInterruptedError("transfer interrupted: a range")
            self._timeouts.sleep(self._timeouts.pause(failures))
        if response:
            response.close()
        return chunks

    def _request(self, start: int, end: int) -> Response:
        response = self._fetch(start, end)
        if not _has_range(response, start, end, self._size):
            response.close()
            raise TransferInterruptedError("got another range than requested")
        return response


def _has_range(response: Response, start: int, end: int, size: int) -> bool:
    """Return whether a response has the requested range of a blob of `size` bytes."""
    wanted = rf"bytes {start}-{end - 1}/({size}|\*)"
    return response.status == 206 and bool(re.fullmatch(wanted, response.header("Content-Range")))
