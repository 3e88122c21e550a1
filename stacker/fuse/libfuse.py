"""A read-only merged tree through libfuse, by pyfuse3; only this module imports it and trio.

Calls of pyfuse3's handlers come in; return values go out as replies.  docs/explanation/fuse.md
lists what pyfuse3 does not support of the kernel's protocol.  This module must not write.

pyfuse3 passes no inode to `read`, only the handle that `open` returned, so the handle is the inode.
A handle has no state, so any worker can answer for an inode that another worker has opened.  A node
of the tree is the kernel's node ID minus one, as in `stacker.fuse.replies`.
"""

from __future__ import annotations

import errno
import gc
import os
import stat
from typing import TYPE_CHECKING, Any, Final

import pyfuse3
import trio

from stacker.errors import MountError
from stacker.fuse.protocol import FOREVER
from stacker.fuse.replies import BLOCK, NAME_MAX, OpenFiles, errno_of, visible_xattrs
from stacker.tree.contents import read_into

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from stacker.tree.protocol import LowerTree, Node

_ROOT: Final[int] = pyfuse3.ROOT_INODE
_ONE_TASK: Final = (1, 1)
"""pyfuse3.main's minimum and maximum of tasks: no handler waits, so more tasks would be idle."""


def _coroutine(handler: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Make a handler a coroutine, and turn its exceptions into errnos."""

    async def answer(self: Operations, *arguments: Any) -> Any:
        try:
            return handler(self, *arguments)
        except Exception as error:  # noqa: BLE001 - it becomes an errno
            raise pyfuse3.FUSEError(errno_of(error)) from None

    return answer


class Operations(pyfuse3.Operations):
    """Answers requests about one tree; pyfuse3 answers ENOSYS to operations without a handler.

    :param tree: all workers can share it.
    """

    supports_dot_lookup = False

    def __init__(self, tree: LowerTree) -> None:
        super().__init__()
        self.enable_acl = tree.has_acls  # FUSE_POSIX_ACL
        self._tree = tree
        self._files = OpenFiles(tree)
        self._entries: dict[Node, pyfuse3.EntryAttributes] = {}
        self._absent = pyfuse3.EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = FOREVER
        self.on_init: Callable[[], None] = lambda: None

    def init(self) -> None:
        """Handle the INIT request."""
        self.on_init()

    def entry(self, inode: Node) -> pyfuse3.EntryAttributes:
        """Return an inode's attributes as a cached object of pyfuse3."""
        found = self._entries.get(inode)
        if found is None:
            found = self._entries[inode] = self._new_entry(inode)
        return found

    def _new_entry(self, inode: Node) -> pyfuse3.EntryAttributes:
        mode, nlink, uid, gid, size, blocks, device, _, mtime, _ = self._tree.status(inode)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode + _ROOT
        entry.entry_timeout = entry.attr_timeout = FOREVER
        entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid = mode, nlink, uid, gid
        entry.st_rdev, entry.st_size = device, size
        entry.st_blocks, entry.st_blksize = blocks, BLOCK
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = mtime
        return entry

    def _node(self, number: int) -> Node:
        if not _ROOT <= number < self._tree.limit + _ROOT:
            raise OSError(errno.ESTALE, "no such node")
        return number - _ROOT

    @_coroutine
    def lookup(self, parent: int, name: bytes, _context: object) -> pyfuse3.EntryAttributes:
        """Return the entry of a name; the kernel caches a missing name as missing."""
        if len(name) > NAME_MAX:  # the kernel passes longer names
            raise OSError(errno.ENAMETOOLONG, "name too long")
        found = self._tree.lookup(self._node(parent), name)
        return self._absent if found is None else self.entry(found)

    @_coroutine
    def getattr(self, number: int, _context: object) -> pyfuse3.EntryAttributes:
        """Return attributes."""
        return self.entry(self._node(number))

    @_coroutine
    def readlink(self, number: int, _context: object) -> bytes:
        """Return a symbolic link's target."""
        return self._tree.readlink(self._node(number))

    @_coroutine
    def open(self, number: int, flags: int, _context: object) -> pyfuse3.FileInfo:
        """Return the inode as the handle, for `read`."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "read-only")
        self._node(number)
        return pyfuse3.FileInfo(fh=number, keep_cache=True)

    @_coroutine
    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Return a range of a file, shorter than ``size`` only at its end."""
        file = self._files.get(self._node(handle))
        buffer = bytearray(max(0, min(size, file.size - offset)))
        read_into(file, memoryview(buffer), offset)
        return bytes(buffer)

    @_coroutine
    def release(self, handle: int) -> None:
        """Do nothing: open files do not depend on handles."""

    @_coroutine
    def opendir(self, number: int, _context: object) -> int:
        """Return the inode as the handle, for `readdir`."""
        if not stat.S_ISDIR(self._tree.mode(self._node(number))):
            raise OSError(errno.ENOTDIR, "not a directory")
        return number

    @_coroutine
    def readdir(self, handle: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Reply with as many entries and attributes as fit."""
        tree, directory = self._tree, self._node(handle)
        reply, entry = pyfuse3.readdir_reply, self.entry
        for at, dot in enumerate((b".", b"..")):
            near = tree.parent(directory) if at else directory
            if at >= start and not reply(token, dot, entry(near), at + 1):
                return
        for at, name, inode in tree.entries(directory, max(start - 2, 0)):
            if not reply(token, name, entry(inode), at + 2):
                return

    @_coroutine
    def releasedir(self, handle: int) -> None:
        """Do nothing, as for files."""

    @_coroutine
    def getxattr(self, number: int, name: bytes, _context: object) -> bytes:
        """Return an extended attribute."""
        return self._tree.xattr(self._node(number), name)

    @_coroutine
    def listxattr(self, number: int, context: pyfuse3.RequestContext) -> Iterable[bytes]:
        """Return the names of extended attributes."""
        return visible_xattrs(self._tree.xattrs(self._node(number)), context.uid)

    @_coroutine
    def statfs(self, _context: object) -> pyfuse3.StatvfsData:
        """Return the number of files of the whole tree."""
        numbers = pyfuse3.StatvfsData()
        numbers.f_bsize = numbers.f_frsize = BLOCK
        numbers.f_files = self._tree.count
        numbers.f_namemax = NAME_MAX
        return numbers

    def close(self) -> None:
        """Close all files."""
        self._files.close()


class Pyfuse3Service:
    """Serves a tree by pyfuse3, which supports one mount per process.

    :param tree: the tree to serve.
    """

    def __init__(self, tree: LowerTree) -> None:
        self._operations = Operations(tree)
        self._connection = -1

    def begin(self, connection: int) -> str | None:
        """Let libfuse answer the INIT request, and stop: the session survives a fork.

        :raises OSError: the mount is gone.
        :raises MountError: libfuse refuses.
        """
        # libfuse 3.3 and later accept a mounted descriptor as the mount point
        # (fuse_session_mount).
        try:
            pyfuse3.init(self._operations, f"/dev/fd/{connection}", set())
        except RuntimeError as error:
            raise MountError(f"cannot mount by pyfuse3: {error}") from error
        self._connection = connection
        if not trio.run(self._first_request):
            raise OSError(errno.ENODEV, "the mount is gone")
        return None

    async def _first_request(self) -> bool:
        with trio.CancelScope() as scope:
            self._operations.on_init = scope.cancel
            await pyfuse3.main(*_ONE_TASK)
        return bool(scope.cancelled_caught)

    def serve(self, channel: int) -> None:
        """Answer requests until the mount is gone.

        :raises Exception: any error except the end of the mount.
        """
        # The session keeps reading from the descriptor number of the connection.
        os.dup2(channel, self._connection, inheritable=False)
        os.close(channel)
        gc.enable()  # trio and pyfuse3 create reference cycles; older objects are frozen
        trio.run(pyfuse3.main, *_ONE_TASK)
