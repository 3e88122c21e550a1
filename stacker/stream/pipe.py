"""Carry chunks from one thread to the next.

Inflating and hashing release the interpreter's lock in C, so each can have a thread of its
own while a third parses.  A hand-over is bounded: a producer that is ahead waits.  Knows
nothing about what the chunks mean.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue

DEPTH = 8
"""Chunks that may wait between two threads."""


class _Failure:
    """An exception on its way to the consuming thread."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


@contextmanager
def threaded(chunks: Iterator[bytes], *, depth: int = DEPTH) -> Iterator[Iterator[bytes]]:
    """Run the iterator ``chunks`` in a thread of its own and give its items here.

    What it raises is raised at the consumer's ``next``.  On leaving the context the thread
    is stopped and joined, whether the items were used up or not.
    """
    queue: Queue[bytes | _Failure | None] = Queue(depth)
    stop = threading.Event()
    producer = threading.Thread(target=_produce, args=(chunks, queue, stop), daemon=True)
    producer.start()
    try:
        yield _consume(queue)
    finally:
        stop.set()
        _drain(queue)
        producer.join()


def _produce(
    chunks: Iterator[bytes], queue: Queue[bytes | _Failure | None], stop: threading.Event
) -> None:
    try:
        for chunk in chunks:
            if not _put(queue, chunk, stop):
                return
        _put(queue, None, stop)
    except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer
        _put(queue, _Failure(error), stop)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _put(
    queue: Queue[bytes | _Failure | None], item: bytes | _Failure | None, stop: threading.Event
) -> bool:
    while not stop.is_set():
        try:
            queue.put(item, timeout=0.2)
        except Full:
            continue
        return True
    return False


def _consume(queue: Queue[bytes | _Failure | None]) -> Iterator[bytes]:
    while (item := queue.get()) is not None:
        if isinstance(item, _Failure):
            raise item.error
        yield item


def _drain(queue: Queue[bytes | _Failure | None]) -> None:
    """Make room, so that a producer blocked on a full queue sees the stop at once."""
    try:
        while True:
            queue.get_nowait()
    except Empty:
        pass
