"""Map the chunks of a sparse file to blocks of its tar, or to blocks of the image.

The segments of a file come in; one block number for each chunk goes out.  A chunk that the tar
stores at a block boundary refers to the tar.  Other files are copied: the image then has their
data, without most of the holes.  A file with few data and a large hole has large chunks, so that
its map stays small.  This module must not read files, except in :func:`own_data`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.erofs.format import BLOCK, BLOCK_BITS, CHUNK_INDEX, HOLE, MAX_BLOCKS, MAX_CHUNK_BITS
from stacker.errors import LayerError

if TYPE_CHECKING:
    from stacker.tar.entry import Segment

_COPIED_BITS: Final = range(3, 16)
"""Chunks of copied files have 4 KiB to 16 MiB."""
_FEW_CHUNKS: Final = 1 << 16
"""The most chunks of a map that counts as small."""
_MAX_CHUNKS: Final = 1 << 24
_FEW_COPIED: Final = 1 << 30
"""The most bytes that a file adds to an image if that is more than twice its data."""


@dataclass(frozen=True, slots=True)
class SparseMap:
    """The chunks of a sparse file.

    :param bits: the exponent of the chunk size in blocks.
    :param blocks: the first block of each chunk, or ``HOLE``.
    :param own_blocks: the number of blocks to copy into the image; 0 if the chunks are in the tar.
    """

    bits: int
    blocks: Sequence[int]
    own_blocks: int


def sparse_map(
    segments: Sequence[Segment], *, size: int, start: int, block: int, may_copy: bool = True
) -> SparseMap:
    """Return the map of a file.

    :param size: the length of the file in bytes.
    :param start: where its payload starts in the tar, in bytes.
    :param block: the first free block of the data area.
    :param may_copy: copy chunks where that makes the image smaller; otherwise all segments start at
        block boundaries.
    :raises LayerError: the file has too many chunks.
    """
    bits, is_copied = _chunking(segments, size, may_copy=may_copy)
    if is_copied:
        return _copied(segments, size, bits, block)
    blocks = _empty(size, bits)
    chunk, at = BLOCK << bits, start // BLOCK
    if start + sum(length for _, length in segments) > BLOCK * MAX_BLOCKS:
        raise LayerError(
            f"layer too large: got a file at byte {start}, want it before {BLOCK * MAX_BLOCKS}",
            hint="use the form `tree` for this image",
        )
    for offset, length in segments:
        for index in range(offset // chunk, -(-(offset + length) // chunk)):
            blocks[index] = at + (index * chunk - offset) // BLOCK
        at += -(-length // BLOCK)
    return SparseMap(bits, blocks, 0)


def map_bytes(segments: Sequence[Segment], size: int) -> int:
    """Return the bytes that the chunks of a file take in an image."""
    return CHUNK_INDEX.size * _count(size, _chunking(segments, size)[0])


def _chunking(segments: Sequence[Segment], size: int, *, may_copy: bool = True) -> tuple[int, bool]:
    """Return the exponent of the chunk size, and whether to copy the chunks.

    If the map would not be small, choose the size with which the image has the fewest bytes.
    """
    common = _common_bits(segments, size)
    bits, is_copied = (_COPIED_BITS[0], True) if common is None else (common, False)
    if _count(size, bits) <= _FEW_CHUNKS or not may_copy:
        return bits, is_copied
    costs = {(each, True): _copied_bytes(segments, each) for each in _COPIED_BITS}
    if common is not None:
        costs[common, False] = 0
    return min(costs, key=lambda each: costs[each] + CHUNK_INDEX.size * _count(size, each[0]))


def _count(size: int, bits: int) -> int:
    return -(-size >> (BLOCK_BITS + bits))


def _copied_bytes(segments: Sequence[Segment], bits: int) -> int:
    """Return the bytes of all chunks with data."""
    after = count = 0
    for offset, length in segments:
        if length:
            first = max(after, offset >> (BLOCK_BITS + bits))
            after = max(after, _count(offset + length, bits))
            count += after - first
    return count << (BLOCK_BITS + bits)


def _common_bits(segments: Sequence[Segment], size: int) -> int | None:
    """Return the exponent of the largest chunk at whose multiples all segments start and end."""
    bounds = size and 1 << (size - 1).bit_length()
    for offset, length in segments:
        end = offset + length
        bounds |= offset | (0 if end == size else end)
    lowest = (bounds & -bounds).bit_length() - 1
    return min(lowest - BLOCK_BITS, MAX_CHUNK_BITS) if lowest >= BLOCK_BITS else None


def _copied(segments: Sequence[Segment], size: int, bits: int, block: int) -> SparseMap:
    copied, data = _copied_bytes(segments, bits), sum(length for _, length in segments)
    if copied > (limit := max(_FEW_COPIED, 2 * data)):
        raise LayerError(
            f"sparse file too large: got {copied} bytes of unaligned chunks for {data} bytes of"
            f" data, want at most {limit}",
            hint="use the form `tree` for this image",
        )
    blocks = _empty(size, bits)
    count = 0
    for index in _touched(segments, bits):
        blocks[index] = block + (count << bits)
        count += 1
    return SparseMap(bits, blocks, count << bits)


def _empty(size: int, bits: int) -> array[int]:
    count = _count(size, bits)
    if count > _MAX_CHUNKS:
        raise LayerError(
            f"sparse file too large: got {count} chunks of {BLOCK << bits} bytes, "
            f"want at most {_MAX_CHUNKS}",
            hint="use the form `tree` for this image",
        )
    return array("I", [HOLE]) * count


def _touched(segments: Sequence[Segment], bits: int) -> Iterator[int]:
    """Yield each chunk with data, in order."""
    after = 0
    for offset, length in segments:
        if length:
            first = max(after, offset >> (BLOCK_BITS + bits))
            after = max(after, _count(offset + length, bits))
            yield from range(first, after)


def own_data(segments: Sequence[Segment], *, bits: int, start: int, tar: int) -> Iterator[bytes]:
    """Yield the data of the chunks that :func:`sparse_map` copies, with zeros around the segments.

    :param bits: the exponent of the chunk size in blocks.
    :param start: where the payload starts in the tar, in bytes.
    :param tar: a descriptor of the tar.
    """
    chunk, left = BLOCK << bits, list[tuple[int, int, int]]()
    for offset, length in segments:
        left.append((offset, length, start))
        start += length
    left.reverse()
    for index in _touched(segments, bits):
        data, low = bytearray(chunk), index * chunk
        while left and left[-1][0] < low + chunk:
            offset, length, at = left.pop()
            head = max(offset, low)
            count = min(offset + length, low + chunk) - head
            data[head - low : head - low + count] = os.pread(tar, count, at + head - offset)
            if offset + length > low + chunk:
                left.append((offset, length, at))
                break
        yield bytes(data)
