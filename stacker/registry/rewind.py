"""A blob's bytes from any offset on, verified on the way.

In comes a way to open the blob, out come pieces.  Going on is free; going back within the last
piece is, too; going back further reads the blob anew.  Who wants the bytes is not known here.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from stacker.stream.decompress import chunks_of
from stacker.stream.verify import verified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.image.descriptor import Descriptor
    from stacker.stream.decompress import BlobOpener


class Feed:
    """Gives the bytes of the blob that `descriptor` describes; closed by `close`."""

    def __init__(self, descriptor: Descriptor, opened: BlobOpener) -> None:
        self._descriptor = descriptor
        self._opened = opened
        self._chunks: Iterator[bytes] | None = None
        self._piece = b""
        self._start = 0

    def at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer at the blob's end.

        With its last byte the whole blob has been verified.

        :raises IntegrityError: it is not what the descriptor says.
        """
        if offset < self._start or self._chunks is None:
            self._restart()
        self._advance(offset, min(offset + size, self._descriptor.size))
        if self._start + len(self._piece) == self._descriptor.size:
            self._finish()
        return self._piece[offset - self._start : offset - self._start + size]

    def close(self) -> None:
        """Close the blob."""
        if self._chunks is not None:
            self._chunks.close()  # type: ignore[attr-defined]  # a generator
        self._chunks = None

    def _restart(self) -> None:
        self.close()
        self._piece, self._start = b"", 0
        what = f"blob {self._descriptor.digest}"
        self._chunks = verified(
            self._read_through(),
            digest=self._descriptor.digest,
            size=self._descriptor.size,
            what=what,
        )

    def _read_through(self) -> Iterator[bytes]:
        with closing(self._opened()) as file:
            yield from chunks_of(file)

    def _advance(self, offset: int, end: int) -> None:
        """Read up to `end`, and keep what lies from `offset` on."""
        parts, start = [self._piece], self._start
        reached = start + len(self._piece)
        while True:
            while parts and start + len(parts[0]) <= offset:
                start += len(parts.pop(0))
            if reached >= end:
                break
            parts.append(self._next())
            reached += len(parts[-1])
        self._piece, self._start = b"".join(parts), start

    def _next(self) -> bytes:
        for chunk in self._chunks or ():
            return chunk
        raise AssertionError  # whoever verifies fails before there is nothing left

    def _finish(self) -> None:
        """Reach the end of the stream, where its digest is judged."""
        for _ in self._chunks or ():
            pass
