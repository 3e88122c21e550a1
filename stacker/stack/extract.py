"""Write the tree of a merged index as a plain directory.

A :class:`~stacker.layer.paths.MergedIndex` comes in; a directory goes out with everything that a
mount of the index would expose.  The directories of the index name no path outside of it, and
another user may own the target, so this module opens everything relative to a descriptor.
"""

from __future__ import annotations

import mmap
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.erofs.inodes import SECOND
from stacker.erofs.read import Image
from stacker.errors import IntegrityError
from stacker.layer.apply import zero_umask
from stacker.layer.metadata import set_attributes
from stacker.linux.filesystem import copy_part, make_private
from stacker.tar.entry import Meta

if TYPE_CHECKING:
    from stacker.erofs.read import Inode
    from stacker.layer.paths import MergedIndex
    from stacker.layer.whiteout_format import WhiteoutFormat

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_SEARCH: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DOTS: Final = (b".", b"..")


def extract(merged: MergedIndex, target: Path | int, whiteout_format: WhiteoutFormat) -> None:
    """Fill the empty directory ``target`` with the tree of an index.

    An image's own ``overlay.*`` xattrs get their plain names, as in a mount.  The target loses what
    its files would inherit (a default ACL, a set-group-ID bit).

    :param target: a path, or a descriptor, which stays open.
    :param whiteout_format: how names of xattrs are escaped in the index.
    :raises IntegrityError: the index is damaged.
    :raises OSError: the kernel's error, e.g. a full disk.
    """
    with zero_umask(), ExitStack() as opened:
        at = (b".", target) if isinstance(target, int) else (target, None)
        root = os.open(at[0], _SEARCH, dir_fd=at[1])
        opened.callback(os.close, root)
        make_private(root)  # so that its owner cannot exchange files in it
        index = opened.enter_context(merged.path.open("rb"))
        data = mmap.mmap(index.fileno(), 0, prot=mmap.PROT_READ)
        files = [index.fileno()]
        for tar in merged.tars:
            files.append(os.open(tar, _READ))
            opened.callback(os.close, files[-1])
        _Extractor(Image(memoryview(data), f"{merged.path}"), files, whiteout_format).fill(root)


class _Level(NamedTuple):
    """A directory being filled: its descriptor, its inode, and the names left to make."""

    fd: int
    inode: Inode
    left: list[tuple[bytes, int]]


class _Extractor:
    def __init__(self, image: Image, files: list[int], whiteout_format: WhiteoutFormat) -> None:
        self._image = image
        self._files = files
        self._unescape = whiteout_format.unescape
        self._made: dict[int, bytes] = {}
        self._above: list[bytes] = []

    def fill(self, root: int) -> None:
        """Walk the tree with an explicit stack: it may be deeper than Python's recursion limit."""
        self._root = root
        levels = [self._level(os.dup(root), self._image.inode(self._image.superblock.root))]
        try:
            while levels:
                level = levels[-1]
                if level.left:
                    self._make(levels, *level.left.pop())
                else:
                    self._leave(levels.pop())
        finally:
            for level in levels:
                os.close(level.fd)

    def _level(self, fd: int, inode: Inode) -> _Level:
        names = [(name, nid) for name, nid, _ in self._image.names(inode) if name not in _DOTS]
        return _Level(fd, inode, names[::-1])

    def _leave(self, level: _Level) -> None:
        try:
            self._finish(level.inode, b"/proc/self/fd/%d/." % level.fd)
        finally:
            os.close(level.fd)
        if self._above:
            self._above.pop()

    def _make(self, levels: list[_Level], name: bytes, nid: int) -> None:
        parent, inode = levels[-1].fd, self._image.inode(nid)
        if stat.S_ISDIR(inode.mode):
            if len(levels) > self._image.superblock.inodes:
                raise IntegrityError(
                    f"damaged index: {self._image.what}: got a loop of directories"
                )
            os.mkdir(name, 0o700, dir_fd=parent)
            levels.append(self._level(os.open(name, _SEARCH, dir_fd=parent), inode))
            self._above.append(name)
            return
        known = self._made.get(nid)
        if known is not None:
            os.link(known, name, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
            return
        self._make_leaf(parent, name, inode)
        if inode.links > 1:
            self._made[nid] = b"/".join((*self._above, name))

    def _make_leaf(self, parent: int, name: bytes, inode: Inode) -> None:
        if stat.S_ISREG(inode.mode):
            self._write_file(parent, name, inode)
        elif stat.S_ISLNK(inode.mode):
            os.symlink(self._image.target(inode), name, dir_fd=parent)
        else:
            os.mknod(name, inode.mode, inode.device, dir_fd=parent)
        self._finish(inode, b"/proc/self/fd/%d/%s" % (parent, name))

    def _write_file(self, parent: int, name: bytes, inode: Inode) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            os.ftruncate(fd, inode.size)
            for offset, length, tar, start in self._image.chunks(inode):
                if tar >= 0:
                    copy_part(self._files[tar], start, fd, offset, length)
        finally:
            os.close(fd)

    def _finish(self, inode: Inode, path: bytes) -> None:
        xattrs = self._image.xattrs(inode).items()
        named = ((self._unescape(name), value) for name, value in xattrs)
        mtime = inode.seconds * SECOND + inode.nanoseconds
        meta = Meta(stat.S_IMODE(inode.mode), inode.uid, inode.gid, mtime, mtime, None)
        set_attributes(path, meta, ((name, value) for name, value in named if name is not None))
