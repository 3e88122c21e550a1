"""Pass chunks from one thread to another through a bounded queue.

Decompression and hashing release the GIL, so each can run in a thread of its own while a third
thread parses.  A producer waits while the queue is full.  This module does not interpret chunks.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")

DEPTH = 32
"""Default length of a queue, in items."""


@contextmanager
def threaded(chunks: Iterator[bytes], *, depth: int = DEPTH) -> Iterator[Iterator[bytes]]:
    """Run an iterator in a thread; yield an iterator over its items for the calling thread.

    An exception of ``chunks`` is raised in the consumer.  The end of the context stops and joins
    the thread, even if items are left.

    :param depth: length of the queue, in chunks.
    """
    queue: BoundedQueue[bytes] = BoundedQueue(depth)
    producer = start_thread(queue.fill, chunks)
    try:
        yield queue.items()
    finally:
        queue.stop()
        producer.join()


def start_thread(run: Callable[..., object], *arguments: object) -> threading.Thread:
    """Start a daemon thread, which does not delay the end of the process.

    :raises OSError: the kernel starts no further thread.
    """
    thread = threading.Thread(target=run, args=arguments, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # without the errno of pthread_create(3)
        raise OSError(errno.EAGAIN, "cannot start a thread") from error
    return thread


class BoundedQueue(Generic[Item]):
    """A queue of at most ``depth`` items between two threads, which wakes them rarely.

    Waking a thread costs more than handling an item.  So a waiting consumer sleeps until a quarter
    of the queue is filled, or until :meth:`wake`; a waiting producer sleeps until half of it is
    free.

    :param depth: length of the queue, in items.
    """

    def __init__(self, depth: int) -> None:
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._full, self._half, self._some = depth, depth // 2, max(1, depth // 4)
        self._ended = self._stopped = self._woken = False
        self._error: BaseException | None = None

    def fill(self, items: Iterator[Item]) -> None:
        """Put all items into the queue, then close the iterator and end the queue.

        `items` raises an exception of the iterator in the consumer's thread.
        """
        try:
            for item in items:
                if not self.put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - the consumer raises it
            self._error = error
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            self.end()

    def put(self, item: Item) -> bool:
        """Add an item, and wait while the queue is full.

        :returns: ``False`` after :meth:`stop`; the item is discarded then.
        """
        with self._changed:
            if self._stopped:
                return False
            self._waiting.append(item)
            if len(self._waiting) == self._some:
                self._changed.notify()
            while len(self._waiting) >= self._full and not self._stopped:
                self._changed.wait()
            return not self._stopped

    def wake(self) -> None:
        """Wake the consumer to take all items that are in the queue now."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def end(self) -> None:
        """Mark the end of the items; the consumer ends after the last one."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def stop(self) -> None:
        """Make the producer end, because the consumer takes no more items."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def items(self) -> Iterator[Item]:
        """Yield the items up to the end, and then raise the producer's exception, if any."""
        while self._has_some():
            with self._changed:
                item = self._waiting.popleft()
                if len(self._waiting) == self._half:
                    self._changed.notify()
            yield item
        if self._error is not None:
            raise self._error

    def _has_some(self) -> bool:
        if self._waiting:  # only the consumer removes items
            return True
        with self._changed:
            while len(self._waiting) < (1 if self._woken else self._some) and not self._ended:
                self._changed.wait()
            self._woken = False
            return bool(self._waiting)
