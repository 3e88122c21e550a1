"""Split a stream of chunks into the 512-byte blocks and payloads of a tar.

Chunks of any size come in.  Blocks go out, as do payloads, which are written to a descriptor
without a copy.  This module must not interpret headers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from stacker.errors import LayerError

BLOCK: Final = 512


class BlockReader:
    """Takes blocks and payloads from ``chunks``.

    :param what: the name of the stream in errors.
    :param keep: called with every byte that is read as part of a block.
    """

    def __init__(
        self, chunks: Iterator[bytes], *, what: str, keep: Callable[[bytes], object] | None
    ) -> None:
        self.what = what
        self._chunks = chunks
        self._keep = keep
        self._buffer = b""
        self._view = memoryview(b"")
        self._at = 0
        self._before = 0
        self._left = 0

    @property
    def offset(self) -> int:
        """The position of the next byte in the stream."""
        return self._before + self._at

    def payload(self) -> Iterator[memoryview]:
        """Yield the unread rest of the last entry's payload, in pieces."""
        while self._left:
            if self._at == len(self._buffer):
                self._fill("the rest of a payload")
            piece = self._view[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            yield piece

    def write_payload(self, fd: int, length: int) -> None:
        """Write the next ``length`` bytes of the last entry's payload to ``fd``."""
        at = self._at
        end = at + length
        if end <= len(self._buffer):  # most payloads are inside one chunk
            self._at = end
            self._left -= length
            written = os.write(fd, self._view[at:end])
            if written != length:
                _write_all(fd, self._view[at + written : end])
            return
        behind, self._left = self._left - length, length
        for piece in self.payload():
            _write_all(fd, piece)
        self._left = behind

    def _fill(self, want: str) -> None:
        if not self._has_more():
            raise LayerError(
                f"truncated tar: {self.what}: got the end at byte {self.offset}, want {want}"
            )

    def _has_more(self) -> bool:
        """Take the next chunk; return whether there is one.  An error of the stream propagates."""
        for chunk in self._chunks:
            if chunk:
                self._before += len(self._buffer)
                self._buffer, self._view, self._at = chunk, memoryview(chunk), 0
                return True
        return False

    def _take(self, length: int) -> bytes:
        """Take ``length`` bytes that belong to the skeleton."""
        at = self._at
        self._at = end = at + length
        data = self._buffer[at:end]
        if len(data) < length:
            data = self._joined(data, length)
        if self._keep is not None:
            self._keep(data)
        return data

    def _joined(self, data: bytes, length: int) -> bytes:
        parts, need = [data], length - len(data)
        self._at = len(self._buffer)
        while need:
            self._fill("a whole header")
            part = self._buffer[:need]
            self._at = len(part)
            need -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, length: int) -> None:
        inside = min(length, len(self._buffer) - self._at)
        self._at += inside
        length -= inside
        skip = getattr(self._chunks, "skip", None)
        if length and skip is not None:
            skip(length)
            self._before += length
            return
        while length:
            self._fill("the rest of a payload")
            self._at = min(length, len(self._buffer))
            length -= self._at

    def _at_end(self) -> bool:
        """Return whether the stream ends here, where the format allows it."""
        return self._at == len(self._buffer) and not self._has_more()

    def _read_rest(self) -> None:
        """Read the bytes after the end marker: they are part of the layer's diff_id."""
        while not self._at_end():
            self._take(len(self._buffer) - self._at)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
