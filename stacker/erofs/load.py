"""Load the tree of an EROFS image into inodes in memory.

An :class:`~stacker.erofs.read.Image` comes in; its tree is added to
:class:`~stacker.erofs.inodes.Inodes`, where trees of several layers can be merged.  The image can
be damaged: errors are raised before a wrong value is used.  This module must not write.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from stacker.erofs.inodes import xattr_set
from stacker.errors import IntegrityError
from stacker.tar.entry import Segment

if TYPE_CHECKING:
    from stacker.erofs.inodes import Inodes, Row
    from stacker.erofs.read import Image, Inode

_DIRECTORY: Final = 2  # in FILE_TYPES
_DOTS: Final = (b".", b"..")
_REGULAR, _DIRECTORY_KIND, _SYMLINK = stat.S_IFREG >> 12, stat.S_IFDIR >> 12, stat.S_IFLNK >> 12
_DEVICES: Final = (stat.S_IFCHR >> 12, stat.S_IFBLK >> 12)
_ROWS: Final = 4096
"""The number of rows that are added together."""


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
        self._sets: dict[bytes, int] = {}
        self._rows: list[Row] = []
        self._next = len(inodes)

    def run(self) -> int:
        top = self._image.inode(self._image.superblock.root)
        root, todo = self._directory(top), [top]
        try:
            while todo:
                todo += self._load_names(todo.pop())
                if len(self._rows) >= _ROWS:
                    self._flush()
        finally:
            self._flush()  # also after an error: the directories have numbers already
        return root

    def _load_names(self, above: Inode) -> list[Inode]:
        """Add the files in a directory; return the directories in it."""
        numbers, image = self._numbers, self._image
        inner: list[Inode] = []
        names = self._inodes.directories[numbers[above.nid]]
        for name, nid, kind in image.names(above):
            number = numbers.get(nid)
            if kind == _DIRECTORY:
                if name not in _DOTS:
                    inner.append(image.inode(nid))
                    names[name] = self._directory(inner[-1])
            elif number is None:
                names[name] = self._file(image.inode(nid))
            else:
                names[name] = number
        return inner

    def _directory(self, inode: Inode) -> int:
        if inode.nid in self._numbers or not stat.S_ISDIR(inode.mode):
            raise self._damaged(f"directory {inode.nid} with two names, or a file")
        number = self._added(inode)
        self._inodes.directories[number] = {}
        return number

    def _file(self, inode: Inode) -> int:
        kind = inode.mode >> 12
        if kind == _REGULAR:
            if inode.size:
                return self._regular(inode)
            return self._added(inode, tar=self._tar)
        if kind == _SYMLINK:
            target = self._image.target(inode)
            number = self._added(inode, size=len(target))
            self._inodes.targets[number] = target
            return number
        if kind == _DIRECTORY_KIND:
            raise self._damaged(f"directory {inode.nid}, which is listed as a file")
        return self._added(inode, start=inode.device if kind in _DEVICES else 0)

    def _regular(self, inode: Inode) -> int:
        """Add a regular file; one whose chunks do not follow each other is sparse."""
        size, at = inode.size, self._image.only_chunk(inode)
        if at is not None:
            return self._added(inode, size=size, start=at, tar=self._tar)
        segments, start, expected = list[Segment](), 0, 0
        for chunk in self._image.chunks(inode):
            if chunk.tar < 0:
                continue
            if chunk.tar == 0 or (segments and chunk.start != expected):
                raise CopiedDataError
            start = start if segments else chunk.start
            expected = chunk.start + chunk.length
            segments.append(Segment(chunk.offset, chunk.length))
        number = self._added(inode, size=size, start=start, tar=self._tar)
        if sum(segment.length for segment in segments) != size:
            self._inodes.sparse[number] = tuple(segments)
        return number

    def _added(self, inode: Inode, *, size: int = 0, start: int = 0, tar: int = 0) -> int:
        number, self._next = self._next, self._next + 1
        self._numbers[inode.nid] = number
        xattrs = self._xattrs(inode) if inode.xattr_size else 0
        self._rows.append((*inode[1:6], size, start, tar, xattrs))
        return number

    def _xattrs(self, inode: Inode) -> int:
        raw = bytes(self._image.data[inode.xattrs : inode.tail])
        number = self._sets.get(raw)
        if number is None:
            number = self._inodes.set_number(xattr_set(self._image.xattrs(inode)))
            self._sets[raw] = number
        return number

    def _flush(self) -> None:
        self._inodes.extend(self._rows)
        self._rows.clear()

    def _damaged(self, got: str) -> IntegrityError:
        return IntegrityError(f"damaged index: {self._image.what}: got {got}")
