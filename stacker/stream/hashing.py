"""Hash in a thread beside those that read and inflate.

Whoever inflates is what a layer waits for, and hashing costs half as much again.  So a hash is
handed the chunks and works behind; only its digest is waited for, at the end, where
:mod:`stacker.stream.verify` asks for it.  Knows nothing about what the chunks mean.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from stacker.stream.pipe import DEPTH, Belt
from stacker.stream.verify import Hash


@contextmanager
def hashing_beside(*, depth: int = DEPTH) -> Iterator[Callable[[Hash], Hash]]:
    """Give a function that moves a hash into a thread of its own; all such hashes share it.

    At most ``depth`` chunks wait to be hashed; more make their giver wait.  On leaving the
    context the thread has done its work and is joined; what comes later is hashed in place.
    """
    belt: Belt[Callable[[], object]] = Belt(depth)
    thread = threading.Thread(target=_work_through, args=(belt,), daemon=True)
    thread.start()
    try:
        yield lambda running: _Beside(running, belt)
    finally:
        belt.end()
        thread.join()
        belt.stop()


def _work_through(belt: Belt[Callable[[], object]]) -> None:
    for step in belt.items():
        step()


class _Beside:
    """A hash whose updates happen in another thread, in order."""

    def __init__(self, running: Hash, belt: Belt[Callable[[], object]]) -> None:
        self._running = running
        self._belt = belt

    def update(self, data: bytes, /) -> None:
        """Have more bytes taken, soon."""
        if not self._belt.put(partial(self._running.update, data)):
            self._running.update(data)

    def hexdigest(self) -> str:
        """Wait for all bytes so far, and give their digest."""
        done = threading.Event()
        if self._belt.put(done.set):
            self._belt.hurry()
            done.wait()
        return self._running.hexdigest()
