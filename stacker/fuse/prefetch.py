"""Small files that are about to be read, given to the kernel before it asks.

Archivers, copiers and scanners read the files of a directory in the order of its listing.  Each
file is a request, and each request wakes a process up, which costs more than the reading does.  In
comes each file that is read; out go, once two have followed each other, the contents of the next
ones (FUSE_NOTIFY_STORE), so that those are in the page cache when their turn comes.

Storing waits for the lock of a page that somebody reads right now, and that reader for an answer:
so one process at a time stores (a lock that is tried, never waited for), while the others answer.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from stacker.fuse.protocol import ROOT_ID

if TYPE_CHECKING:
    from stacker.fuse.splice import Outlet
    from stacker.tree.merged import MergedTree
    from stacker.tree.protocol import Node

SMALL: Final = 64 << 10
"""Bytes of a file that still counts as small."""
_MOST: Final = 32
"""Files that are stored at a time."""
_NEAR: Final = 16
"""Entries that may lie between two files that are read one after the other."""
_LEAP: Final = 3
"""How far beyond the reader's place storing begins."""
_ENOUGH: Final = 2
_SLOTS: Final = 256
_DIRECTORY, _LAST, _UNTIL, _STREAK = range(4)


class Prefetcher:
    """What was read last in some directories, shared by processes that are forked from each other.

    :param tree: where the files are.
    """

    def __init__(self, tree: MergedTree) -> None:
        self._tree = tree
        self._seen = memoryview(mmap.mmap(-1, _SLOTS * 32)).cast("Q")
        self._lock = os.memfd_create("storing", os.MFD_CLOEXEC)

    def follow(self, inode: Node, outlet: Outlet) -> None:
        """Take note of a small file that was read, and store what probably comes next."""
        at = self._noted(inode)
        if self._seen[at + _STREAK] < _ENOUGH:
            return
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        try:
            self._store_next(at, outlet)
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _noted(self, inode: Node) -> int:
        """Write down what was read; say where that stands."""
        seen, directory = self._seen, self._tree.parent(inode)
        at = 4 * (directory % _SLOTS)
        last = max(seen[at + _LAST], seen[at + _UNTIL])
        if seen[at + _DIRECTORY] == directory and seen[at + _LAST] < inode <= last + _NEAR:
            seen[at + _STREAK] += 1
        else:
            seen[at + _DIRECTORY], seen[at + _STREAK], seen[at + _UNTIL] = directory, 0, 0
        seen[at + _LAST] = inode
        return at

    def _store_next(self, at: int, outlet: Outlet) -> None:
        seen = self._seen
        directory = seen[at + _DIRECTORY]
        children = self._tree.children(directory)
        node = max(seen[at + _LAST], seen[at + _UNTIL])
        for _ in range(_MOST):
            # The reader goes on meanwhile, and asks for what comes at once; it is not worth a race.
            node = max(node + 1, seen[at + _LAST] + _LEAP)
            if node >= children.stop or seen[at + _DIRECTORY] != directory:
                return
            self._store(node, outlet)
            seen[at + _UNTIL] = node

    def _store(self, node: Node, outlet: Outlet) -> None:
        tree = self._tree
        inode = tree.inode(node)
        size = tree.status(inode).size
        if not (tree.kind(inode) == stat.S_IFREG and 0 < size <= SMALL):
            return
        with suppress(OSError):  # it was a guess; whoever reads the file hears what is wrong
            file = tree.open(inode)
            try:
                data = os.pread(file, size, 0)
            finally:
                os.close(file)
            if len(data) == size:
                outlet.store(inode + ROOT_ID, data)
