"""The rest of a blob, fetched in several ranges at once and read in order.

In comes a function that asks for a range, out come bytes from some position on.  When a range
cannot be had, reading just ends early: whoever reads goes on in the ordinary way from there.  What
waits to be read is bounded.  Whether the bytes are right is not known here.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from stacker.errors import StackerError
from stacker.registry.http.response import BrokenOffError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.registry.http.response import Answer
    from stacker.registry.settings import Timeouts

    FetchRange = Callable[[int, int], Answer]
    """Asks for the bytes from an offset up to another one."""

_WORTH = 4  # parts that there must be
_AHEAD = 2  # parts, for each range at once, that may wait to be read
_CHUNK = 256 * 1024


def open_parts(
    fetch: FetchRange, start: int, size: int, *, part: int, count: int, timeouts: Timeouts
) -> Parts | None:
    """Return the bytes from `start` up to `size`, or None where ranges gain nothing.

    :param part: bytes of each range.
    :param count: ranges that are fetched at once.
    :raises StackerError: as `fetch`.
    """
    if count < 2 or size - start < _WORTH * part:
        return None
    answer = fetch(start, start + part)
    if not _covers(answer, start, start + part, size):
        answer.close()
        return None
    return Parts(fetch, answer, (start, size), part=part, count=count, timeouts=timeouts)


class Parts:
    """Bytes of a range in order; its parts come in threads of their own.

    :param first: the answer with the first part.
    :param span: where the range begins and ends.
    """

    def __init__(
        self,
        fetch: FetchRange,
        first: Answer,
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
        self._window = _AHEAD * count
        self._state = threading.Condition()
        self._ready: dict[int, list[bytes]] = {}
        self._taken = self._used = 0
        self._is_over = False
        self._current: list[bytes] = []
        for _ in range(min(count, self._total)):
            # Daemons: one that waits for a silent server holds up nobody who has given up.
            threading.Thread(target=self._work, daemon=True).start()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; b"" at the end, and where a part cannot be had."""
        if not self._current:
            self._current = self._next()
        if not self._current:
            return b""
        chunk = self._current.pop()
        if len(chunk) > size:
            self._current.append(chunk[size:])
        if not self._current:
            self._make_room()
        return chunk[:size]

    def close(self) -> None:
        """Fetch nothing more; what has come is there to be read."""
        with self._state:
            self._is_over = True
            self._state.notify_all()

    def _next(self) -> list[bytes]:
        """Wait for the part that comes next; give its chunks, the last one first."""
        with self._state:
            self._state.wait_for(
                lambda: self._used in self._ready or self._is_over or self._used == self._total
            )
            return self._ready.pop(self._used, [])[::-1]

    def _make_room(self) -> None:
        with self._state:
            self._used += 1
            self._state.notify_all()

    def _work(self) -> None:
        while (number := self._take()) is not None:
            try:
                chunks = self._fetched(number)
            except StackerError:
                self.close()
                return
            with self._state:
                if self._is_over:
                    return
                self._ready[number] = chunks
                self._state.notify_all()

    def _take(self) -> int | None:
        """Wait until a part may be fetched; give its number, None when there is none left."""
        with self._state:
            self._state.wait_for(
                lambda: (
                    self._is_over
                    or self._taken == self._total
                    or self._taken < self._used + self._window
                )
            )
            if self._is_over or self._taken == self._total:
                return None
            self._taken += 1
            return self._taken - 1

    def _fetched(self, number: int) -> list[bytes]:
        """Fetch a part, in several attempts if need be.

        :raises StackerError: it is not to be had.
        """
        at = self._start + number * self._part
        end = min(at + self._part, self._size)
        chunks: list[bytes] = []
        failures = 0
        answer = None if number else self._first
        while at < end:
            answer = answer or self._asked(at, end)
            try:
                data = answer.read(min(_CHUNK, end - at))
            except BrokenOffError:
                data = b""
            if data:
                chunks.append(data)
                at += len(data)
                continue
            answer.close()
            answer, failures = None, failures + 1
            if failures >= self._timeouts.attempts or self._is_over:
                raise BrokenOffError("broken off: a part")
            self._timeouts.sleep(self._timeouts.pause(failures))
        if answer:
            answer.close()
        return chunks

    def _asked(self, start: int, end: int) -> Answer:
        answer = self._fetch(start, end)
        if not _covers(answer, start, end, self._size):
            answer.close()
            raise BrokenOffError("got another range than was asked for")
        return answer


def _covers(answer: Answer, start: int, end: int, size: int) -> bool:
    """Return whether an answer is the range that was asked for, of a blob of `size` bytes."""
    wanted = rf"bytes {start}-{end - 1}/({size}|\*)"
    return answer.status == 206 and bool(re.fullmatch(wanted, answer.header("Content-Range")))
