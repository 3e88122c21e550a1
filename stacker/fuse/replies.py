"""What all FUSE adapters answer with: which errno an error becomes, and open files to read from.

In come exceptions, and nodes of a tree; out go numbers that the kernel understands.  Knows neither
the kernel's protocol nor a library that speaks it.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from struct import error as struct_error
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stacker.tree.merged import MergedTree
    from stacker.tree.protocol import Node

BLOCK: Final = 4096
NAME_MAX: Final = 255
PATH_MAX: Final = 4095
"""Bytes of the longest target of a symbolic link."""
_OPEN_FILES: Final = 128


def errno_of(error: Exception) -> int:
    """Give the errno that a caller of the mount gets.

    A malformed request is EINVAL.  What nobody thought of is EIO: a mistake of ours must not take
    everybody's mount away.
    """
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    if isinstance(error, (struct_error, ValueError, OverflowError)):
        return errno.EINVAL
    return errno.EIO


def visible(names: Iterable[bytes], uid: int) -> Iterator[bytes]:
    """Give the names of xattrs that a user sees: ``trusted.*`` are root's alone (xattr(7))."""
    return (name for name in names if not (uid and name.startswith(b"trusted.")))


class OpenFiles:
    """Files of a tree, open for reading; those used last stay open.

    :param tree: where they are.
    """

    def __init__(self, tree: MergedTree) -> None:
        self._tree = tree
        self._files: OrderedDict[Node, int] = OrderedDict()

    def of(self, inode: Node) -> int:
        """Give a descriptor, valid until the next call.

        :raises OSError: as `MergedTree.open` does.
        """
        fd = self._files.get(inode)
        if fd is not None:
            self._files.move_to_end(inode)
            return fd
        fd = self._tree.open(inode)
        self._files[inode] = fd
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return fd

    def close(self) -> None:
        """Close all of them."""
        while self._files:
            os.close(self._files.popitem()[1])
