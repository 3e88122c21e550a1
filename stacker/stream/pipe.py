"""Carry chunks from one thread to the next.

Inflating and hashing release the interpreter's lock in C, so each can have a thread of its
own while a third parses.  A hand-over is bounded: a producer that is ahead waits.  Knows
nothing about what the chunks mean.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

DEPTH = 32
"""Chunks that may wait between two threads."""


@contextmanager
def threaded(chunks: Iterator[bytes], *, depth: int = DEPTH) -> Iterator[Iterator[bytes]]:
    """Run the iterator ``chunks`` in a thread of its own and give its items here.

    What it raises is raised at the consumer's ``next``.  On leaving the context the thread
    is stopped and joined, whether the items were used up or not.
    """
    belt = _Belt(depth)
    producer = threading.Thread(target=belt.fill, args=(chunks,), daemon=True)
    producer.start()
    try:
        yield belt.items()
    finally:
        belt.stop()
        producer.join()


class _Belt:
    """Chunks on their way.

    Waking a thread costs more than handling a chunk.  So whoever had to wait sleeps on until
    there is work for a while: the consumer until a quarter of ``depth`` has gathered, the
    producer until half of it is free.
    """

    def __init__(self, depth: int) -> None:
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._full, self._half, self._some = depth, depth // 2, max(1, depth // 4)
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def fill(self, chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                if not self._put(chunk):
                    break
        except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer
            self._error = error
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _put(self, chunk: bytes) -> bool:
        with self._changed:
            self._waiting.append(chunk)
            if len(self._waiting) == self._some:
                self._changed.notify()
            while len(self._waiting) >= self._full and not self._stopped:
                self._changed.wait()
            return not self._stopped

    def items(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                if not self._waiting:
                    while len(self._waiting) < self._some and not self._ended:
                        self._changed.wait()
                    if not self._waiting:
                        break
                chunk = self._waiting.popleft()
                if len(self._waiting) == self._half:
                    self._changed.notify()
            yield chunk
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
