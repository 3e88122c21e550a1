"""Write an EROFS image of a tree, whose file contents stay in tars.

A tree of :class:`~stacker.erofs.inodes.Inodes` and the sizes of its tars come in; the bytes of the
image go out.  The same tree gives the same bytes.  This module must not change the tree's content.

The image has, in this order: the superblock, a slot for each tar, the inodes, the shared xattrs,
and the data of large directories, long targets and unaligned sparse files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from stacker.erofs import format as on_disk
from stacker.erofs.encode import Encoder
from stacker.erofs.format import BLOCK
from stacker.erofs.layout import Layout, lay_out
from stacker.erofs.sparse import own_data
from stacker.errors import LayerError
from stacker.linux.filesystem import create_private

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.erofs.inodes import Inodes

_SLOTS_OFFSET = on_disk.SUPERBLOCK_OFFSET + on_disk.SLOT_SIZE
_MAX_SHARED = 0xFF
_MAX_BODY = on_disk.XATTR_HEADER.size + 4 * (0xFFFF - 1)
"""The longest xattrs of an inode, by the count in its head."""


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
        image = opened.enter_context(create_private(path))
        write_image(image, inodes, root, named)


def write_image(
    out: BinaryIO, inodes: Inodes, root: int, tars: Sequence[Tar], *, contents: int = 0
) -> None:
    """Write the image of the tree of ``root`` to the empty file ``out``.

    The UUID is a hash of the inodes, so that equal trees have equal images.

    :param tars: the tars that the inodes refer to by number, from 1; 0 is the image itself.
    :param contents: the bytes of file contents that the caller appends, in whole blocks.
    :raises LayerError: EROFS cannot hold the tree.
    """
    slots = b"".join(map(_slot, tars))
    xattrs = _Xattrs(inodes)
    layout = lay_out(inodes, root)
    encoder = Encoder(inodes, layout, xattrs.bodies, start=_SLOTS_OFFSET + len(slots))
    area, start = encoder.area, _SLOTS_OFFSET + len(slots)
    area += bytes(-(start + len(area)) % BLOCK)
    xattr_block = (start + len(area)) // BLOCK
    data_block = xattr_block + len(xattrs.shared) // BLOCK
    encoder.finish(data_block)
    end, uuid = data_block + encoder.blocks, hashlib.sha256(area).digest()[:16]
    end = _whole_end(end, contents)
    superblock = _superblock(
        layout, encoder, uuid, tars=len(tars), xattr_block=xattr_block, end=end
    )
    out.writelines((bytes(on_disk.SUPERBLOCK_OFFSET), superblock, slots, area, xattrs.shared))
    out.writelines(_outside(inodes, encoder, tars))


def _slot(tar: Tar) -> bytes:
    blocks = -(-tar.size // BLOCK)
    if blocks > on_disk.MAX_BLOCKS:
        raise LayerError(
            f"layer too large: got a tar of {tar.size} bytes, want at most "
            f"{on_disk.MAX_BLOCKS * BLOCK}",
            hint="use the form `tree` for this image",
        )
    return on_disk.DEVICE_SLOT.pack(b"", blocks, 0)


def _whole_end(end: int, contents: int) -> int:
    """Return the number of blocks with the contents that the caller appends."""
    end += contents // BLOCK
    if end > on_disk.MAX_BLOCKS:
        raise LayerError(
            f"image too large: got {end} blocks of {BLOCK} bytes, want at most {on_disk.MAX_BLOCKS}"
        )
    return end


def _outside(inodes: Inodes, encoder: Encoder, tars: Sequence[Tar]) -> Iterator[bytes]:
    """Yield the data area."""
    for number in encoder.outside:
        if (found := encoder.sparse.get(number)) is not None:
            segments, start = inodes.sparse[number], inodes.start[number]
            tar = tars[inodes.tar[number] - 1].fd
            yield from own_data(segments, bits=found.bits, start=start, tar=tar)
        else:
            content = encoder.content(number)
            yield content + bytes(-len(content) % BLOCK)


def _superblock(
    layout: Layout, encoder: Encoder, uuid: bytes, *, tars: int, xattr_block: int, end: int
) -> bytes:
    seconds, nanoseconds = layout.epoch
    return on_disk.SUPERBLOCK.pack(
        on_disk.MAGIC,
        0,
        on_disk.COMPAT_MTIME,
        on_disk.BLOCK_BITS,
        0,
        encoder.offsets[layout.root],
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
    """The encoded xattrs: ``bodies`` by set, and the entries that several inodes share.

    ``shared`` is padded to whole blocks (``filesystems/erofs.rst``, *Xattrs*).
    """

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
        self.shared = b"".join(pieces) + bytes(-at % BLOCK)
        self.bodies = [self._body(xattrs) if xattrs else b"" for xattrs in inodes.xattr_sets]

    def _body(self, xattrs: Sequence[tuple[bytes, bytes]]) -> bytes:
        shared = [pair for pair in xattrs if pair in self._ids][:_MAX_SHARED]
        ids = b"".join(self._ids[pair].to_bytes(4, "little") for pair in shared)
        known = set(shared)
        inline = b"".join(on_disk.encode_xattr(*pair) for pair in xattrs if pair not in known)
        body = on_disk.XATTR_HEADER.pack(0, len(shared)) + ids + inline
        if len(body) > _MAX_BODY:
            raise LayerError(
                f"xattrs too large: got {len(body)} bytes for one file, want at most {_MAX_BODY}",
                hint="use the form `tree` for this image",
            )
        return body
