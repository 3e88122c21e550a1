"""Large files that the kernel reads by itself, past the server (FUSE passthrough).

In come inodes that are opened; out go the numbers of backing files that the kernel knows.  Linux
6.9 on, with CAP_SYS_ADMIN in the machine's own user namespace; a file that cannot be one is read
through the server.  Source: Documentation/filesystems/fuse/fuse-passthrough.rst, fs/fuse/iomode.c.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Final

from stacker.fuse import protocol as fuse
from stacker.linux import process
from stacker.linux.filesystem import is_overlay

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stacker.tree.merged import MergedTree
    from stacker.tree.protocol import Node

LEAST: Final = 1 << 20
"""Bytes from which on a file is worth it."""
_NEVER: Final = -1


class Passthrough:
    """The backing files of one connection.

    The kernel takes one backing file for an inode, whoever registers it, as long as it is open.  So
    the processes that are forked from the one that made this share a table, and a lock an inode.

    :param tree: where the files are.
    :param depth: how many filesystems may lie on each other, ours among them: 1, or 2.
    """

    def __init__(self, tree: MergedTree, depth: int) -> None:
        self.depth = depth
        self.agreed = False
        """Whether the kernel does so; known once it has been asked."""
        self.channel = -1
        """This process's descriptor of the connection."""
        self._tree = tree
        self._numbers = memoryview(mmap.mmap(-1, 4 * len(tree))).cast("i")
        self._lock = os.memfd_create("backing files", os.MFD_CLOEXEC)

    def number(self, inode: Node) -> int:
        """Give the number of an inode's backing file; 0 when it has to be read through the server.

        Once one or the other was said it stays so, as the kernel wants of files that are open.
        """
        if self._tree.status(inode).size < LEAST:
            return 0
        if not self._numbers[inode]:
            fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, inode)
            try:
                if not self._numbers[inode]:
                    self._numbers[inode] = self._registered(inode)
            finally:
                fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, inode)
        return max(self._numbers[inode], 0)

    def _registered(self, inode: Node) -> int:
        # It stays registered until the mount is gone; the kernel then closes it.
        fd = self._tree.open(inode)
        try:
            # The result is the number; for a buffer that could not change it would be the buffer.
            file = bytearray(fuse.BACKING_MAP.pack(fd, 0, 0))
            return int(fcntl.ioctl(self.channel, fuse.IOC_BACKING_OPEN, file))
        except OSError:  # ELOOP: it lies too deep; EPERM: no privilege any more
            return _NEVER
        finally:
            os.close(fd)


def is_worth_it(tree: MergedTree) -> bool:
    """Say whether a tree is mostly large files: a mebibyte and more an entry.

    For that the kernel has to ask at every opening and closing, which costs some dozens of
    microseconds, whatever the size and also the second time.  What it saves is a copy and a page of
    the page cache for each page that is read, some 150 microseconds a mebibyte.
    """
    return tree.size >= LEAST * len(tree)


def is_permitted() -> bool:
    """Say whether this process may let the kernel read files by itself."""
    return process.has_capability(process.CAP_SYS_ADMIN) and process.in_initial_user_namespace()


def depth_over(layers: Iterable[Path]) -> int:
    """Say how many filesystems lie on each other where these directories are shown.

    With 2, no overlay can be mounted on top of what is shown (FILESYSTEM_MAX_STACK_DEPTH).
    """
    return 2 if any(is_overlay(layer) for layer in layers) else 1
