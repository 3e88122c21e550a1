"""FUSE passthrough: large files that the kernel reads without the server.

Inodes that a process opens come in; the IDs of backing files, which the kernel holds open, go out.
It needs Linux 6.9 and CAP_SYS_ADMIN in the initial user namespace; the server reads every other
file.  This module must not answer requests.  Source: Documentation/filesystems/fuse/
fuse-passthrough.rst, fs/fuse/iomode.c.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Final

from stacker.fuse import protocol as fuse
from stacker.linux import process
from stacker.linux.filesystem import is_overlay
from stacker.tree.merged import tree_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stacker.layer.paths import LayerPaths
    from stacker.tree.protocol import LowerTree, Node

MIN_SIZE: Final = 1 << 20
"""Bytes of the smallest file that uses passthrough."""
_REFUSED: Final = -1


class Passthrough:
    """The backing files of one connection.

    The kernel accepts one backing file per inode, for all processes, as long as the inode is open.
    So the workers, which are forked from one process, share a table and a lock per inode.

    :param tree: the tree with the files.
    :param depth: how many filesystems are stacked, this one included: 1 or 2.
    """

    def __init__(self, tree: LowerTree, depth: int) -> None:
        self.depth = depth
        self.agreed = False
        """Whether the kernel supports passthrough; known after the INIT request."""
        self.channel = -1
        """This process's descriptor of the connection."""
        self._tree = tree
        self._backing_ids = memoryview(mmap.mmap(-1, 4 * tree.limit)).cast("i")
        self._lock = os.memfd_create("backing files", os.MFD_CLOEXEC)

    def backing_id(self, inode: Node) -> int:
        """Return the ID of an inode's backing file; 0 when the server has to read the file.

        The answer for an inode never changes, as the kernel requires while the inode is open.
        """
        if self._tree.status(inode).size < MIN_SIZE:
            return 0
        if not self._backing_ids[inode]:
            fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, inode)
            try:
                if not self._backing_ids[inode]:
                    self._backing_ids[inode] = self._register(inode)
            finally:
                fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, inode)
        return max(self._backing_ids[inode], 0)

    def _register(self, inode: Node) -> int:
        # The kernel closes the backing file when the mount is gone.
        file = self._tree.file(inode)
        try:
            fd = file.piece(0, file.size).descriptor
            # ioctl returns the ID for a mutable buffer; for bytes it would return the buffer.
            request = bytearray(fuse.BACKING_MAP.pack(fd, 0, 0))
            return int(fcntl.ioctl(self.channel, fuse.IOC_BACKING_OPEN, request))
        except OSError:  # ELOOP: too many stacked filesystems; EPERM: privileges were dropped
            return _REFUSED
        finally:
            file.close()


def is_worthwhile(tree: LowerTree) -> bool:
    """Return whether a tree has mostly large files: at least 1 MiB per entry on average.

    With passthrough the kernel sends a request for each open and each close, of any file, which
    costs some dozens of microseconds.  It saves a copy and a second cached page for each page that
    is read, about 150 microseconds per MiB.
    """
    return tree.size >= MIN_SIZE * tree.count


def is_permitted() -> bool:
    """Return whether this process may register backing files."""
    return process.has_capability(process.CAP_SYS_ADMIN) and process.in_initial_user_namespace()


def stack_depth(layers: Iterable[LayerPaths | Path]) -> int:
    """Return how many filesystems a mount of these layers stacks, itself included.

    With 2 no overlay can be mounted on top of it (FILESYSTEM_MAX_STACK_DEPTH).
    """
    return 2 if any(is_overlay(tree_of(layer)) for layer in layers) else 1
