"""Read an EROFS image of metadata, mapped into memory.

The bytes of an image come in; inodes, names and the places of file contents go out.  An image can
be damaged or hostile: every offset is checked, and errors are raised before a wrong value is
returned.  This module reads what :mod:`~stacker.erofs.write` writes, and must not open files.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from operator import lt
from typing import Final, NamedTuple, NoReturn

from stacker.erofs import format as on_disk
from stacker.erofs.format import BLOCK, aligned
from stacker.errors import IntegrityError
from stacker.linux.syscall import PATH_MAX

_DATA_LAYOUT: Final = 0b1110
_MAX_NANOSECONDS: Final = 999_999_999
_ENTRY_BITS: Final = 6
"""Bits of the place of an entry in a block, which holds fewer than 64."""


class Inode(NamedTuple):
    """An inode of an image.

    :param nid: its number.
    :param seconds: the time of its last modification, with ``nanoseconds``.
    :param device: the number of a device node.
    :param union: the first block of the data, or the format of the chunks.
    :param layout: ``PLAIN``, ``INLINE`` or ``CHUNKS``.
    :param xattrs: the offset of the xattrs in bytes.
    :param xattr_size: their length in bytes.
    """

    nid: int
    mode: int
    uid: int
    gid: int
    seconds: int
    nanoseconds: int
    size: int
    links: int
    union: int
    layout: int
    xattrs: int
    xattr_size: int

    @property
    def device(self) -> int:
        """The number of a device node."""
        return on_disk.decode_device(self.union)

    @property
    def tail(self) -> int:
        """The offset after the xattrs."""
        return self.xattrs + self.xattr_size


class Chunk(NamedTuple):
    """A part of a file.

    :param offset: where it starts in the file.
    :param length: its length in bytes.
    :param tar: the number of the tar with the data, 0 for the image itself, -1 for a hole.
    :param start: where the data starts there, in bytes.
    """

    offset: int
    length: int
    tar: int
    start: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """The values of a superblock that reading needs."""

    root: int
    inodes: int
    epoch: tuple[int, int]
    xattr_offset: int
    uuid: bytes
    tars: int


class Image:
    """An image, given as its bytes.

    :param data: the whole image, such as a read-only :class:`mmap.mmap`.
    :param what: the name of the image in errors.
    :raises IntegrityError: here and in each method, if the image is damaged.
    """

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self.data = memoryview(data)
        self.what = what
        self.superblock = self._superblock()

    def inode(self, nid: int) -> Inode:
        """Return an inode."""
        at = nid * on_disk.INODE_UNIT
        try:
            fields = on_disk.COMPACT.unpack_from(self.data, at)
            head, count, mode, links, size, _, union, _, uid, gid, _ = fields
            seconds, nanoseconds = self.superblock.epoch
            end = at + on_disk.COMPACT.size
            if head & on_disk.IS_EXTENDED:
                fields = on_disk.EXTENDED.unpack_from(self.data, at)
                _, _, _, _, size, union, _, uid, gid, seconds, nanoseconds, links = fields
                end = at + on_disk.EXTENDED.size
        except (struct.error, OverflowError):
            self._damaged(f"got inode {nid} outside of the image")
        if nanoseconds > _MAX_NANOSECONDS:
            self._damaged(f"got {nanoseconds} nanoseconds in inode {nid}")
        xattr_size = on_disk.XATTR_HEADER.size + 4 * (count - 1) if count else 0
        # Calling Inode() costs one more Python call, and a merge reads every inode.
        values = nid, mode, uid, gid, seconds, nanoseconds, size, links, union, head & _DATA_LAYOUT
        return tuple.__new__(Inode, (*values, end, xattr_size))

    def attributes(self, nid: int) -> tuple[int, int, int, int, int, int, int, int]:
        """Return mode, links, uid, gid, size, seconds, nanoseconds and union of an inode.

        They are those of `inode`, which takes twice as long.
        """
        data, at = self.data, nid * on_disk.INODE_UNIT
        try:
            if data[at] & on_disk.IS_EXTENDED:
                _, _, mode, _, size, union, _, uid, gid, seconds, nanoseconds, links = (
                    on_disk.EXTENDED.unpack_from(data, at)
                )
                return mode, links, uid, gid, size, seconds, nanoseconds, union
            _, _, mode, links, size, _, union, _, uid, gid, _ = on_disk.COMPACT.unpack_from(
                data, at
            )
        except (struct.error, IndexError):
            self._damaged(f"got inode {nid} outside of the image")
        return mode, links, uid, gid, size, *self.superblock.epoch, union

    def names(self, inode: Inode) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, inode number and file type of each entry of a directory."""
        if not stat.S_ISDIR(inode.mode):
            self._damaged(f"got inode {inode.nid} of mode {inode.mode:#o}, want a directory")
        data = self._flat(inode)
        for start in range(0, len(data), BLOCK):
            yield from self._block(data[start : start + BLOCK], inode)

    def names_after(self, inode: Inode, offset: int) -> Iterator[tuple[int, bytes, int]]:
        """Yield offset, name and inode number of each entry of a directory after an offset.

        An offset is the number of a block and the place of the entry in it, so that a directory
        of any length is continued at once.

        :param offset: the offset of the last entry already read; 0 to start.
        """
        data = self._flat(inode)
        for number in range(offset >> _ENTRY_BITS, -(-len(data) // BLOCK)):
            at = number << _ENTRY_BITS
            found = self._block(data[number * BLOCK : (number + 1) * BLOCK], inode)
            skipped = max(0, offset - at)
            for place, (name, nid, _) in enumerate(found[skipped:], at + skipped + 1):
                yield place, name, nid

    def lookup(self, inode: Inode, name: bytes) -> int | None:
        """Return the inode number of a name in a directory."""
        data = self._flat(inode)
        low, high = 0, -(-len(data) // BLOCK) - 1
        while low < high:
            middle = (low + high + 1) // 2
            first = self._first_name(data[middle * BLOCK : (middle + 1) * BLOCK], inode)
            low, high = (middle, high) if first <= name else (low, middle - 1)
        for found, nid, _ in self._block(data[low * BLOCK : (low + 1) * BLOCK], inode):
            if found == name:
                return nid
        return None

    def target(self, inode: Inode) -> bytes:
        """Return the target of a symbolic link."""
        if inode.size >= PATH_MAX:
            self._damaged(f"got a target of {inode.size} bytes, want fewer than {PATH_MAX}")
        return bytes(self._flat(inode))

    def only_chunk(self, inode: Inode) -> int | None:
        """Return where a regular file starts in tar 1, or ``None`` if it is not one chunk of it."""
        if inode.layout != on_disk.CHUNKS or inode.size > BLOCK << (inode.union & 0x1F):
            return None
        try:
            at = aligned(inode.tail, on_disk.CHUNK_INDEX.size)
            _, tar, block = on_disk.CHUNK_INDEX.unpack_from(self.data, at)
        except (struct.error, OverflowError):
            self._damaged(f"got chunks of inode {inode.nid} outside of the image")
        return block * BLOCK if tar == 1 and block != on_disk.HOLE else None

    def chunks(self, inode: Inode) -> Iterator[Chunk]:
        """Yield the parts of a regular file, in order."""
        if not inode.size:
            return
        if inode.layout != on_disk.CHUNKS:
            self._damaged(f"got data layout {inode.layout} for inode {inode.nid}, want chunks")
        size = BLOCK << (inode.union & 0x1F)
        at = aligned(inode.tail, on_disk.CHUNK_INDEX.size)
        for offset in range(0, inode.size, size):
            try:
                _, tar, block = on_disk.CHUNK_INDEX.unpack_from(self.data, at)
            except (struct.error, OverflowError):
                self._damaged(f"got chunks of inode {inode.nid} outside of the image")
            at += on_disk.CHUNK_INDEX.size
            if tar > self.superblock.tars:
                self._damaged(f"got tar {tar}, want at most {self.superblock.tars}")
            length = min(size, inode.size - offset)
            hole = block == on_disk.HOLE
            yield Chunk(offset, length, -1 if hole else tar, 0 if hole else block * BLOCK)

    def chunk_at(self, inode: Inode, offset: int) -> tuple[int, int, int]:
        """Return tar, start and length of the data at an offset inside a regular file.

        :returns: as in `Chunk`, from the offset to the end of its chunk.
        """
        if inode.layout != on_disk.CHUNKS:
            self._damaged(f"got data layout {inode.layout} for inode {inode.nid}, want chunks")
        bits = on_disk.BLOCK_BITS + (inode.union & 0x1F)
        number, inside = offset >> bits, offset & ((1 << bits) - 1)
        at = aligned(inode.tail, on_disk.CHUNK_INDEX.size) + on_disk.CHUNK_INDEX.size * number
        try:
            _, tar, block = on_disk.CHUNK_INDEX.unpack_from(self.data, at)
        except struct.error:
            self._damaged(f"got chunks of inode {inode.nid} outside of the image")
        length = min(1 << bits, inode.size - (number << bits)) - inside
        if block == on_disk.HOLE:
            return -1, 0, length
        if tar > self.superblock.tars:
            self._damaged(f"got tar {tar}, want at most {self.superblock.tars}")
        return tar, block * BLOCK + inside, length

    def end_of(self, inode: Inode) -> int:
        """Return the offset at which the next inode can start."""
        end = inode.tail
        if inode.layout == on_disk.CHUNKS and inode.size:
            bits = on_disk.BLOCK_BITS + (inode.union & 0x1F)
            end = aligned(end, on_disk.CHUNK_INDEX.size)
            end += on_disk.CHUNK_INDEX.size * -(-inode.size >> bits)
        elif inode.layout == on_disk.INLINE:
            end += inode.size
        return aligned(end, on_disk.INODE_UNIT)

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """Return the xattrs of an inode."""
        if not inode.xattr_size:
            return {}
        body = self._piece(inode.xattrs, inode.xattr_size)
        _, count = on_disk.XATTR_HEADER.unpack_from(body)
        at = on_disk.XATTR_HEADER.size + 4 * count
        found = dict[bytes, bytes]()
        for index in range(count):
            start = on_disk.XATTR_HEADER.size + 4 * index
            number = int.from_bytes(body[start : start + 4], "little")
            name, value, _ = self._xattr(self.data, self.superblock.xattr_offset + 4 * number)
            found[name] = value
        while at < len(body):
            name, value, at = self._xattr(body, at)
            found[name] = value
        return found

    def _superblock(self) -> Superblock:
        try:
            fields = on_disk.SUPERBLOCK.unpack_from(self.data, on_disk.SUPERBLOCK_OFFSET)
        except struct.error:
            self._damaged(f"got {len(self.data)} bytes, want a superblock")
        if fields[0] != on_disk.MAGIC or fields[3] != on_disk.BLOCK_BITS or fields[10]:
            self._damaged("got another format, want an EROFS image with blocks of 512 bytes")
        if fields[14] & ~on_disk.KNOWN_INCOMPAT:
            self._damaged(f"got features {fields[14]:#x}, want {on_disk.KNOWN_INCOMPAT:#x}")
        at, uuid = fields[11] * BLOCK, fields[12]
        return Superblock(fields[5], fields[6], fields[7:9], at, uuid, fields[16])

    def _flat(self, inode: Inode) -> memoryview:
        """Return the data of a directory or a symbolic link."""
        if inode.layout == on_disk.INLINE and inode.size <= BLOCK:
            return self._piece(inode.tail, inode.size)
        if inode.layout != on_disk.PLAIN:
            self._damaged(f"got data layout {inode.layout} for inode {inode.nid}")
        return self._piece(inode.union * BLOCK, inode.size)

    def _block(self, block: memoryview, inode: Inode) -> list[tuple[bytes, int, int]]:
        """Return the entries of a block of a directory."""
        data = bytes(block).rstrip(b"\0")  # zeroes follow the last name
        try:
            _, first, _ = on_disk.DIRENT.unpack_from(data)
            nids, starts, kinds = zip(*on_disk.DIRENT.iter_unpack(data[:first]), strict=True)
        except (struct.error, ValueError):
            self._damaged(f"got a malformed block in directory {inode.nid}")
        ends, text = (*starts[1:], len(data)), data[first:]
        if starts[0] != first or b"/" in text or b"\0" in text or not all(map(lt, starts, ends)):
            self._damaged(f"got malformed names in directory {inode.nid}")
        names = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        return list(zip(names, nids, kinds, strict=True))

    def _first_name(self, block: memoryview, inode: Inode) -> bytes:
        """Return the first name of a block; do not decode the others."""
        try:
            _, first, _ = on_disk.DIRENT.unpack_from(block)
            if first <= on_disk.DIRENT.size:
                return self._block(block, inode)[0][0]
            _, end, _ = on_disk.DIRENT.unpack_from(block, on_disk.DIRENT.size)
        except struct.error:
            self._damaged(f"got a malformed block in directory {inode.nid}")
        return bytes(block[first:end])

    def _xattr(self, data: memoryview, at: int) -> tuple[bytes, bytes, int]:
        try:
            length, number, size = on_disk.XATTR_ENTRY.unpack_from(data, at)
            start = at + on_disk.XATTR_ENTRY.size
            name = on_disk.join_xattr_name(number, bytes(data[start : start + length]))
        except (struct.error, KeyError):
            self._damaged(f"got a malformed xattr at byte {at}")
        value = bytes(data[start + length : start + length + size])
        if len(value) != size:
            self._damaged(f"got an xattr outside of the image at byte {at}")
        return name, value, start + aligned(length + size, 4)

    def _piece(self, start: int, length: int) -> memoryview:
        piece = self.data[start : start + length]
        if len(piece) != length:
            self._damaged(f"got {length} bytes at byte {start} outside of the image")
        return piece

    def _damaged(self, got: str) -> NoReturn:
        raise IntegrityError(
            f"damaged index: {self.what}: {got}",
            hint="replace the layer with `stacker repair`",
        )
