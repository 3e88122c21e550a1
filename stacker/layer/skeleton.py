"""Write a layer's skeleton, and reproduce the layer's tar from it.

A skeleton is the tar without file contents, compressed with zstd.  While a layer is unpacked, every
byte of its tar comes in except file contents.  Later the entries go out without a walk of the tree,
or the whole tar bit for bit, so that a diff_id can be computed from the disk.  This module must not
compute digests.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from stacker.errors import IntegrityError, LayerError, StackerError
from stacker.layer.paths import LayerPaths
from stacker.layer.record import LayerRecord, Replacement
from stacker.linux.opath import open_below
from stacker.stream.compression import CHUNK, decompressed, read_chunks
from stacker.tar.entry import File, printable
from stacker.tar.limits import Limits
from stacker.tar.reader import TarReader

_LEVEL: Final = 1
_PARTS: Final = 1024
_ANY: Final = Limits(
    unpacked_bytes=1 << 62, entries=1 << 62, depth=1 << 30, pax_bytes=1 << 40, ratio=1 << 40
)


class SkeletonWriter:
    """Compresses skeleton bytes into ``file``; :meth:`keep` is the callback of a `TarReader`."""

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
        """Write the buffered bytes and end the zstd frame."""
        self._file.write(self._compressor.compress(b"".join(self._parts)))
        self._parts.clear()
        self._file.write(self._compressor.flush())


@contextmanager
def open_skeleton(path: Path, *, what: str) -> Iterator[TarReader]:
    """Open the skeleton ``path`` and yield a reader of its entries.

    :param what: the name of the layer in errors.
    """
    with path.open("rb") as file:
        yield TarReader(
            decompressed(read_chunks(file), what=what), what=what, limits=_ANY, elided=True
        )


def reassemble(paths: LayerPaths, record: LayerRecord, *, what: str) -> Iterator[bytes]:
    """Yield the layer's tar stream, from its skeleton and its tree.

    :param what: the name of the layer in errors.
    :raises IntegrityError: a file is missing or has another length, or the skeleton is damaged.
    """
    try:
        yield from _reassembled(paths, record, what)
    except LayerError as error:
        raise IntegrityError(f"damaged skeleton: {error}") from error


def _reassembled(paths: LayerPaths, record: LayerRecord, what: str) -> Iterator[bytes]:
    kept: list[bytes] = []
    locations = FileLocations(record)
    with paths.skeleton.open("rb") as file:
        reader = TarReader(
            decompressed(read_chunks(file), what=what),
            what=what,
            limits=_ANY,
            keep=kept.append,
            elided=True,
        )
        for entry in reader:
            if isinstance(entry, File):
                yield b"".join(kept)
                kept.clear()
                place = locations.find(reader.count - 1, entry.path)
                yield from _payload(entry, place, paths, what)
    if reader.count != record.entries:  # zstd does not report a truncated frame
        raise IntegrityError(
            f"damaged skeleton: {what}: got {reader.count} entries, want {record.entries}"
        )
    yield b"".join(kept)


class FileLocations:
    """Finds a layer's files on disk, given symbolic links and replaced files."""

    def __init__(self, record: LayerRecord) -> None:
        self._moved = record.moved
        self._gone: dict[bytes, list[Replacement]] = {}
        for replacement in record.replacements:
            self._gone.setdefault(replacement.path, []).append(replacement)

    def find(self, number: int, path: bytes) -> tuple[int | None, bytes]:
        """Return the location of entry ``number``, which the tar calls ``path``.

        :returns: the number of the replaced file or directory, or ``None`` for the tree, and the
            path inside it.
        """
        path = self._moved.get(number, path)
        first, above = None, path if self._gone else b""
        while above:
            replacement = self._next(above, number)
            if replacement is not None and (first is None or replacement.entry < first.entry):
                first = replacement
            above = above.rpartition(b"/")[0]
        return (None, path) if first is None else (first.number, path[len(first.path) + 1 :])

    def _next(self, path: bytes, number: int) -> Replacement | None:
        """Return the first replacement of ``path`` after entry ``number``."""
        candidates = self._gone.get(path, [])
        at = bisect_right(candidates, number, key=lambda each: each.entry)
        return candidates[at] if at < len(candidates) else None


def _payload(
    entry: File, place: tuple[int | None, bytes], paths: LayerPaths, what: str
) -> Iterator[bytes]:
    number, inside = place
    root = paths.diff if number is None else paths.replaced / str(number)
    what = f"{what}: {printable(entry.path)}"
    segments = ((0, entry.size),) if entry.segments is None else entry.segments
    try:
        fd = open_below(os.fsencode(root), inside)
    except PermissionError as error:
        raise StackerError(f"cannot read layer: {what}: {error.strerror}") from error
    except OSError as error:
        raise IntegrityError(
            f"layer differs from its skeleton: {what}: {error.strerror}"
        ) from error
    try:
        size = os.fstat(fd).st_size
        if size != entry.size:
            raise IntegrityError(
                f"layer differs from its skeleton: {what}: got {size} bytes, want {entry.size}"
            )
        for offset, length in segments:
            yield from _read_range(fd, offset, length, what)
    finally:
        os.close(fd)


def _read_range(fd: int, offset: int, length: int, what: str) -> Iterator[bytes]:
    while length:
        data = os.pread(fd, min(length, CHUNK), offset)
        if not data:
            raise IntegrityError(
                f"layer differs from its skeleton: {what}: got {offset} bytes, want {length} more"
            )
        yield data
        offset, length = offset + len(data), length - len(data)
