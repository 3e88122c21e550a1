"""The merged tree through libfuse, by pyfuse3; the only module that imports it and trio.

A request is a call of one of pyfuse3's handlers, a reply is what that returns.  What the tree is,
`stack/merged` knows; errors become an errno in one place.  What pyfuse3 cannot do that the kernel's
protocol can is listed in docs/explanation/fuse.md.

pyfuse3 names no inode when it asks to read, only the handle that `open` gave, so that a handle is
the inode.  With nothing to remember about one, any worker can answer for what another has opened.
A node of the tree is the kernel's node less one, as in `fuse_kernel`.
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
from stacker.fuse.replies import BLOCK, NAME_MAX, OpenFiles, errno_of, visible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from stacker.tree.merged import MergedTree
    from stacker.tree.protocol import Node

_ROOT: Final[int] = pyfuse3.ROOT_INODE
_ONE_TASK: Final = (1, 1)
"""pyfuse3.main's fewest and most tasks: no handler waits for anything, so more would only idle."""


def _answered(handler: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Let pyfuse3 await a handler that waits for nothing, and hear of errors as it wants to."""

    async def answer(self: Operations, *arguments: Any) -> Any:
        try:
            return handler(self, *arguments)
        except Exception as error:  # noqa: BLE001 - it becomes an errno
            raise pyfuse3.FUSEError(errno_of(error)) from None

    return answer


class Operations(pyfuse3.Operations):
    """Answers requests about one tree; what it does not define, pyfuse3 answers with ENOSYS.

    :param tree: it may be shared with other processes.
    """

    supports_dot_lookup = False

    def __init__(self, tree: MergedTree) -> None:
        super().__init__()
        self._tree = tree
        self._files = OpenFiles(tree)
        self._entries: list[pyfuse3.EntryAttributes | None] = [None] * len(tree)
        self._absent = pyfuse3.EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = FOREVER
        self.begun: Callable[[], None] = lambda: None

    def init(self) -> None:
        """Hear that the kernel's first request is being answered."""
        self.begun()

    def entry(self, inode: Node) -> pyfuse3.EntryAttributes:
        """Give an inode's attributes as pyfuse3 has them; each is made once."""
        found = self._entries[inode]
        if found is None:
            found = self._entries[inode] = self._made(inode)
        return found

    def _made(self, inode: Node) -> pyfuse3.EntryAttributes:
        mode, nlink, uid, gid, size, blocks, device, _, mtime, _ = self._tree.status(inode)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode + _ROOT
        entry.entry_timeout = entry.attr_timeout = FOREVER
        entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid = mode, nlink, uid, gid
        entry.st_rdev, entry.st_size = device, size
        entry.st_blocks, entry.st_blksize = blocks, BLOCK
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = mtime
        return entry

    def _known(self, number: int) -> Node:
        if not _ROOT <= number < len(self._tree) + _ROOT:
            raise OSError(errno.ESTALE, "no such node")
        return number - _ROOT

    @_answered
    def lookup(self, parent: int, name: bytes, _context: object) -> pyfuse3.EntryAttributes:
        """Find a name in a directory; a missing one is remembered as missing."""
        if len(name) > NAME_MAX:  # the kernel lets longer ones through
            raise OSError(errno.ENAMETOOLONG, "name too long")
        found = self._tree.lookup(self._known(parent), name)
        return self._absent if found is None else self.entry(found)

    @_answered
    def getattr(self, number: int, _context: object) -> pyfuse3.EntryAttributes:
        """Give attributes."""
        return self.entry(self._known(number))

    @_answered
    def readlink(self, number: int, _context: object) -> bytes:
        """Give a symbolic link's target."""
        return self._tree.readlink(self._known(number))

    @_answered
    def open(self, number: int, flags: int, _context: object) -> pyfuse3.FileInfo:
        """Give the inode as the handle, so that `read` knows it."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "read-only")
        self._known(number)
        return pyfuse3.FileInfo(fh=number, keep_cache=True)

    @_answered
    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Read; shorter than asked only at the end."""
        return os.pread(self._files.of(self._known(handle)), size, offset)

    @_answered
    def release(self, handle: int) -> None:
        """Do nothing: which files stay open does not depend on handles."""

    @_answered
    def opendir(self, number: int, _context: object) -> int:
        """Give the inode as the handle, so that `readdir` knows it."""
        if not stat.S_ISDIR(self._tree.mode(self._known(number))):
            raise OSError(errno.ENOTDIR, "not a directory")
        return number

    @_answered
    def readdir(self, handle: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Give as much of a listing as there is room for, with all attributes."""
        tree, directory = self._tree, self._known(handle)
        reply, entry, name, inode = pyfuse3.readdir_reply, self.entry, tree.name, tree.inode
        for at, dot in enumerate((b".", b"..")):
            near = tree.parent(directory) if at else directory
            if at >= start and not reply(token, dot, entry(near), at + 1):
                return
        first = max(start, 2)
        for at, child in enumerate(tree.children(directory)[first - 2 :], first + 1):
            if not reply(token, name(child), entry(inode(child)), at):
                return

    @_answered
    def releasedir(self, handle: int) -> None:
        """Do nothing, as with files."""

    @_answered
    def getxattr(self, number: int, name: bytes, _context: object) -> bytes:
        """Give an extended attribute."""
        return self._tree.xattr(self._known(number), name)

    @_answered
    def listxattr(self, number: int, context: pyfuse3.RequestContext) -> Iterable[bytes]:
        """Give the names of extended attributes."""
        return visible(self._tree.xattrs(self._known(number)), context.uid)

    @_answered
    def statfs(self, _context: object) -> pyfuse3.StatvfsData:
        """Give numbers of the whole tree."""
        numbers = pyfuse3.StatvfsData()
        numbers.f_bsize = numbers.f_frsize = BLOCK
        numbers.f_files = len(self._tree)
        numbers.f_namemax = NAME_MAX
        return numbers

    def close(self) -> None:
        """Close all files."""
        self._files.close()


class Pyfuse3Service:
    """Serves a tree by pyfuse3; a process can only have one.

    :param tree: what is shown.
    """

    def __init__(self, tree: MergedTree) -> None:
        self._operations = Operations(tree)
        self._connection = -1

    def begin(self, connection: int) -> str | None:
        """Let libfuse agree with the kernel, and stop it there: what was agreed on outlives a fork.

        :raises OSError: the mount was gone before.
        :raises MountError: libfuse does not want to.
        """
        # libfuse takes a descriptor that is mounted already in place of a mount point
        # (fuse_session_mount, since version 3.3).
        try:
            pyfuse3.init(self._operations, f"/dev/fd/{connection}", set())
        except RuntimeError as error:
            raise MountError(f"cannot mount by pyfuse3: {error}") from error
        self._connection = connection
        if not trio.run(self._first_request):
            raise OSError(errno.ENODEV, "the mount was gone before it was served")
        return None

    async def _first_request(self) -> bool:
        with trio.CancelScope() as scope:
            self._operations.begun = scope.cancel
            await pyfuse3.main(*_ONE_TASK)
        return bool(scope.cancelled_caught)

    def serve(self, channel: int) -> None:
        """Answer requests until the mount is gone.

        :raises Exception: anything but the mount's end.
        """
        # The session goes on reading from the number that it knows.
        os.dup2(channel, self._connection, inheritable=False)
        os.close(channel)
        gc.enable()  # trio and pyfuse3 are free to make cycles; what was there before is frozen
        trio.run(pyfuse3.main, *_ONE_TASK)
