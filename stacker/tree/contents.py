"""The contents of files in the lower tree: which bytes of which descriptor.

Descriptors of files on disk come in; ranges, bytes and copies go out.  A file of a tree can be a
file on disk, or a part of a tar (`stacker.tree.indexed`).  This module must not open files.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError
from stacker.linux.filesystem import copy_piece, copy_range, reflink
from stacker.tar.entry import Segment, printable
from stacker.tree.protocol import Piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.tree.protocol import Contents

HOLE: Final = -1
"""The descriptor of a piece without data."""

_CHUNK: Final = 1 << 20
_UNIT: Final = 1 << 16
"""Zeros become a hole of an export if they fill an aligned range of this size in bytes."""
_WORTH_HOLES: Final = 1 << 20
"""Smaller files have no holes in an export: to find holes, a file is read twice."""
_SHRUNK: Final = frozenset({errno.EIO, errno.ENOENT, errno.ENODATA, errno.ELOOP, errno.ENOTDIR})


class FileOnDisk:
    """The contents of a file that has a descriptor of its own, which this object closes."""

    __slots__ = ("_descriptor", "size")

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    def piece(self, offset: int, length: int) -> Piece:
        """Return where a range starts; holes are not told apart."""
        return Piece(self._descriptor, offset, min(length, self.size - offset))

    def seek(self, offset: int, whence: int) -> int:
        """Find data or a hole, as lseek(2) does."""
        return os.lseek(self._descriptor, offset, whence)

    def copy_to(self, target: int) -> None:
        """Copy everything into an empty file: by reflink where the filesystem can."""
        if not reflink(self._descriptor, target):
            copy_range(self._descriptor, target, self.size)

    def copy_start(self, target: int, length: int) -> None:
        """Copy the first bytes into an empty file."""
        copy_range(self._descriptor, target, length)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def pieces(file: Contents, offset: int, length: int) -> Iterator[Piece]:
    """Yield the pieces of a range, as far as the file reaches."""
    end = min(offset + length, file.size)
    while offset < end:
        piece = file.piece(offset, end - offset)
        yield piece
        offset += piece.length


def read_into(file: Contents, buffer: memoryview, offset: int) -> int:
    """Fill a buffer from a file, and return the number of bytes, fewer only at its end.

    :raises OSError: ``EIO`` if the data on disk ends early; otherwise the kernel's error.
    """
    if offset < 0:
        raise OSError(errno.EINVAL, "negative offset")
    done = 0
    for piece in pieces(file, offset, len(buffer)):
        part = buffer[done : done + piece.length]
        if piece.descriptor == HOLE:
            part[:] = bytes(piece.length)
        else:
            _fill(part, piece.descriptor, piece.offset)
        done += piece.length
    return done


def _fill(buffer: memoryview, descriptor: int, offset: int) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if not count:
            raise OSError(errno.EIO, "the file has shrunk")
        done += count


def copy_pieces(file: Contents, target: int, size: int) -> None:
    """Copy the first ``size`` bytes of a file into an empty file, and keep its holes.

    :raises OSError: ``ENODATA`` if the data on disk ends early; otherwise the kernel's error.
    """
    os.ftruncate(target, size)
    at = 0
    for descriptor, start, length in pieces(file, 0, size):
        if descriptor != HOLE:
            copy_piece(descriptor, start, target, at, length)
        at += length


def data_segments(file: Contents) -> Sequence[Segment]:
    """Return the ranges of a file that are not holes; the last one ends where the file does.

    Zeros make a hole, whether or not the filesystem has one there, so that equal files have equal
    segments.  All segments start at a multiple of 64 KiB.  Holes of the filesystem are not read.

    :raises OSError: ``EIO`` if the data on disk ends early; otherwise the kernel's error.
    """
    if file.size < _WORTH_HOLES:
        return [Segment(0, file.size)]
    found: list[Segment] = []
    for at in _units_with_data(file):
        data = _range(file, at, min(_UNIT, file.size - at))
        if data.count(0) == len(data):
            continue
        if found and found[-1].offset + found[-1].length == at:
            found[-1] = Segment(found[-1].offset, found[-1].length + len(data))
        else:
            found.append(Segment(at, len(data)))
    if not found or found[-1].offset + found[-1].length < file.size:
        found.append(Segment(file.size, 0))  # GNU tar takes the size of the file from it
        _range(file, file.size - 1, 1)  # a hole at the end can be a file that has shrunk
    return found


def _units_with_data(file: Contents) -> Iterator[int]:
    """Yield the start of each unit that is not part of a hole of the filesystem."""
    at = 0
    while at < file.size:
        try:
            data = file.seek(at, os.SEEK_DATA)
            hole = min(file.seek(data, os.SEEK_HOLE), file.size)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        start, end = max(at, data // _UNIT * _UNIT), -(-hole // _UNIT) * _UNIT
        yield from range(start, end, _UNIT)
        at = end


def segment_data(file: Contents, segments: Sequence[Segment]) -> Iterator[bytes]:
    """Yield the data of the segments of a file, in chunks of at most 1 MiB."""
    for offset, length in segments:
        for at in range(offset, offset + length, _CHUNK):
            yield _range(file, at, min(_CHUNK, offset + length - at))


def _range(file: Contents, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    read_into(file, memoryview(buffer), offset)
    return bytes(buffer)


@contextmanager
def changed_file(what: str, path: bytes) -> Iterator[None]:
    """Report a file that is missing or too short as damage of its layer.

    :param what: the name of the image in errors.
    :param path: from the root of the image, without a leading slash.
    :raises IntegrityError: the block raised such an error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _SHRUNK:
            raise
        raise IntegrityError(
            f"file differs from its layer: {what}: /{printable(path)}: {error.strerror}",
            hint="`stacker repair` replaces damaged layers",
        ) from error
