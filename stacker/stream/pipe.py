"""Carry chunks from one thread to the next.

Inflating and hashing release the interpreter's lock in C, so each can have a thread of its
own while a third parses.  A hand-over is bounded: a producer that is ahead waits.  Knows
nothing about what the chunks mean.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

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
    # Two queues without a bound, one of chunks and one of places for them, instead of one
    # queue.Queue with a bound: both ends are in C and nobody looks at a clock.
    filled: SimpleQueue[bytes | _Failure | None] = SimpleQueue()
    places: SimpleQueue[None] = SimpleQueue()
    for _ in range(depth):
        places.put(None)
    stop = threading.Event()
    producer = threading.Thread(target=_produce, args=(chunks, filled, places, stop), daemon=True)
    producer.start()
    try:
        yield _consume(filled, places)
    finally:
        stop.set()
        places.put(None)
        producer.join()


def _produce(
    chunks: Iterator[bytes],
    filled: SimpleQueue[bytes | _Failure | None],
    places: SimpleQueue[None],
    stop: threading.Event,
) -> None:
    try:
        for chunk in chunks:
            places.get()
            if stop.is_set():
                return
            filled.put(chunk)
        filled.put(None)
    except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer
        filled.put(_Failure(error))
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _consume(
    filled: SimpleQueue[bytes | _Failure | None], places: SimpleQueue[None]
) -> Iterator[bytes]:
    while (item := filled.get()) is not None:
        if isinstance(item, _Failure):
            raise item.error
        places.put(None)
        yield item
