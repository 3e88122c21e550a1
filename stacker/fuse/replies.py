"""Replies to FUSE requests: packed attributes, entries and xattrs, and the errno of an error.

Nodes and values of a tree come in; bytes and numbers for the kernel go out.  This module reads no
request, and must not use a library that speaks the protocol.

A node of a tree is the kernel's node ID minus one.  Programs see another number, the inode number,
which is the same in every mount (`stacker.tree.protocol.Tree.number`).
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from struct import error as struct_error
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError
from stacker.fuse import protocol as fuse
from stacker.linux.inode_attributes import STATX_BASIC, STATX_BIRTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stacker.tree.protocol import Contents, LowerTree, Node, Status

BLOCK: Final = 4096
NAME_MAX: Final = 255
PATH_MAX: Final = 4095
"""Bytes of the longest target of a symbolic link."""
ABSENT: Final = fuse.ENTRY_HEAD.pack(0, 0, fuse.FOREVER, 0, 0, 0) + bytes(fuse.ATTR.size)
"""An entry for a missing name, which the kernel caches as missing."""
NO_ENTRY: Final = bytes(len(ABSENT))
"""An entry that tells the kernel nothing, in a listing with entries."""
VALID: Final = fuse.ATTR_HEAD.pack(fuse.FOREVER, 0, 0)
_MAX_OPEN_FILES: Final = 128
_SECOND: Final = 1_000_000_000


def errno_of(error: Exception) -> int:
    """Return the errno for an exception.

    A malformed request is EINVAL.  Damaged data on disk is EIO.  An exception that is a bug is EIO,
    too, so that the mount survives.
    """
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    if isinstance(error, IntegrityError):
        return errno.EIO
    if isinstance(error, (struct_error, ValueError, OverflowError)):
        return errno.EINVAL
    return errno.EIO


def pack_attributes(number: int, status: Status) -> bytes:
    """Return a ``struct fuse_attr``.

    :param number: the inode number.
    """
    mode, nlink, uid, gid, size, blocks, device, atime, mtime, ctime = status
    seconds, nanoseconds = divmod(mtime, _SECOND)
    access, access_rest = (seconds, nanoseconds) if atime == mtime else divmod(atime, _SECOND)
    change, change_rest = (seconds, nanoseconds) if ctime == mtime else divmod(ctime, _SECOND)
    return fuse.ATTR.pack(
        *(number, size, blocks),
        *(access, seconds, change, access_rest, nanoseconds, change_rest),
        *(mode, nlink, uid, gid, fuse.device_number(device) if device else 0, BLOCK, 0),
    )


def pack_entry(node: Node, number: int, status: Status, generation: int = 0) -> bytes:
    """Return a ``struct fuse_entry_out``, which the kernel may cache forever.

    :param generation: a number that file handles contain besides the node.
    """
    head = fuse.ENTRY_HEAD.pack(node + fuse.ROOT_ID, generation, fuse.FOREVER, fuse.FOREVER, 0, 0)
    return head + pack_attributes(number, status)


def pack_statx(number: int, status: Status, birth: int | None) -> bytes:
    """Return a ``struct fuse_statx_out``, which the kernel may cache forever.

    :param number: the inode number.
    :param birth: the birth time in nanoseconds; ``None`` if there is none.
    """
    mask = STATX_BASIC | (0 if birth is None else STATX_BIRTH)
    times = (status.atime, birth or 0, status.ctime, status.mtime)
    return b"".join(
        (
            fuse.STATX_HEAD.pack(fuse.FOREVER, 0, 0),
            fuse.STATX_OUT.pack(
                *(mask, BLOCK, 0, status.nlink, status.uid, status.gid, status.mode),
                *(number, status.size, status.blocks, 0),
            ),
            *(fuse.STATX_TIME.pack(*divmod(time, _SECOND)) for time in times),
            fuse.STATX_DEVICES.pack(os.major(status.device), os.minor(status.device), 0, 0),
        )
    )


def pack_dirent(number: int, offset: int, name: bytes, mode: int) -> bytes:
    """Return a ``struct fuse_dirent``.

    :param number: the inode number.
    :param offset: the offset at which the kernel asks for the next entry.
    """
    head = fuse.DIRENT.pack(number, offset, len(name), mode >> 12)
    return head + name + bytes(-len(name) % 8)


def pack_xattr(value: bytes, size: int) -> bytes:
    """Return a reply to GETXATTR or LISTXATTR: the length of the value, or the value.

    :param size: the size of the caller's buffer in bytes; 0 to ask for the length.
    :raises OSError: ``ERANGE`` if the buffer is too small.
    """
    if not size:
        return fuse.XATTR.pack(len(value), 0)
    if size < len(value):
        raise OSError(errno.ERANGE, "the buffer is smaller than the value")
    return value


def visible_xattrs(names: Iterable[bytes], uid: int) -> Iterator[bytes]:
    """Yield the names of xattrs that a user sees: only root sees ``trusted.*`` (xattr(7))."""
    return (name for name in names if not (uid and name.startswith(b"trusted.")))


class OpenFiles:
    """The open files of a tree; the least recently used one is closed first.

    :param tree: the tree with the files.
    """

    def __init__(self, tree: LowerTree) -> None:
        self._tree = tree
        self._files: OrderedDict[Node, Contents] = OrderedDict()

    def get(self, node: Node) -> Contents:
        """Return the contents of a file, valid until the next call.

        :raises OSError: from `LowerTree.file`.
        """
        file = self._files.get(node)
        if file is not None:
            self._files.move_to_end(node)
            return file
        file = self._files[node] = self._tree.file(node)
        if len(self._files) > _MAX_OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return file

    def close(self) -> None:
        """Close all files."""
        while self._files:
            self._files.popitem()[1].close()
