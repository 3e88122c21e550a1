"""Hash and measure a stream while it passes.

In: an iterator of byte chunks.  Out: the same chunks, and an error at the end (or as soon as
there are too many bytes) when they are not what a digest and a size say.  Knows no files and
no formats.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from stacker.errors import IntegrityError, LayerError
from stacker.stream.pipe import DEPTH, Belt


class Hash(Protocol):
    """What this module needs of a ``hashlib`` object."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Give the digest of all bytes so far."""


class Named(Protocol):
    """A digest of any of the distinct types in :mod:`stacker.image.digest`."""

    @property
    def hex(self) -> str:
        """Give the digest as hexadecimal digits."""

    def new_hash(self) -> Hash:
        """Start a hash of this digest's algorithm."""


ByteProgress = Callable[[int], None]
"""Reports how many bytes of a blob have been transferred so far."""


def in_place(running: Hash) -> Hash:
    """Let a hash run where its bytes pass."""
    return running


def verified(
    chunks: Iterator[bytes],
    *,
    digest: Named,
    what: str,
    size: int | None = None,
    moved: Callable[[Hash], Hash] = in_place,
) -> Iterator[bytes]:
    """Pass ``chunks`` on; fail unless together they are ``size`` bytes with ``digest``.

    :param size: bytes, or ``None`` where no document says (the uncompressed side of a layer).
    :param what: how an error names the object, e.g. ``blob sha256:...``.
    :param moved: moves the hash to where it is to run.
    :raises IntegrityError: at the first byte too many, or at the end.
    """
    running, seen = moved(digest.new_hash()), 0
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
    """Pass ``chunks`` on and into a hash, where no document says what comes out."""
    for chunk in chunks:
        running.update(chunk)
        yield chunk


def bounded(chunks: Iterator[bytes], *, limit: int, what: str, flag: str) -> Iterator[bytes]:
    """Pass ``chunks`` on until they exceed ``limit`` bytes.

    :param flag: the command line option that raises the limit, for the hint.
    :raises LayerError: at the first byte over the limit.
    """
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > limit:
            raise LayerError(
                f"too large: {what}: got more than {limit} bytes uncompressed, want at most that",
                hint=f"raise the limit with {flag} if you trust the image",
            )
        yield chunk


def metered(chunks: Iterator[bytes], report: Callable[[int], None]) -> Iterator[bytes]:
    """Pass ``chunks`` on and call ``report`` with each one's length in bytes."""
    for chunk in chunks:
        report(len(chunk))
        yield chunk


# FOLDED from stacker.stream.verify
# """Hash in a thread beside those that read and inflate.
#
# Whoever inflates is what a layer waits for, and hashing costs half as much again.  So a hash is
# handed the chunks and works behind; only its digest is waited for, at the end, where
# :mod:`stacker.stream.verify` asks for it.  Knows nothing about what the chunks mean.
# """


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
