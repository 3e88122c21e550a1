"""Write an EROFS image of a tree, whose file contents stay in tars.

A tree of :class:`~stacker.erofs.inodes.Inodes` and the sizes of its tars come in; the bytes of the
image go out.  The same tree gives the same bytes.  This module must not change the tree's content.

The image has, in this order: the superblock, a slot for each tar, the inodes, the shared xattrs,
and the data of large directories, long targets and unaligned sparse files.
"""

from __future__ import annotations

import hashlib
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from stacker.erofs import format as on_disk
from stacker.erofs.format import BLOCK, aligned
from stacker.erofs.layout import Layout, chunk_bits, chunk_count, is_compact, lay_out
from stacker.erofs.sparse import own_data
from stacker.linux.filesystem import PRIVATE

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.erofs.inodes import Inodes

_SLOTS_OFFSET = on_disk.SUPERBLOCK_OFFSET + on_disk.SLOT_SIZE


@dataclass(frozen=True, slots=True)
class Tar:
    """A tar that an image refers to.

    :param size: its length in bytes.
    :param fd: a descriptor, to copy the data of unaligned sparse files.
    """

    size: int
    fd: int = -1


def write_index(path: Path, inodes: Inodes, root: int, tars: Sequence[tuple[Path, int]]) -> None:
    """Write the image of the tree of ``root`` to the new file ``path``.

    :param tars: the tars that the inodes refer to by number, from 1, and their sizes in bytes.
    :raises LayerError: EROFS cannot hold the tree.
    :raises OSError: a file cannot be opened or written.
    """
    needed = {inodes.tar[number] for number in inodes.sparse}
    with ExitStack() as opened:
        named = []
        for number, (tar, size) in enumerate(tars, 1):
            file = opened.enter_context(tar.open("rb")) if number in needed else None
            named.append(Tar(size, file.fileno() if file else -1))
        image = opened.enter_context(path.open("xb", buffering=0))
        path.chmod(PRIVATE)
        write_image(image, inodes, root, named)


