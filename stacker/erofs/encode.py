"""Encode the inodes of an image.

A tree in order and the encoded xattrs come in; the bytes of the inodes go out, with the data of
directories and symbolic links that fits behind them.  Most inodes are regular files with one chunk
and no xattrs, so these take a short path.  This module must not write files.

The short form of an inode has no time of its own: before Linux 6.15, all such inodes have that of
the superblock (``fs/erofs/inode.c``, ``erofs_read_inode``).  The data of a directory or a symbolic
link may follow the inode if it stays in one block (``EROFS_INODE_FLAT_INLINE``).
"""

from __future__ import annotations

import stat
import struct
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.erofs import format as on_disk
from stacker.erofs.format import BLOCK, BLOCK_BITS, CHUNK_INDEX, HOLE, INODE_UNIT, MAX_CHUNK_BITS
from stacker.erofs.sparse import SparseMap, sparse_map
from stacker.errors import LayerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.erofs.inodes import Inodes
    from stacker.erofs.layout import Layout

_MAX_SHORT_ID: Final = 0xFFFF
_MAX_SHORT_SIZE: Final = 0xFFFF_FFFF
_UNION: Final = 16
"""The offset of the union in both forms of an inode."""
_TYPES: Final = [on_disk.FILE_TYPES.get(kind << 12, 0) for kind in range(16)]
_COMPACT_FILE: Final = struct.Struct(on_disk.COMPACT.format + "HHI24x")
_EXTENDED_FILE: Final = struct.Struct(on_disk.EXTENDED.format + "HHI24x")
"""Inodes of files with one chunk, padded to the start of the next inode."""


class _Row(NamedTuple):
    """The attributes of an inode; ``place`` counts the inodes before it, from 1."""

    number: int
    place: int
    mode: int
    uid: int
    gid: int
    seconds: int
    nanoseconds: int
    size: int
    start: int
    tar: int
    links: int
    xattrs: int


