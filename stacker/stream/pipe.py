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
from typing import Generic, TypeVar

Item = TypeVar("Item")

DEPTH = 32
"""Chunks that may wait between two threads."""


@contextmanager
def threaded(chunks: Iterator[bytes], *, depth: int = DEPTH) -> Iterator[Iterator[bytes]]:
    """Run the iterator ``chunks`` in a thread of its own and give its items here.

    What it raises is raised at the consumer's ``next``.  On leaving the context the thread
    is stopped and joined, whether the items were used up or not.
    """
    belt: Belt[bytes] = Belt(depth)
    producer = threading.Thread(target=belt.fill, args=(chunks,), daemon=True)
    producer.start()
    try:
        yield belt.items()
    finally:
        belt.stop()
        producer.join()


class Belt(Generic[Item]):
    """Items on their way from one thread to another, at most ``depth`` at a time.

    Waking a thread costs more than handling an item.  So whoever had to wait sleeps on until
    there is work for a while: the consumer until a quarter of ``depth`` has gathered (or it is
    told to :meth:`hurry`), the producer until half of it is free.
    """

    def __init__(self, depth: int) -> None:
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._full, self._half, self._some = depth, depth // 2, max(1, depth // 4)
        self._ended = self._stopped = self._hurried = False
        self._error: BaseException | None = None

    def fill(self, items: Iterator[Item]) -> None:
        """Put all of ``items`` on the belt, and the error that ends them."""
        try:
            for item in items:
                if not self.put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer
            self._error = error
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            self.end()

    def put(self, item: Item) -> bool:
        """Add an item, when there is room; say whether anybody will take it."""
        with self._changed:
            if self._stopped:
                return False
            self._waiting.append(item)
            if len(self._waiting) == self._some:
                self._changed.notify()
            while len(self._waiting) >= self._full and not self._stopped:
                self._changed.wait()
            return not self._stopped

    def hurry(self) -> None:
        """Have all that was put on the belt taken now."""
        with self._changed:
            self._hurried = True
            self._changed.notify()

    def end(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def stop(self) -> None:
        """Say that nothing more will be taken."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def items(self) -> Iterator[Item]:
        """Take what comes, to its end; then raise what ended it."""
        while self._has_some():
            with self._changed:
                item = self._waiting.popleft()
                if len(self._waiting) == self._half:
                    self._changed.notify()
            yield item
        if self._error is not None:
            raise self._error

    def _has_some(self) -> bool:
        if self._waiting:  # the consumer alone takes
            return True
        with self._changed:
            while len(self._waiting) < (1 if self._hurried else self._some) and not self._ended:
                self._changed.wait()
            self._hurried = False
            return bool(self._waiting)
