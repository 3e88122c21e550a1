"""Give each inode of an image its place.

A tree and the encoded xattrs come in; offsets of inodes, and the blocks of directories and of
long targets go out.  A directory precedes the inodes of its files, and small directories and
targets follow their inode in the same block, so that a walk reads the metadata once and in order.
This module must not encode structures.
"""

from __future__ import annotations

import stat
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from stacker.erofs.format import (
    BLOCK,
    BLOCK_BITS,
    CHUNK_INDEX,
    COMPACT,
    DIRENT,
    EXTENDED,
    INODE_UNIT,
    MAX_BLOCKS,
    MAX_CHUNK_BITS,
    aligned,
)
from stacker.erofs.sparse import SparseMap, sparse_map
from stacker.errors import LayerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.erofs.inodes import Inodes

_MAX_SHORT_ID: Final = 0xFFFF
_DOTS: Final = (b".", b"..")


@dataclass(slots=True)
class Listing:
    """The sorted names of a directory, and how they fill its blocks.

    :param names: all names, with ``.`` and ``..``.
    :param ends: the index after the last name of each block.
    :param size: the length of the directory's data in bytes.
    :param parent: the inode of the parent directory.
    :param block: the first block of the data, from the start of the data area; ``None`` if the
        data follows the inode.
    """

    names: list[bytes]
    ends: list[int]
    size: int
    parent: int
    block: int | None = None


@dataclass(slots=True)
class Layout:
    """The places of a tree in an image.

    :param root: the inode of the root directory.
    :param epoch: the time, in seconds and nanoseconds, that compact inodes have.
    :param order: the inodes by their place.
    :param offsets: the offset of each inode in units of ``INODE_UNIT``; 0 if it is not in the tree.
    :param end: the offset after the last inode in bytes.
    :param listings: the listing of each directory.
    :param target_blocks: the blocks of targets that do not follow their inode.
    :param sparse: the chunks of sparse files.
    :param blocks: the length of the data area.
    """

    root: int
    epoch: tuple[int, int]
    order: array[int]
    offsets: array[int]
    end: int
    listings: dict[int, Listing] = field(default_factory=dict)
    target_blocks: dict[int, int] = field(default_factory=dict)
    sparse: dict[int, SparseMap] = field(default_factory=dict)
    blocks: int = 0


def chunk_bits(size: int) -> int:
    """Return the exponent of the smallest chunk, in blocks, that holds a file of ``size`` bytes."""
    return min(max(0, (size - 1).bit_length() - BLOCK_BITS), MAX_CHUNK_BITS)


def chunk_count(size: int, bits: int) -> int:
    """Return the number of chunks of a file."""
    return -(-size >> (BLOCK_BITS + bits))


def is_compact(inodes: Inodes, number: int, epoch: tuple[int, int]) -> bool:
    """Return whether an inode fits into the short form.

    The short form has no time of its own: before Linux 6.15, all such inodes have that of the
    superblock.
    """
    return (
        (inodes.seconds[number], inodes.nanoseconds[number]) == epoch
        and inodes.uid[number] <= _MAX_SHORT_ID
        and inodes.gid[number] <= _MAX_SHORT_ID
        and inodes.links[number] <= _MAX_SHORT_ID
        and inodes.size[number] <= MAX_BLOCKS
    )


def lay_out(inodes: Inodes, root: int, *, start: int, xattrs: Sequence[bytes]) -> Layout:
    """Place the tree of ``root``; set ``links`` of its inodes, and ``size`` of its directories.

    :param start: the offset of the first inode in bytes.
    :param xattrs: the encoded body of each xattr set.
    :raises LayerError: the image is larger than EROFS allows.
    """
    return _Planner(inodes, root, start, xattrs).run()


