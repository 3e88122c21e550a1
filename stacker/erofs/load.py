"""Load the tree of an EROFS image into inodes in memory.

An :class:`~stacker.erofs.read.Image` comes in; its tree is added to
:class:`~stacker.erofs.inodes.Inodes`, where trees of several layers can be merged.  The image can
be damaged: errors are raised before a wrong value is used.  This module must not write.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from stacker.erofs.inodes import XattrSet, xattr_set
from stacker.errors import IntegrityError
from stacker.tar.entry import Meta, Segment

if TYPE_CHECKING:
    from stacker.erofs.inodes import Inodes
    from stacker.erofs.read import Image, Inode

_SECOND = 1_000_000_000
_DIRECTORY = 2  # in FILE_TYPES


class CopiedDataError(Exception):
    """The image has the data of a sparse file, which only the tar can describe."""


def load_tree(image: Image, inodes: Inodes, *, tar: int) -> int:
    """Add the tree of the image of one layer.

    :param tar: the number that the layer's tar has among those of `inodes`.
    :returns: the number of the root.
    :raises IntegrityError: the image is damaged.
    :raises CopiedDataError: the tree cannot be loaded; apply the tar instead.
    """
    return _Loader(image, inodes, tar).run()


class _Loader:
    def __init__(self, image: Image, inodes: Inodes, tar: int) -> None:
        self._image = image
        self._inodes = inodes
        self._tar = tar
        self._numbers: dict[int, int] = {}
        self._sets: dict[bytes, XattrSet] = {}

    def run(self) -> int:
        image = self._image
        top = image.inode(image.superblock.root)
        root = self._directory(top)
        todo = [(top, root)]
        numbers = self._numbers
        while todo:
            above, number = todo.pop()
            names = self._inodes.directories[number]
            for name, nid, kind in image.names(above):
                if kind == _DIRECTORY:
                    if name in (b".", b".."):
                        continue
                    inode = image.inode(nid)
                    if nid in numbers or not stat.S_ISDIR(inode.mode):
                        raise self._damaged(f"directory {nid} has two names, or is a file")
                    names[name] = child = self._directory(inode)
                    todo.append((inode, child))
                else:
                    known = numbers.get(nid)
                    names[name] = self._file(image.inode(nid)) if known is None else known
        return root

    def _directory(self, inode: Inode) -> int:
        number = self._numbers[inode.nid] = self._inodes.add_directory(*self._meta(inode))
        return number

    def _file(self, inode: Inode) -> int:
        meta, xattrs = self._meta(inode)
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFLNK:
            number = self._inodes.add_symlink(meta, self._image.target(inode), xattrs)
        elif kind == stat.S_IFREG:
            number = self._regular(inode, meta, xattrs)
        elif kind == stat.S_IFDIR:
            raise self._damaged(f"directory {inode.nid} is listed as a file")
        else:
            device = inode.device if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
            number = self._inodes.add(kind, meta, xattrs, start=device)
        self._numbers[inode.nid] = number
        return number

    def _regular(self, inode: Inode, meta: Meta, xattrs: XattrSet) -> int:
        """Add a regular file; one whose chunks do not follow each other is sparse."""
        chunks = iter(self._image.chunks(inode))
        first = next(chunks, None)
        start = first.start if first else 0
        if first is None or (first.tar == 1 and first.length == inode.size):
            return self._inodes.add(
                stat.S_IFREG, meta, xattrs, size=inode.size, start=start, tar=self._tar
            )
        return self._sparse(inode, meta, xattrs)

    def _sparse(self, inode: Inode, meta: Meta, xattrs: XattrSet) -> int:
        segments: list[Segment] = []
        start = expected = 0
        for chunk in self._image.chunks(inode):
            if chunk.tar < 0:
                continue
            if chunk.tar == 0 or (segments and chunk.start != expected):
                raise CopiedDataError
            start = start if segments else chunk.start
            expected = chunk.start + chunk.length
            segments.append(Segment(chunk.offset, chunk.length))
        number = self._inodes.add(
            stat.S_IFREG, meta, xattrs, size=inode.size, start=start, tar=self._tar
        )
        self._inodes.sparse[number] = tuple(segments)
        return number

    def _meta(self, inode: Inode) -> tuple[Meta, XattrSet]:
        mtime = inode.seconds * _SECOND + inode.nanoseconds
        meta = Meta(stat.S_IMODE(inode.mode), inode.uid, inode.gid, mtime, mtime, None)
        if not inode.xattr_size:
            return meta, ()
        raw = bytes(self._image.data[inode.xattrs : inode.tail])
        known = self._sets.get(raw)
        if known is None:
            known = self._sets[raw] = xattr_set(self._image.xattrs(inode))
        return meta, known

    def _damaged(self, got: str) -> IntegrityError:
        return IntegrityError(f"damaged index: {self._image.what}: got {got}")
