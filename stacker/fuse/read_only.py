"""A merged tree in the kernel's own FUSE protocol, for reading.

What the tree is, `stack/merged` knows.  Since it never changes, the kernel is told to keep what it
has learnt: names, missing names, attributes, link targets, pages and listings; and to open nothing
(ENOSYS to OPEN and OPENDIR), so that a file is read without a handle.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from stacker.fuse import protocol as fuse
from stacker.fuse.dispatch import (
    ABSENT,
    HEADER,
    NO_ENTRY,
    VALID,
    Requests,
    dirent,
    listed,
    name_at,
    sized,
)
from stacker.fuse.prefetch import SMALL
from stacker.fuse.replies import BLOCK, NAME_MAX, OpenFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.fuse.passthrough import Passthrough
    from stacker.fuse.prefetch import Prefetcher
    from stacker.tree.merged import MergedTree
    from stacker.tree.protocol import Node

_ABOUT_NO_NODE: Final = {fuse.INIT, fuse.STATFS, fuse.DESTROY}


class ReadOnlyAdapter(Requests):
    """Answers requests about one tree.

    :param tree: it may be shared with other processes; this object may not.
    :param passthrough: let the kernel read large files by itself; what is opened it asks for then.
    :param prefetcher: what knows which files come next; shared with the other processes.
    """

    def __init__(
        self,
        tree: MergedTree,
        passthrough: Passthrough | None = None,
        prefetcher: Prefetcher | None = None,
    ) -> None:
        super().__init__()
        self._prefetcher = prefetcher
        self._small: Node | None = None
        self._tree = tree
        self._passthrough = passthrough
        self._files = OpenFiles(tree)
        self._steps |= {
            fuse.LOOKUP: self._lookup,
            fuse.GETATTR: self._getattr,
            fuse.READLINK: self._readlink,
            fuse.READDIR: self._readdir,
            fuse.READDIRPLUS: self._readdirplus,
            fuse.GETXATTR: self._getxattr,
            fuse.LISTXATTR: self._listxattr,
            fuse.STATFS: self._statfs,
            fuse.LSEEK: self._lseek,
        }
        if passthrough is not None and passthrough.agreed:
            self._steps[fuse.OPEN] = self._open

    def _answered(
        self, opcode: int, unique: int, node: Node, request: bytes
    ) -> bytes | memoryview | None:
        if opcode not in _ABOUT_NO_NODE and (opcode in self._steps or opcode == fuse.READ):
            self._check(node)
        return super()._answered(opcode, unique, node, request)

    def _check(self, node: Node) -> None:
        if not 0 <= node < len(self._tree):
            raise OSError(errno.ESTALE, "no such node")

    def _refusal(self, opcode: int) -> int:
        return errno.EROFS if opcode in fuse.WRITING else errno.ENOSYS

    def _more(self, flags: int, request: bytes) -> tuple[int, int]:
        """Agree on passthrough, if it is wanted and the kernel offers it."""
        if self._passthrough is None or not flags & fuse.INIT_EXT:
            return 0, 0
        (offered,) = fuse.INIT_IN_FLAGS2.unpack_from(request, HEADER + fuse.INIT_IN.size)
        self._passthrough.agreed = bool(offered & fuse.INIT2_PASSTHROUGH)
        if not self._passthrough.agreed:
            return 0, 0
        return fuse.INIT2_PASSTHROUGH, self._passthrough.depth

    def _open(self, node: Node, request: bytes) -> bytes:
        flags, _ = fuse.OPEN_IN.unpack_from(request, HEADER)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "read-only")
        number = self._passthrough.backing_id(node) if self._passthrough else 0
        kind = fuse.OPEN_PASSTHROUGH if number else fuse.OPEN_KEEP_CACHE
        return fuse.OPEN_OUT.pack(0, kind | fuse.OPEN_NO_FLUSH, number)

    def _attr(self, inode: Node) -> bytes:
        mode, nlink, uid, gid, size, blocks, device, _, mtime, _ = self._tree.status(inode)
        seconds, nanoseconds = divmod(mtime, 1_000_000_000)
        return fuse.ATTR.pack(
            *(inode + fuse.ROOT_ID, size, blocks),
            *(seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds),
            *(mode, nlink, uid, gid, fuse.device_number(device) if device else 0, BLOCK, 0),
        )

    def _entry(self, inode: Node) -> bytes:
        head = fuse.ENTRY_HEAD.pack(inode + fuse.ROOT_ID, 0, fuse.FOREVER, fuse.FOREVER, 0, 0)
        return head + self._attr(inode)

    def _lookup(self, node: Node, request: bytes) -> bytes:
        found = self._tree.lookup(node, name_at(request, HEADER))
        return ABSENT if found is None else self._entry(found)

    def _getattr(self, node: Node, request: bytes) -> bytes:
        del request
        return VALID + self._attr(self._tree.inode(node))

    def _readlink(self, node: Node, request: bytes) -> bytes:
        del request
        return self._tree.readlink(node)

    def _readdir(self, node: Node, request: bytes) -> bytes:
        return self._listed(node, request, lambda _: b"", b"")

    def _readdirplus(self, node: Node, request: bytes) -> bytes:
        # The kernel links no node to "." and "..", which have none here.
        return self._listed(node, request, self._entry, NO_ENTRY)

    def _listed(
        self, node: Node, request: bytes, entry: Callable[[Node], bytes], dots: bytes
    ) -> bytes:
        """Give as much of a listing as there is room for.

        :param entry: what stands before each name; ``dots`` before those of the directory itself.
        """
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, HEADER)
        tree = self._tree
        if not stat.S_ISDIR(tree.mode(node)):
            raise OSError(errno.ENOTDIR, "not a directory")
        children = tree.children(node)
        parts, left = [], min(size, fuse.LARGEST_READ)
        for at in range(offset, len(children) + 2):
            if at < 2:
                inode = tree.parent(node) if at else node
                part = dots + dirent(inode, at + 1, b".." if at else b".", stat.S_IFDIR)
            else:
                child = children[at - 2]
                inode = tree.inode(child)
                part = entry(inode) + dirent(inode, at + 1, tree.name(child), tree.mode(inode))
            left -= len(part)
            if left < 0:
                break
            parts.append(part)
        return b"".join(parts)

    def _getxattr(self, node: Node, request: bytes) -> bytes:
        size, _ = fuse.XATTR.unpack_from(request, HEADER)
        name = name_at(request, HEADER + fuse.XATTR.size)
        return sized(self._tree.xattr(node, name), size)

    def _listxattr(self, node: Node, request: bytes) -> bytes:
        return listed(self._tree.xattrs(node), request)

    def _statfs(self, node: Node, request: bytes) -> bytes:
        del node, request
        return fuse.STATFS_OUT.pack(0, 0, 0, len(self._tree), 0, BLOCK, NAME_MAX, BLOCK)

    def _lseek(self, node: Node, request: bytes) -> bytes:
        _, offset, whence, _ = fuse.LSEEK_IN.unpack_from(request, HEADER)
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise OSError(errno.EINVAL, "the kernel knows the other ones itself")
        return fuse.LSEEK_OUT.pack(os.lseek(self._files.of(node), offset, whence))

    def _read(self, unique: int, node: Node, request: bytes) -> memoryview | None:
        if self.outlet is None:
            return super()._read(unique, node, request)
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, HEADER)
        whole = self._tree.status(node).size
        length = min(size, whole - offset, fuse.LARGEST_READ)
        if self.outlet.send(unique, self._files.of(node), offset, length):
            return None
        if whole <= SMALL:
            self._small = node
        return super()._read(unique, node, request)

    def afterwards(self) -> None:
        """Let the kernel have the files that are probably read next."""
        if self._small is not None:
            small, self._small = self._small, None
            if self._prefetcher is not None and self.outlet is not None:
                self._prefetcher.follow(small, self.outlet)

    def _read_into(self, node: Node, buffer: memoryview, offset: int) -> int:
        file, length = self._files.of(node), 0
        whole = min(len(buffer), self._tree.status(node).size - offset)
        while length < whole:
            count = os.preadv(file, [buffer[length:whole]], offset + length)
            if not count:
                break
            length += count
        return length

    def close(self) -> None:
        """Close all files."""
        self._files.close()