class _Planner:
    def __init__(self, inodes: Inodes, root: int, start: int, xattrs: Sequence[bytes]) -> None:
        self._inodes = inodes
        self._xattrs = xattrs
        times = Counter(zip(inodes.seconds, inodes.nanoseconds, strict=True))
        epoch = min(times, key=lambda time: (-times[time], time))
        self._layout = Layout(
            root,
            epoch if epoch[0] >= 0 else (0, 0),
            array("I"),
            array("I", bytes(4 * len(inodes))),
            aligned(start, INODE_UNIT),
        )

    def run(self) -> Layout:
        root = self._layout.root
        walked = list(self._walked(root))
        for directory in walked:
            self._place(directory)
            children = self._inodes.directories[directory]
            for name in self._layout.listings[directory].names:  # the order of a listing
                child = children.get(name, directory)
                if child not in self._inodes.directories and not self._layout.offsets[child]:
                    self._place(child)
        layout = self._layout
        if layout.end // BLOCK + layout.blocks > MAX_BLOCKS:
            raise LayerError(
                f"index too large: got {layout.end} bytes of metadata and {layout.blocks} blocks, "
                f"want at most {MAX_BLOCKS} blocks of {BLOCK} bytes",
                hint="use the form `tree` for this image",
            )
        return layout

    def _walked(self, root: int) -> Sequence[int]:
        """Return the directories, parents first; count links and list names on the way."""
        inodes, listings = self._inodes, self._layout.listings
        inodes.links = links = array("I", bytes(4 * len(inodes)))
        directories, order = inodes.directories, list[int]()
        links[root], stack = 2, [(root, root)]
        while stack:
            number, parent = stack.pop()
            order.append(number)
            children = directories[number]
            listings[number] = listing = _listing([*children, *_DOTS], parent)
            inodes.size[number] = listing.size
            inner = []
            for name in listing.names:
                child = children.get(name)
                if child is None:
                    continue
                if child in directories:
                    links[child] = 2
                    links[number] += 1
                    inner.append((child, number))
                else:
                    links[child] += 1
            stack += reversed(inner)
        return order

    def _place(self, number: int) -> None:
        inodes, layout = self._inodes, self._layout
        head = COMPACT.size if is_compact(inodes, number, layout.epoch) else EXTENDED.size
        head += len(self._xattrs[inodes.xattrs[number]])
        kind, size, tail = stat.S_IFMT(inodes.mode[number]), inodes.size[number], 0
        if kind == stat.S_IFREG:
            head = aligned(head, CHUNK_INDEX.size) + CHUNK_INDEX.size * self._chunks(number, size)
        elif kind in (stat.S_IFDIR, stat.S_IFLNK):
            tail = size if head % BLOCK + size <= BLOCK and head < BLOCK else 0
            if not tail:
                self._place_data(number, size)
        at = layout.end
        if tail and at % BLOCK + head + tail > BLOCK:
            at = aligned(at, BLOCK)
        layout.offsets[number] = at // INODE_UNIT
        layout.order.append(number)
        layout.end = aligned(at + head + tail, INODE_UNIT)

    def _chunks(self, number: int, size: int) -> int:
        """Return the number of chunks of a file; place those of a sparse one."""
        if not size:
            return 0
        segments = self._inodes.sparse.get(number)
        if segments is None:
            return chunk_count(size, chunk_bits(size))
        layout = self._layout
        layout.sparse[number] = found = sparse_map(
            segments, size=size, start=self._inodes.start[number], block=layout.blocks
        )
        layout.blocks += found.own_blocks
        return len(found.blocks)

    def _place_data(self, number: int, size: int) -> None:
        layout = self._layout
        if number in layout.listings:
            layout.listings[number].block = layout.blocks
        else:
            layout.target_blocks[number] = layout.blocks
        layout.blocks += -(-size // BLOCK)


def _listing(names: list[bytes], parent: int) -> Listing:
    """Return a sorted listing, with as many names in each block as fit."""
    names.sort()
    ends, used = [], 0
    for index, name in enumerate(names):
        need = DIRENT.size + len(name)
        used += need
        if used > BLOCK:
            ends.append(index)
            used = need
    ends.append(len(names))
    return Listing(names, ends, BLOCK * (len(ends) - 1) + used, parent)
