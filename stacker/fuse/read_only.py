"""A read-only merged tree in the kernel's own FUSE protocol.

Requests and a `LowerTree` come in; replies go out.  The tree never changes, so the kernel may
cache names, missing names, attributes, link targets, pages and listings forever.  The adapter
answers ENOSYS to OPEN and OPENDIR, and the kernel then reads files without handles.

The kernel can also find a node by its number alone: it looks up ``.`` and ``..`` for the file
handles (name_to_handle_at(2)) that overlayfs stores as the origin of a copied-up file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from stacker.fuse import protocol as fuse
from stacker.fuse.channel import MIN_SPLICE
from stacker.fuse.dispatch import HEADER, TreeHandler, list_xattrs, name_at
from stacker.fuse.prefetch import MAX_SIZE
from stacker.fuse.replies import (
    ABSENT,
    BLOCK,
    NAME_MAX,
    NO_ENTRY,
    VALID,
    OpenFiles,
    pack_attributes,
    pack_dirent,
    pack_entry,
    pack_xattr,
)
from stacker.tree.contents import read_into

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stacker.fuse.passthrough import Passthrough
    from stacker.fuse.prefetch import Prefetcher
    from stacker.tree.protocol import LowerTree, Node
    from stacker.tree.whiteout_dialects import WhiteoutDialect

_DOTS: Final = frozenset({b".", b".."})
_WITHOUT_NODE: Final = {fuse.INIT, fuse.STATFS, fuse.DESTROY}


class ReadOnlyAdapter(TreeHandler):
    """Answers requests about one tree.

    :param tree: all workers can share it, but each needs an adapter of its own.
    :param passthrough: the backing files of large files; the kernel then sends OPEN requests.
    :param prefetcher: stores small files ahead; all workers share it.
    :param acls: whether the kernel enforces POSIX ACLs.
    :param dialect: how the names of xattrs are escaped for an overlay above the mount.
    """

    def __init__(
        self,
        tree: LowerTree,
        passthrough: Passthrough | None = None,
        prefetcher: Prefetcher | None = None,
        *,
        acls: bool = False,
        dialect: WhiteoutDialect | None = None,
    ) -> None:
        wanted = fuse.WANTED | (fuse.INIT_POSIX_ACL if acls else 0)
        super().__init__(wanted, tree, tree.status)
        self._prefetcher = prefetcher
        self._just_read: Node | None = None
        self._tree = tree
        self._generation = tree.generation
        self._dialect = dialect
        self._passthrough = passthrough
        self._files = OpenFiles(tree)
        self._handlers |= {
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
            self._handlers[fuse.OPEN] = self._open

    def _dispatch(
        self, opcode: int, unique: int, node: Node, request: bytes
    ) -> bytes | memoryview | None:
        if opcode not in _WITHOUT_NODE and (opcode in self._handlers or opcode == fuse.READ):
            self._require(node)
        return super()._dispatch(opcode, unique, node, request)

    def _require(self, node: Node) -> None:
        if not 0 <= node < self._tree.limit:
            raise OSError(errno.ESTALE, "no such node")

    def _unsupported(self, opcode: int) -> int:
        return errno.EROFS if opcode in fuse.WRITING else errno.ENOSYS

    def _more_flags(self, flags: int, request: bytes) -> tuple[int, int]:
        """Agree on passthrough, if the mount wants it and the kernel supports it."""
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
        backing_id = self._passthrough.backing_id(node) if self._passthrough else 0
        kind = fuse.OPEN_PASSTHROUGH if backing_id else fuse.OPEN_KEEP_CACHE
        return fuse.OPEN_OUT.pack(0, kind | fuse.OPEN_NO_FLUSH, backing_id)

    def _entry(self, inode: Node) -> bytes:
        tree = self._tree
        return pack_entry(inode, tree.number(inode), tree.status(inode), self._generation)

    def _lookup(self, node: Node, request: bytes) -> bytes:
        tree, name = self._tree, name_at(request, HEADER)
        if name in _DOTS:
            found: Node | None = tree.parent(node) if name == b".." else tree.inode(node)
        else:
            found = tree.lookup(node, name)
        return ABSENT if found is None else self._entry(found)

    def _getattr(self, node: Node, request: bytes) -> bytes:
        del request
        inode = self._tree.inode(node)
        return VALID + pack_attributes(self._tree.number(inode), self._tree.status(inode))

    def _readlink(self, node: Node, request: bytes) -> bytes:
        del request
        return self._tree.readlink(node)

    def _readdir(self, node: Node, request: bytes) -> bytes:
        return self._list(node, request, full=False)

    def _readdirplus(self, node: Node, request: bytes) -> bytes:
        # The kernel ignores the entries of "." and "..".
        return self._list(node, request, full=True)

    def _list(self, node: Node, request: bytes, *, full: bool) -> bytes:
        """Return as much of a listing as the reply can hold.

        :param full: whether an entry with attributes precedes each name.
        """
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, HEADER)
        tree = self._tree
        if not stat.S_ISDIR(tree.mode(node)):
            raise OSError(errno.ENOTDIR, "not a directory")
        parts, left = list[bytes](), min(size, fuse.LARGEST_READ)
        for at in range(offset, 2):
            inode = tree.parent(node) if at else node
            part = pack_dirent(tree.number(inode), at + 1, b".." if at else b".", stat.S_IFDIR)
            if full:
                part = NO_ENTRY + part
            left -= len(part)
            if left < 0:
                return b"".join(parts)
            parts.append(part)
        for at, name, inode in tree.entries(node, max(offset - 2, 0)):
            number = tree.number(inode)
            if full:
                status = tree.status(inode)
                part = pack_entry(inode, number, status, self._generation)
                part += pack_dirent(number, at + 2, name, status.mode)
            else:
                part = pack_dirent(number, at + 2, name, tree.mode(inode))
            left -= len(part)
            if left < 0:
                break
            parts.append(part)
        return b"".join(parts)

    def _getxattr(self, node: Node, request: bytes) -> bytes:
        size, _ = fuse.XATTR.unpack_from(request, HEADER)
        name: bytes | None = name_at(request, HEADER + fuse.XATTR.size)
        if self._dialect is not None and name is not None:
            name = self._dialect.unescape(name)
        if name is None:
            raise OSError(errno.ENODATA, "a mark of overlayfs")
        return pack_xattr(self._tree.xattr(node, name), size)

    def _listxattr(self, node: Node, request: bytes) -> bytes:
        names: Iterable[bytes] = self._tree.xattrs(node)
        if self._dialect is not None:
            names = map(self._dialect.escape, names)
        return list_xattrs(names, request)

    def _statfs(self, node: Node, request: bytes) -> bytes:
        del node, request
        return fuse.STATFS_OUT.pack(0, 0, 0, self._tree.count, 0, BLOCK, NAME_MAX, BLOCK)

    def _lseek(self, node: Node, request: bytes) -> bytes:
        _, offset, whence, _ = fuse.LSEEK_IN.unpack_from(request, HEADER)
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise OSError(errno.EINVAL, "not SEEK_DATA or SEEK_HOLE")
        return fuse.LSEEK_OUT.pack(self._files.get(node).seek(offset, whence))

    def _read(self, unique: int, node: Node, request: bytes) -> memoryview | None:
        if self.sender is None:
            return super()._read(unique, node, request)
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, HEADER)
        file = self._files.get(node)
        length = min(size, file.size - offset, fuse.LARGEST_READ)
        if length >= MIN_SPLICE:
            piece = file.piece(offset, length)
            if piece.length == length and self.sender.reply(unique, *piece):
                return None
        if file.size <= MAX_SIZE:
            self._just_read = node
        return super()._read(unique, node, request)

    def after_reply(self) -> None:
        """Store the files that are probably read next in the page cache."""
        if self._just_read is not None:
            inode, self._just_read = self._just_read, None
            if self._prefetcher is not None and self.sender is not None:
                self._prefetcher.after_read(inode, self.sender)

    def _read_into(self, node: Node, buffer: memoryview, offset: int) -> int:
        return read_into(self._files.get(node), buffer, offset)

    def close(self) -> None:
        """Close all files."""
        self._files.close()
