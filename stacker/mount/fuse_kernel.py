"""The merged tree in the kernel's own FUSE protocol: requests in, replies out.

A request is bytes as /dev/fuse gives them, a reply is bytes to be written there.  What the tree is,
`stack/merged` knows; errors become an errno in one place.  Since the tree never changes, the kernel
is told to keep what it has learnt: names, missing names, attributes, link targets, pages and
listings; and to open nothing (ENOSYS to OPEN and OPENDIR), so that a file is read without a handle.

A node of the tree is the kernel's node less one, and its inode number is the kernel's node.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from stacker.mount import fuse_protocol as fuse
from stacker.mount.fuse_answer import ANSWERED, BLOCK, NAME_MAX, OpenFiles, errno_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.mount.fuse_passthrough import Passthrough
    from stacker.stack.merged import MergedTree, Node

_HEADER: Final = fuse.IN_HEADER.size
_ABSENT: Final = fuse.ENTRY_HEAD.pack(0, 0, fuse.FOREVER, 0, 0, 0) + bytes(fuse.ATTR.size)
_NO_ENTRY: Final = bytes(len(_ABSENT))
_VALID: Final = fuse.ATTR_HEAD.pack(fuse.FOREVER, 0, 0)
_NO_REPLY: Final = {fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT}
_ABOUT_NO_NODE: Final = {fuse.INIT, fuse.STATFS, fuse.DESTROY}


class Adapter:
    """Answers requests about one tree.

    :param tree: it may be shared with other processes; this object may not.
    :param passthrough: for the kernel to read large files by itself; each open is a request then.
    """

    def __init__(self, tree: MergedTree, passthrough: Passthrough | None = None) -> None:
        self._tree = tree
        self._passthrough = passthrough
        self._files = OpenFiles(tree)
        self._buffer = bytearray(fuse.OUT_HEADER.size + fuse.LARGEST_READ)
        self._body = memoryview(self._buffer)[fuse.OUT_HEADER.size :]
        self._steps: dict[int, Callable[[Node, bytes], bytes]] = {
            fuse.LOOKUP: self._lookup,
            fuse.GETATTR: self._getattr,
            fuse.READLINK: self._readlink,
            fuse.READDIR: self._readdir,
            fuse.READDIRPLUS: self._readdirplus,
            fuse.GETXATTR: self._getxattr,
            fuse.LISTXATTR: self._listxattr,
            fuse.STATFS: self._statfs,
            fuse.LSEEK: self._lseek,
            fuse.INIT: self._init,
            fuse.RELEASE: lambda _node, _request: b"",
            fuse.RELEASEDIR: lambda _node, _request: b"",
            fuse.DESTROY: lambda _node, _request: b"",
        }
        if passthrough is not None and passthrough.agreed:
            self._steps[fuse.OPEN] = self._open

    def answer(self, request: bytes) -> bytes | memoryview | None:
        """Give the reply to a request, or ``None`` for one that gets none.

        It is valid until the next call.  Whatever the request, no error comes out.
        """
        if len(request) < _HEADER:
            return None  # nobody to reply to
        _, opcode, unique, nodeid, _, _, _, _, _ = fuse.IN_HEADER.unpack_from(request)
        if opcode in _NO_REPLY:
            return None
        try:
            return self._answered(opcode, unique, nodeid - fuse.ROOT_ID, request)
        except ANSWERED as error:
            return fuse.failure(unique, errno_of(error))

    def _answered(self, opcode: int, unique: int, node: Node, request: bytes) -> bytes | memoryview:
        if opcode == fuse.READ:
            return self._read(unique, self._known(node), request)
        step = self._steps.get(opcode)
        if step is None:
            return fuse.failure(unique, _refusal(opcode))
        if opcode not in _ABOUT_NO_NODE:
            self._known(node)
        return fuse.reply(unique, step(node, request))

    def _known(self, node: Node) -> Node:
        if not 0 <= node < len(self._tree):
            raise OSError(errno.ESTALE, "no such node")
        return node

    def _init(self, node: Node, request: bytes) -> bytes:
        """Agree on a version and on what both sides can do (fuse.rst; fs/fuse/inode.c)."""
        del node
        major, minor, read_ahead, flags = fuse.INIT_IN.unpack_from(request, _HEADER)
        if major < fuse.MAJOR or (major == fuse.MAJOR and minor < fuse.MINOR):
            raise OSError(errno.EPROTO, "a kernel before 5.4")
        if major > fuse.MAJOR:  # it asks again, in our words
            return fuse.INIT_OUT.pack(fuse.MAJOR, fuse.MINOR, *[0] * 10)
        ahead = max(read_ahead, fuse.READ_AHEAD)
        wanted = flags & fuse.WANTED
        depth = self._stack_depth(flags, request)
        if depth:
            wanted |= fuse.INIT_EXT
        return fuse.INIT_OUT.pack(
            *(fuse.MAJOR, fuse.MINOR, ahead, wanted),
            *(64, 48),  # requests in the background, and when that is called congested
            *(fuse.MAX_WRITE, 1, fuse.PAGES, 0),
            *(fuse.INIT2_PASSTHROUGH if depth else 0, depth),
        )

    def _stack_depth(self, flags: int, request: bytes) -> int:
        """Agree on passthrough, if it is wanted and the kernel offers it; otherwise 0."""
        if self._passthrough is None or not flags & fuse.INIT_EXT:
            return 0
        (more,) = fuse.INIT_IN_FLAGS2.unpack_from(request, _HEADER + fuse.INIT_IN.size)
        self._passthrough.agreed = bool(more & fuse.INIT2_PASSTHROUGH)
        return self._passthrough.depth if self._passthrough.agreed else 0

    def _open(self, node: Node, request: bytes) -> bytes:
        flags, _ = fuse.OPEN_IN.unpack_from(request, _HEADER)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "read-only")
        number = self._passthrough.number(node) if self._passthrough else 0
        kind = fuse.OPEN_PASSTHROUGH if number else fuse.OPEN_KEEP_CACHE
        return fuse.OPEN_OUT.pack(0, kind | fuse.OPEN_NO_FLUSH, number)

    def _attr(self, inode: Node) -> bytes:
        mode, nlink, uid, gid, size, mtime, device = self._tree.attributes(inode)
        seconds, nanoseconds = divmod(mtime, 1_000_000_000)
        return fuse.ATTR.pack(
            *(inode + fuse.ROOT_ID, size, (size + 511) >> 9),
            *(seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds),
            *(mode, nlink, uid, gid, fuse.device_number(device) if device else 0, BLOCK, 0),
        )

    def _entry(self, inode: Node) -> bytes:
        head = fuse.ENTRY_HEAD.pack(inode + fuse.ROOT_ID, 0, fuse.FOREVER, fuse.FOREVER, 0, 0)
        return head + self._attr(inode)

    def _lookup(self, node: Node, request: bytes) -> bytes:
        found = self._tree.lookup(node, _name(request, _HEADER))
        return _ABSENT if found is None else self._entry(self._tree.inode(found))

    def _getattr(self, node: Node, request: bytes) -> bytes:
        del request
        return _VALID + self._attr(self._tree.inode(node))

    def _readlink(self, node: Node, request: bytes) -> bytes:
        del request
        target = self._tree.readlink(node)
        if target is None:
            raise OSError(errno.EINVAL, "not a symbolic link")
        return target

    def _readdir(self, node: Node, request: bytes) -> bytes:
        return self._listed(node, request, lambda _: b"", b"")

    def _readdirplus(self, node: Node, request: bytes) -> bytes:
        # The kernel links no node to "." and "..", which have none here.
        return self._listed(node, request, self._entry, _NO_ENTRY)

    def _listed(
        self, node: Node, request: bytes, entry: Callable[[Node], bytes], dots: bytes
    ) -> bytes:
        """Give as much of a listing as there is room for.

        :param entry: what stands before each name; ``dots`` before those of the directory itself.
        """
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, _HEADER)
        tree = self._tree
        if not stat.S_ISDIR(tree.mode(node)):
            raise OSError(errno.ENOTDIR, "not a directory")
        children = tree.children(node)
        parts, left = [], min(size, fuse.LARGEST_READ)
        for at in range(offset, len(children) + 2):
            if at < 2:
                inode = tree.parent(node) if at else node
                part = dots + _dirent(inode, at, b".." if at else b".", stat.S_IFDIR)
            else:
                child = children[at - 2]
                inode = tree.inode(child)
                part = entry(inode) + _dirent(inode, at, tree.name(child), tree.mode(inode))
            left -= len(part)
            if left < 0:
                break
            parts.append(part)
        return b"".join(parts)

    def _getxattr(self, node: Node, request: bytes) -> bytes:
        size, _ = fuse.XATTR.unpack_from(request, _HEADER)
        name = _name(request, _HEADER + fuse.XATTR.size)
        value = self._tree.xattrs(node).get(name)
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return _sized(value, size)

    def _listxattr(self, node: Node, request: bytes) -> bytes:
        size, _ = fuse.XATTR.unpack_from(request, _HEADER)
        return _sized(b"".join(name + b"\0" for name in self._tree.xattrs(node)), size)

    def _statfs(self, node: Node, request: bytes) -> bytes:
        del node, request
        return fuse.STATFS_OUT.pack(0, 0, 0, len(self._tree), 0, BLOCK, NAME_MAX, BLOCK)

    def _lseek(self, node: Node, request: bytes) -> bytes:
        _, offset, whence, _ = fuse.LSEEK_IN.unpack_from(request, _HEADER)
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise OSError(errno.EINVAL, "the kernel knows the other ones itself")
        return fuse.LSEEK_OUT.pack(os.lseek(self._files.of(node), offset, whence))

    def _read(self, unique: int, node: Node, request: bytes) -> memoryview:
        """Read straight into the reply."""
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, _HEADER)
        if offset >= 1 << 63:
            raise OSError(errno.EINVAL, "offset out of range")
        body = self._body[: min(size, fuse.LARGEST_READ)]
        length = 0
        while length < len(body):
            count = os.preadv(self._files.of(node), [body[length:]], offset + length)
            if not count:
                break
            length += count
        whole = fuse.OUT_HEADER.size + length
        fuse.OUT_HEADER.pack_into(self._buffer, 0, whole, 0, unique)
        return memoryview(self._buffer)[:whole]

    def close(self) -> None:
        """Close all files."""
        self._files.close()


def _dirent(inode: Node, at: int, name: bytes, mode: int) -> bytes:
    head = fuse.DIRENT.pack(inode + fuse.ROOT_ID, at + 1, len(name), mode >> 12)
    return head + name + bytes(-len(name) % 8)


def _refusal(opcode: int) -> int:
    return errno.EROFS if opcode in fuse.WRITING else errno.ENOSYS


def _name(request: bytes, start: int) -> bytes:
    """Give the NUL-terminated name at a place in a request.

    :raises ValueError: there is none.
    """
    end = request.index(b"\0", start)
    if end == start:
        raise ValueError(start)
    return request[start:end]


def _sized(value: bytes, size: int) -> bytes:
    """Give an xattr reply: how long the value is, or the value when it has room."""
    if not size:
        return fuse.XATTR.pack(len(value), 0)
    if size < len(value):
        raise OSError(errno.ERANGE, "no room for the value")
    return value
