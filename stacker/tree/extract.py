"""Write the tree of a merged index as a plain directory.

A :class:`~stacker.layer.paths.MergedIndex` comes in; a directory goes out with everything that a
mount of the index would expose.  Another user may own the target, so this module opens everything
in it relative to a descriptor.  This module must not read the index itself.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.errors import IntegrityError
from stacker.layer.metadata import set_attributes
from stacker.linux.filesystem import make_private
from stacker.linux.process import usable_new_files
from stacker.tar.entry import Meta, printable
from stacker.tree.indexed import open_index
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from stacker.layer.paths import MergedIndex
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.tree.indexed import IndexedTree
    from stacker.tree.protocol import Node, Status

_SEARCH: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def extract(merged: MergedIndex, target: Path | int, whiteout_format: WhiteoutFormat) -> None:
    """Fill the empty directory ``target`` with the tree of an index.

    An image's own ``overlay.*`` xattrs get their plain names, as in a mount.  The target loses what
    its files would inherit (a default ACL, a set-group-ID bit).

    :param target: a path, or a descriptor, which stays open.
    :param whiteout_format: how names of xattrs are escaped in the index.
    :raises IntegrityError: the index is damaged.
    :raises OSError: the kernel's error, e.g. a full disk.
    """
    with usable_new_files(), ExitStack() as opened:
        at = (b".", target) if isinstance(target, int) else (target, None)
        root = os.open(at[0], _SEARCH, dir_fd=at[1])
        opened.callback(os.close, root)
        make_private(root)  # so that its owner cannot exchange files in it
        tree = opened.enter_context(closing(open_index(merged, whiteout_format)))
        _Extractor(tree, f"{merged.path}").fill(root)


class _Level(NamedTuple):
    """A directory being filled: its descriptor, its inode, and the names left to make."""

    fd: int
    inode: Node
    left: list[tuple[bytes, Node]]


class _Extractor:
    def __init__(self, tree: IndexedTree, what: str) -> None:
        self._tree = tree
        self._what = what
        self._made: dict[Node, bytes] = {}
        self._above: list[bytes] = []

    def fill(self, root: int) -> None:
        """Walk the tree with an explicit stack: it may be deeper than Python's recursion limit."""
        self._root = root
        levels = [self._level(os.dup(root), ROOT)]
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

    def _level(self, fd: int, inode: Node) -> _Level:
        names = [(name, child) for _, name, child in self._tree.entries(inode)]
        return _Level(fd, inode, names[::-1])

    def _leave(self, level: _Level) -> None:
        try:
            path = b"/proc/self/fd/%d/." % level.fd
            self._finish(level.inode, self._tree.status(level.inode), path)
        finally:
            os.close(level.fd)
        if self._above:
            self._above.pop()

    def _make(self, levels: list[_Level], name: bytes, inode: Node) -> None:
        parent, status = levels[-1].fd, self._tree.status(inode)
        if stat.S_ISDIR(status.mode):
            if len(levels) > self._tree.count:
                raise IntegrityError(f"damaged index: {self._what}: got a loop of directories")
            os.mkdir(name, 0o700, dir_fd=parent)
            levels.append(self._level(os.open(name, _SEARCH, dir_fd=parent), inode))
            self._above.append(name)
            return
        known = self._made.get(inode)
        if known is not None:
            os.link(known, name, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
            return
        self._make_leaf(parent, name, inode, status)
        if status.nlink > 1:
            self._made[inode] = b"/".join((*self._above, name))

    def _make_leaf(self, parent: int, name: bytes, inode: Node, status: Status) -> None:
        if stat.S_ISREG(status.mode):
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
            try:
                self._tree.file(inode).copy_to(fd)
            except OSError as error:
                if error.errno != errno.ENODATA:  # what a copy raises at the end of a tar
                    raise
                raise self._truncated(name, error) from error
            finally:
                os.close(fd)
        elif stat.S_ISLNK(status.mode):
            os.symlink(self._tree.readlink(inode), name, dir_fd=parent)
        else:
            os.mknod(name, status.mode, status.device, dir_fd=parent)
        self._finish(inode, status, b"/proc/self/fd/%d/%s" % (parent, name))

    def _truncated(self, name: bytes, error: OSError) -> IntegrityError:
        path = printable(b"/".join((*self._above, name)))
        return IntegrityError(
            f"damaged tar of a layer: {self._what}: /{path}: {error.strerror}",
            hint="`stacker repair` replaces damaged layers",
        )

    def _finish(self, inode: Node, status: Status, path: bytes) -> None:
        mode, time = stat.S_IMODE(status.mode), status.mtime
        meta = Meta(mode, status.uid, status.gid, time, time, None)
        set_attributes(path, meta, self._tree.xattrs(inode).items())
