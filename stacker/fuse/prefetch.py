"""Send small files to the kernel before it asks for them.

Archivers, copiers and scanners read the files of a directory in the order of its listing.  Each
read wakes a process, which costs more than the read itself.  Each file that is read comes in; once
two files have followed each other, the contents of the next ones go to the kernel's page cache
(FUSE_NOTIFY_STORE).  This module must not answer requests.

A store waits for the lock of a page that another process reads, and that read waits for a reply.
So only one worker stores at a time, under a lock that it never waits for, and the others answer.
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
    from stacker.fuse.channel import FileSender
    from stacker.tree.protocol import LowerTree, Node

MAX_SIZE: Final = 64 << 10
"""Bytes of the largest file that is stored ahead."""
_MAX_FILES: Final = 32
"""Files that one call stores."""
_MAX_GAP: Final = 16
"""Entries between two files that still count as read in order."""
_LEAD: Final = 3
"""Entries between the reader and the first file to store."""
_MIN_STREAK: Final = 2
_SLOTS: Final = 256
_GROUP, _LAST, _UNTIL, _STREAK = range(4)


class Prefetcher:
    """The latest reads in some groups of files, in memory that all workers share.

    :param tree: the tree with the files.
    """

    def __init__(self, tree: LowerTree) -> None:
        self._tree = tree
        self._reads = memoryview(mmap.mmap(-1, _SLOTS * 32)).cast("Q")
        self._lock = os.memfd_create("prefetch", os.MFD_CLOEXEC)

    def after_read(self, inode: Node, sender: FileSender) -> None:
        """Record that a small file was read, and store the files that probably come next."""
        slot = self._record(inode)
        if self._reads[slot + _STREAK] < _MIN_STREAK:
            return
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        try:
            self._store_next(slot, sender)
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _record(self, inode: Node) -> int:
        """Record a read, and return the slot of the group."""
        reads, group = self._reads, self._tree.group(inode)
        slot = 4 * (group % _SLOTS)
        last = max(reads[slot + _LAST], reads[slot + _UNTIL]) + _MAX_GAP * self._tree.stride
        if reads[slot + _GROUP] == group and reads[slot + _LAST] < inode <= last:
            reads[slot + _STREAK] += 1
        else:
            reads[slot + _GROUP] = group
            reads[slot + _STREAK] = reads[slot + _UNTIL] = 0
        reads[slot + _LAST] = inode
        return slot

    def _store_next(self, slot: int, sender: FileSender) -> None:
        reads, tree = self._reads, self._tree
        group, node = reads[slot + _GROUP], reads[slot + _UNTIL]
        for _ in range(_MAX_FILES):
            last = reads[slot + _LAST]
            found = tree.after(max(node, last))
            # The reader advances meanwhile; its next files are not worth a race.
            while found is not None and found < last + _LEAD * tree.stride:
                found = tree.after(found)
            if found is None or reads[slot + _GROUP] != group:
                return
            self._store(found, sender)
            reads[slot + _UNTIL] = node = found

    def _store(self, node: Node, sender: FileSender) -> None:
        tree = self._tree
        inode = tree.inode(node)
        status = tree.status(inode)
        if not (stat.S_ISREG(status.mode) and 0 < status.size <= MAX_SIZE):
            return
        with suppress(OSError):  # a process that reads the file gets the error
            data = tree.read(inode, 0, status.size)
            if len(data) == status.size:
                sender.store(inode + ROOT_ID, data)