def write_image(out: BinaryIO, inodes: Inodes, root: int, tars: Sequence[Tar]) -> None:
    """Write the image of the tree of ``root`` to the empty file ``out``.

    The UUID is a hash of the inodes, so that equal trees have equal images.

    :param tars: the tars that the inodes refer to by number, from 1.
    :raises LayerError: EROFS cannot hold the tree.
    """
    start = _SLOTS_OFFSET + on_disk.SLOT_SIZE * len(tars)
    xattrs = _Xattrs(inodes)
    layout = lay_out(inodes, root, start=start, xattrs=xattrs.bodies)
    xattr_block = -(-layout.end // BLOCK)
    data_block = xattr_block + -(-len(xattrs.shared) // BLOCK)
    writer = _Writer(inodes, layout, xattrs.bodies, data_block)
    area = writer.inodes(start, xattr_block * BLOCK)
    end, uuid = data_block + layout.blocks, hashlib.sha256(area).digest()[:16]
    superblock = _superblock(layout, uuid, tars=len(tars), xattr_block=xattr_block, end=end)
    _write_all(out, bytes(on_disk.SUPERBLOCK_OFFSET) + superblock)
    slots = (on_disk.DEVICE_SLOT.pack(b"", -(-tar.size // BLOCK), 0) for tar in tars)
    _write_all(out, b"".join(slots))
    _write_all(out, area)
    _write_all(out, xattrs.shared + bytes(-len(xattrs.shared) % BLOCK))
    for piece in writer.data(tars):
        _write_all(out, piece)


def _write_all(out: BinaryIO, data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:
        left = left[out.write(left) :]


def _superblock(layout: Layout, uuid: bytes, *, tars: int, xattr_block: int, end: int) -> bytes:
    seconds, nanoseconds = layout.epoch
    return on_disk.SUPERBLOCK.pack(
        on_disk.MAGIC,
        0,
        on_disk.COMPAT_MTIME,
        on_disk.BLOCK_BITS,
        0,
        layout.offsets[layout.root],
        len(layout.order),
        seconds,
        nanoseconds,
        end,
        0,
        xattr_block,
        uuid,
        b"",
        on_disk.INCOMPAT_CHUNKED_FILE | (on_disk.INCOMPAT_DEVICE_TABLE if tars else 0),
        0,
        tars,
        _SLOTS_OFFSET // on_disk.SLOT_SIZE,
        0,
        0,
        0,
        0,
        0,
    )


class _Xattrs:
    """The encoded xattrs: ``bodies`` by set, and the entries that several sets share."""

    def __init__(self, inodes: Inodes) -> None:
        uses = Counter(inodes.xattrs)
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for number, xattrs in enumerate(inodes.xattr_sets):
            for pair in xattrs:
                counts[pair] += uses[number]
        self.shared, self._ids = b"", dict[tuple[bytes, bytes], int]()
        pieces, at = [], 0
        for pair in sorted(pair for pair, count in counts.items() if count > 1):
            self._ids[pair] = at // 4
            pieces.append(on_disk.encode_xattr(*pair))
            at += len(pieces[-1])
        self.shared = b"".join(pieces)
        self.bodies = [self._body(xattrs) if xattrs else b"" for xattrs in inodes.xattr_sets]

    def _body(self, xattrs: Sequence[tuple[bytes, bytes]]) -> bytes:
        shared = [self._ids[pair] for pair in xattrs if pair in self._ids][:255]
        ids = b"".join(number.to_bytes(4, "little") for number in shared)
        left = [pair for pair in xattrs if self._ids.get(pair) not in shared]
        inline = b"".join(on_disk.encode_xattr(*pair) for pair in left)
        return on_disk.XATTR_HEADER.pack(0, len(shared)) + ids + inline


class _Writer:
    def __init__(
        self, inodes: Inodes, layout: Layout, xattrs: Sequence[bytes], data_block: int
    ) -> None:
        self._inodes = inodes
        self._layout = layout
        self._xattrs = xattrs
        self._data_block = data_block
        self._types = [on_disk.FILE_TYPES.get(kind << 12, 0) for kind in range(16)]

    def inodes(self, start: int, end: int) -> bytearray:
        """Return the bytes of the image from ``start`` to ``end``."""
        area, unit, offsets = bytearray(end - start), on_disk.INODE_UNIT, self._layout.offsets
        for index, number in enumerate(self._layout.order):
            encoded = self._inode(number, index + 1)
            at = offsets[number] * unit - start
            area[at : at + len(encoded)] = encoded
        return area

    def _inode(self, number: int, index: int) -> bytes:
        inodes, body = self._inodes, self._xattrs[self._inodes.xattrs[number]]
        mode, size = inodes.mode[number], inodes.size[number]
        kind, union, tail = stat.S_IFMT(mode), 0, b""
        data = on_disk.PLAIN
        if kind == stat.S_IFREG:
            if size:
                data, union, tail = on_disk.CHUNKS, *self._chunks(number, size)
        elif kind in (stat.S_IFDIR, stat.S_IFLNK):
            block = self._block(number)
            if block is None:
                data, tail = on_disk.INLINE, self._content(number)
            else:
                union = self._data_block + block
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            union = on_disk.encode_device(inodes.start[number])
        head = self._head(number, index, data, union, len(body)) + body
        return head + bytes(-len(head) % 8 if data == on_disk.CHUNKS else 0) + tail

    def _head(self, number: int, index: int, data: int, union: int, xattr_size: int) -> bytes:
        inodes = self._inodes
        count = (xattr_size - on_disk.XATTR_HEADER.size) // 4 + 1 if xattr_size else 0
        mode, size = inodes.mode[number], inodes.size[number]
        uid, gid, links = inodes.uid[number], inodes.gid[number], inodes.links[number]
        if is_compact(inodes, number, self._layout.epoch):
            return on_disk.COMPACT.pack(
                data, count, mode, links, size, 0, union, index, uid, gid, 0
            )
        seconds, nanoseconds = inodes.seconds[number], inodes.nanoseconds[number]
        seconds &= (1 << 64) - 1
        return on_disk.EXTENDED.pack(
            data | on_disk.IS_EXTENDED,
            *(count, mode, 0, size, union, index, uid, gid, seconds, nanoseconds, links),
        )

    def _chunks(self, number: int, size: int) -> tuple[int, bytes]:
        """Return the chunk format of a file, and its indexes."""
        inodes, device, pack = self._inodes, self._inodes.tar[number], on_disk.CHUNK_INDEX.pack
        found = self._layout.sparse.get(number)
        if found is None:
            bits, first = chunk_bits(size), inodes.start[number] // BLOCK
            count = chunk_count(size, bits)
            if count == 1:
                return bits | on_disk.HAS_INDEXES, pack(0, device, first)
            indexes = (pack(0, device, first + (index << bits)) for index in range(count))
            return bits | on_disk.HAS_INDEXES, b"".join(indexes)
        base = 0
        if found.own_blocks:
            device, base = 0, self._data_block
        hole = pack(0, 0, on_disk.HOLE)
        indexes = (
            hole if block == on_disk.HOLE else pack(0, device, base + block)
            for block in found.blocks
        )
        return found.bits | on_disk.HAS_INDEXES, b"".join(indexes)

    def _block(self, number: int) -> int | None:
        listing = self._layout.listings.get(number)
        return self._layout.target_blocks.get(number) if listing is None else listing.block

    def _content(self, number: int) -> bytes:
        """Return the data of a directory or a symbolic link."""
        listing = self._layout.listings.get(number)
        if listing is None:
            return self._inodes.targets[number]
        children, offsets = self._inodes.directories[number], self._layout.offsets
        numbers = {b".": number, b"..": listing.parent}
        modes, types, pack = self._inodes.mode, self._types, on_disk.DIRENT.pack
        blocks, first = [], 0
        for end in listing.ends:
            names = listing.names[first:end]
            at, entries = on_disk.DIRENT.size * len(names), []
            for name in names:
                child = children[name] if name in children else numbers[name]
                entries.append(pack(offsets[child], at, types[modes[child] >> 12]))
                at += len(name)
            block = b"".join(entries + names)
            blocks.append(block if end == len(listing.names) else block.ljust(BLOCK, b"\0"))
            first = end
        return b"".join(blocks)

    def data(self, tars: Sequence[Tar]) -> Iterator[bytes]:
        """Yield the data area."""
        layout, inodes = self._layout, self._inodes
        for number in layout.order:
            found = layout.sparse.get(number)
            if found is not None and found.own_blocks:
                segments, start = inodes.sparse[number], inodes.start[number]
                yield from own_data(segments, start=start, tar=tars[inodes.tar[number] - 1].fd)
            elif inodes.kind(number) != stat.S_IFREG and self._block(number) is not None:
                content = self._content(number)
                yield content.ljust(aligned(len(content), BLOCK), b"\0")
