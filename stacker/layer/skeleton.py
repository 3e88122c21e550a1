"""A layer's tar without the contents of its files, and the tar put together again.

Written while a layer is unpacked: every byte of the stream but the payloads that are in the
tree, as they came, compressed with zstd.  Read by the same parser it gives every entry back
without touching the tree; with the payloads put back it *is* the tar, bit for bit, so that a
diff_id can be computed from what lies on disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from stacker.errors import IntegrityError
from stacker.layer.entry import File, shown
from stacker.layer.limits import Limits
from stacker.layer.record import LayerRecord
from stacker.layer.tar import TarReader
from stacker.layer.tree import Displacement
from stacker.stream.decompress import CHUNK, chunks_of, decompressed

_LEVEL: Final = 1
_PARTS: Final = 1024
_ANY: Final = Limits(
    unpacked_bytes=1 << 62, entries=1 << 62, depth=1 << 30, pax_bytes=1 << 40, ratio=1 << 40
)


class SkeletonWriter:
    """Compress what a :class:`TarReader` keeps into ``file``; :meth:`keep` is its callback."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._parts: list[bytes] = []

    def keep(self, data: bytes) -> None:
        """Add the next bytes."""
        parts = self._parts
        parts.append(data)
        if len(parts) >= _PARTS or len(data) > CHUNK // 2:
            self._file.write(self._compressor.compress(b"".join(parts)))
            parts.clear()

    def finish(self) -> None:
        """Write what is left and end the zstd frame."""
        self._file.write(self._compressor.compress(b"".join(self._parts)))
        self._parts.clear()
        self._file.write(self._compressor.flush())


@contextmanager
def skeleton_entries(path: Path, *, what: str) -> Iterator[TarReader]:
    """Open the skeleton ``path`` and give a reader over its entries."""
    with path.open("rb") as file:
        yield TarReader(
            decompressed(chunks_of(file), what=what), what=what, limits=_ANY, elided=True
        )


def reassembled(
    skeleton: Path, record: LayerRecord, diff: Path, aside: Path, *, what: str
) -> Iterator[bytes]:
    """Give the layer's tar stream, from its skeleton and its tree.

    :param diff: the unpacked tree.
    :param aside: where files lie that later entries replaced.
    :raises IntegrityError: a file is missing or shorter than the skeleton says.
    """
    kept: list[bytes] = []
    with skeleton.open("rb") as file:
        reader = TarReader(
            decompressed(chunks_of(file), what=what),
            what=what,
            limits=_ANY,
            keep=kept.append,
            elided=True,
        )
        for entry in reader:
            if isinstance(entry, File) and entry.stored:
                yield b"".join(kept)
                kept.clear()
                place = location(record, reader.count - 1, entry.path)
                yield from _payload(entry, place, diff, aside, what)
    yield b"".join(kept)


def location(record: LayerRecord, number: int, path: bytes) -> tuple[int | None, bytes]:
    """Say where entry ``number``, named ``path``, lies now.

    :returns: the number of the replaced thing it lies in, or ``None`` for the tree, and the
        path there.
    """
    path = record.placed.get(number, path)
    return _moved(record.displaced, number, path)


def _moved(displaced: Sequence[Displacement], number: int, path: bytes) -> tuple[int | None, bytes]:
    for at, gone, aside in displaced:
        if at > number and (path == gone or path.startswith(gone + b"/")):
            return aside, path[len(gone) + 1 :]
    return None, path


def _payload(
    entry: File, place: tuple[int | None, bytes], diff: Path, aside: Path, what: str
) -> Iterator[bytes]:
    number, inside = place
    root = diff if number is None else aside / str(number)
    full = os.fsencode(root) + (b"/" + inside if inside else b"")
    segments = ((0, entry.size),) if entry.segments is None else entry.segments
    try:
        fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise IntegrityError(
            f"layer differs from its skeleton: {what}: {shown(entry.path)}: {error.strerror}"
        ) from error
    try:
        for offset, length in segments:
            yield from _ranged(fd, offset, length, f"{what}: {shown(entry.path)}")
    finally:
        os.close(fd)


def _ranged(fd: int, offset: int, length: int, what: str) -> Iterator[bytes]:
    while length:
        data = os.pread(fd, min(length, CHUNK), offset)
        if not data:
            raise IntegrityError(
                f"layer differs from its skeleton: {what}: got {offset} bytes, want {length} more"
            )
        yield data
        offset, length = offset + len(data), length - len(data)
