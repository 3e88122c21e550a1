"""Hash, count and limit the chunks of a stream while they pass.

`verified` takes chunks and yields them unchanged; it raises an error if their digest or their size
differs from the expected one.  `hash_thread` runs the hashes in a second thread, because hashing
adds half of the time of decompression.  This module does not use files or formats.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from stacker.errors import IntegrityError, LayerError
from stacker.stream.pipe import DEPTH, BoundedQueue, start_thread


class Hash(Protocol):
    """The methods of a ``hashlib`` object that this module uses."""

    def update(self, data: bytes, /) -> None:
        """Add bytes to the hash."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""


class AnyDigest(Protocol):
    """A digest of any type in :mod:`stacker.image.digest`."""

    @property
    def hex(self) -> str:
        """The digest as hexadecimal digits."""

    def new_hash(self) -> Hash:
        """Return a new hash of this digest's algorithm."""


ByteProgress = Callable[[int], None]
"""Reports how many bytes of a blob have been transferred so far."""


def hash_inline(running: Hash) -> Hash:
    """Return the hash itself: it runs in the thread that reads the chunks."""
    return running


def verified(
    chunks: Iterator[bytes],
    *,
    digest: AnyDigest,
    what: str,
    size: int | None = None,
    offload: Callable[[Hash], Hash] = hash_inline,
) -> Iterator[bytes]:
    """Yield chunks, and raise an error unless they have the given digest and size.

    :param size: expected bytes, or ``None`` if unknown, as for an uncompressed layer.
    :param what: name of the object for errors, such as ``blob sha256:...``.
    :param offload: replaces a hash by one that runs elsewhere; see `hash_thread`.
    :raises IntegrityError: at the first byte after ``size``, or at the end.
    """
    running, seen = offload(digest.new_hash()), 0
    for chunk in chunks:
        seen += len(chunk)
        if size is not None and seen > size:
            raise IntegrityError(f"wrong size: {what}: got more than {size} bytes, want {size}")
        running.update(chunk)
        yield chunk
    if size is not None and seen < size:
        raise IntegrityError(f"truncated: {what}: got {seen} bytes, want {size}")
    got = running.hexdigest()
    if got != digest.hex:
        raise IntegrityError(f"wrong digest: {what}: got {got}, want {digest.hex}")


def hashed(chunks: Iterator[bytes], running: Hash) -> Iterator[bytes]:
    """Yield chunks and add them to a hash, for data whose digest is not known yet."""
    for chunk in chunks:
        running.update(chunk)
        yield chunk


def bounded(chunks: Iterator[bytes], *, limit: int, what: str, flag: str) -> Iterator[bytes]:
    """Yield chunks up to a limit.

    :param limit: bytes.
    :param what: name of the object for the error.
    :param flag: the command line option that sets the limit, for the hint.
    :raises LayerError: at the first byte over the limit.
    """
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > limit:
            raise LayerError(
                f"too large: {what}: got more than {limit} bytes uncompressed, "
                f"want at most {limit}",
                hint=f"raise the limit with {flag} if you trust the image",
            )
        yield chunk


def metered(chunks: Iterator[bytes], report: Callable[[int], None]) -> Iterator[bytes]:
    """Yield chunks, and call ``report`` with the length of each in bytes."""
    for chunk in chunks:
        report(len(chunk))
        yield chunk


@contextmanager
def hash_thread(*, depth: int = DEPTH) -> Iterator[Callable[[Hash], Hash]]:
    """Yield a function that moves the updates of a hash to another thread, for `verified`.

    All hashes share one thread.  The end of the context waits for it and joins it; a later update
    runs in the calling thread.

    :param depth: chunks that may wait for the thread before an update blocks.
    """
    queue: BoundedQueue[Callable[[], object]] = BoundedQueue(depth)
    thread = start_thread(_run_all, queue)
    try:
        yield lambda running: _ThreadedHash(running, queue)
    finally:
        queue.end()
        thread.join()
        queue.stop()


def _run_all(queue: BoundedQueue[Callable[[], object]]) -> None:
    for step in queue.items():
        step()


class _ThreadedHash:
    """A hash whose updates run in another thread, in order."""

    def __init__(self, running: Hash, queue: BoundedQueue[Callable[[], object]]) -> None:
        self._running = running
        self._queue = queue

    def update(self, data: bytes, /) -> None:
        """Schedule an update, or run it if the thread has ended."""
        if not self._queue.put(partial(self._running.update, data)):
            self._running.update(data)

    def hexdigest(self) -> str:
        """Wait for all scheduled updates, and return the digest."""
        done = threading.Event()
        if self._queue.put(done.set):
            self._queue.wake()
            done.wait()
        return self._running.hexdigest()