class Encoder:
    """The encoded inodes of a tree: ``area``, which starts at ``start`` in the image.

    :param xattrs: the encoded body of each xattr set.
    :param start: a multiple of ``INODE_UNIT``.

    ``offsets`` has the place of each inode in units of ``INODE_UNIT``.  ``outside`` lists the
    inodes whose data is in the data area, which has ``blocks`` blocks.  ``sparse`` has their maps.

    :raises LayerError: the tree exceeds the format.
    """

    def __init__(
        self, inodes: Inodes, layout: Layout, xattrs: Sequence[bytes], *, start: int
    ) -> None:
        self.area = bytearray()
        self.offsets = array("I", bytes(4 * len(inodes)))
        self.outside: list[int] = []
        self.blocks = 0
        self.sparse: dict[int, SparseMap] = {}
        self._inodes = inodes
        self._layout = layout
        self._xattrs = xattrs
        self._start = start
        self._tails: dict[int, int] = {}
        self._relative: list[int] = []
        try:
            self._encode()
        except (struct.error, OverflowError) as error:
            raise LayerError(
                f"index too large: got a number that EROFS cannot hold ({error})",
                hint="use the form `tree` for this image",
            ) from error

    def finish(self, data_block: int) -> None:
        """Fill in what is unknown before every inode has its place.

        :param data_block: the first block of the data area.
        :raises LayerError: the image is larger than EROFS allows.
        """
        if data_block + self.blocks > on_disk.MAX_BLOCKS:
            raise LayerError(
                f"index too large: got {data_block + self.blocks} blocks of {BLOCK} bytes, "
                f"want at most {on_disk.MAX_BLOCKS}",
                hint="use the form `tree` for this image",
            )
        area, number = self.area, struct.Struct("<I")
        for at in self._relative:
            number.pack_into(area, at, number.unpack_from(area, at)[0] + data_block)
        for directory, at in self._tails.items():
            content = self.content(directory)
            area[at : at + len(content)] = content

    def content(self, number: int) -> bytes:
        """Return the data of a directory or a symbolic link."""
        listing = self._layout.listings.get(number)
        if listing is None:
            return self._inodes.targets[number]
        blocks = [self._names(*block) for block in listing.blocks()]
        return b"".join(block.ljust(BLOCK, b"\0") for block in blocks[:-1]) + blocks[-1]

    def _names(self, names: Sequence[bytes], numbers: array[int]) -> bytes:
        modes, offsets, size = self._inodes.mode, self.offsets, on_disk.DIRENT.size
        entries = map(
            on_disk.DIRENT.pack,
            [offsets[number] for number in numbers],
            accumulate(map(len, names), initial=size * len(names)),
            [_TYPES[modes[number] >> 12] for number in numbers],
        )
        return b"".join((*entries, *names))

    def _encode(self) -> None:
        area, offsets, first = self.area, self.offsets, self._start // INODE_UNIT
        sparse, epoch = self._inodes.sparse, self._layout.epoch
        most, longest = _MAX_SHORT_ID, BLOCK << MAX_CHUNK_BITS
        for row in self._rows():
            number, index, mode, uid, gid, seconds, nanoseconds, size, start, tar, links, xattrs = (
                row
            )
            offsets[number] = first + len(area) // INODE_UNIT
            if xattrs or not 0 < size <= longest or mode >> 12 != 8 or number in sparse:
                area += self._encoded(_Row(*row))
                continue
            bits = (size - 1).bit_length() - BLOCK_BITS
            union = on_disk.HAS_INDEXES | bits if bits > 0 else on_disk.HAS_INDEXES
            block = start >> BLOCK_BITS
            if (
                seconds == epoch[0] and nanoseconds == epoch[1]
                and uid <= most and gid <= most and links <= most and size <= _MAX_SHORT_SIZE
            ):  # fmt: skip
                area += _COMPACT_FILE.pack(
                    on_disk.CHUNKS, 0, mode, links, size, 0, union, index, uid, gid, 0,
                    0, tar, block,
                )  # fmt: skip
            else:
                area += _EXTENDED_FILE.pack(
                    on_disk.CHUNKS | on_disk.IS_EXTENDED, 0, mode, 0, size, union, index, uid, gid,
                    seconds, nanoseconds, links, 0, tar, block,
                )  # fmt: skip

    def _rows(self) -> Iterator[tuple[int, ...]]:
        """Return the fields of a `_Row` for each inode, in order."""
        inodes, order = self._inodes, self._layout.order
        columns = (
            *(inodes.mode, inodes.uid, inodes.gid, inodes.seconds, inodes.nanoseconds),
            *(inodes.size, inodes.start, inodes.tar, inodes.links, inodes.xattrs),
        )
        ordered = [map(column.__getitem__, order) for column in columns]
        return zip(order, range(1, len(order) + 1), *ordered, strict=True)

    def _encoded(self, row: _Row) -> bytes:
        """Encode any inode, and pad it to the start of the next one."""
        body, kind = self._xattrs[row.xattrs], stat.S_IFMT(row.mode)
        data, union, tail = on_disk.PLAIN, 0, b""
        extended = self._is_extended(row)
        size = (on_disk.EXTENDED if extended else on_disk.COMPACT).size + len(body)
        if kind == stat.S_IFREG and row.size:
            data, gap = on_disk.CHUNKS, bytes(-size % CHUNK_INDEX.size)
            union, tail = self._chunks(row, len(self.area) + size + len(gap))
            tail = gap + tail
        elif kind in (stat.S_IFDIR, stat.S_IFLNK):
            data, union = self._placed(row, size)
            tail = bytes(row.size) if data == on_disk.INLINE else b""
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            union = on_disk.encode_device(row.start)
        whole = _head(row, data, union, len(body), extended=extended) + body + tail
        return whole + bytes(-len(whole) % INODE_UNIT)

    def _is_extended(self, row: _Row) -> bool:
        return (
            (row.seconds, row.nanoseconds) != self._layout.epoch
            or max(row.uid, row.gid, row.links) > _MAX_SHORT_ID
            or row.size > _MAX_SHORT_SIZE
        )

    def _placed(self, row: _Row, size: int) -> tuple[int, int]:
        """Place the data of a directory or a link; return its data layout and the union.

        :param size: the length of the inode with its xattrs.
        """
        area = self.area
        if size < BLOCK and size % BLOCK + row.size <= BLOCK:
            at = self._start + len(area)
            if at % BLOCK + size + row.size > BLOCK:
                area += bytes(-at % BLOCK)
                self.offsets[row.number] = (self._start + len(area)) // INODE_UNIT
            self._tails[row.number] = len(area) + size
            return on_disk.INLINE, 0
        self._relative.append(len(area) + _UNION)
        self.outside.append(row.number)
        block, self.blocks = self.blocks, self.blocks - -row.size // BLOCK
        return on_disk.PLAIN, block

    def _chunks(self, row: _Row, at: int) -> tuple[int, bytes]:
        """Return the chunk format of a file, and its indexes, which start at ``at``."""
        segments, tar = self._inodes.sparse.get(row.number), row.tar
        if segments is None:
            bits = min(max(0, (row.size - 1).bit_length() - BLOCK_BITS), MAX_CHUNK_BITS)
            first, count = row.start // BLOCK, -(-row.size >> (BLOCK_BITS + bits))
            found = SparseMap(bits, range(first, first + (count << bits), 1 << bits), 0)
        else:
            found = sparse_map(
                segments,
                size=row.size,
                start=row.start,
                block=self.blocks,
                may_copy=tar > 0,  # only a tar can be read again
            )
        if found.own_blocks:
            tar, self.sparse[row.number] = 0, found
            self.outside.append(row.number)
            self.blocks += found.own_blocks
            places = enumerate(found.blocks)
            self._relative += [at + 8 * place + 4 for place, block in places if block != HOLE]
        indexes = (CHUNK_INDEX.pack(0, 0 if b == HOLE else tar, b) for b in found.blocks)
        return found.bits | on_disk.HAS_INDEXES, b"".join(indexes)


def _head(row: _Row, data: int, union: int, xattr_size: int, *, extended: bool) -> bytes:
    count = (xattr_size - on_disk.XATTR_HEADER.size) // 4 + 1 if xattr_size else 0
    owner = row.uid, row.gid
    if not extended:
        return on_disk.COMPACT.pack(
            *(data, count, row.mode, row.links, row.size, 0, union, row.place, *owner, 0)
        )
    return on_disk.EXTENDED.pack(
        *(data | on_disk.IS_EXTENDED, count, row.mode, 0, row.size, union, row.place, *owner),
        *(row.seconds, row.nanoseconds, row.links),
    )
