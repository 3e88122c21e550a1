"""Serve the merged tree of an index, mapped into memory.

A merged index (`stacker.layer.paths.MergedIndex`) comes in; an :class:`IndexedTree` goes out, which
implements :class:`stacker.tree.protocol.LowerTree`.  Nothing is parsed before it is asked for, and
files are read from the tars of the layers.  This module must not use FUSE.

A node is the number of its inode in the index, less that of the root.  So inode numbers are the
same in each mount of an index.  An index can be damaged: each method then raises `IntegrityError`.
The writer places a directory before its files, so each step from a directory to its parent must
lead to a lower number, and no damage makes a walk endless.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from stacker.erofs import format as on_disk
from stacker.erofs.inodes import SECOND
from stacker.erofs.read import Image
from stacker.errors import IntegrityError
from stacker.linux import acl
from stacker.linux.inode_attributes import INO64_GEN, FileHandle
from stacker.tree.contents import HOLE, copy_pieces, read_into
from stacker.tree.numbers import FILESYSTEM_BIT, Origin, read_origin
from stacker.tree.protocol import INT_MAX, ROOT, Piece, Status, XattrMappings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stacker.erofs.read import Inode
    from stacker.layer.paths import MergedIndex
    from stacker.tree.protocol import Node
    from stacker.tree.whiteout_dialects import WhiteoutDialect

_HANDLE: Final = struct.Struct("=III")
"""The file handle of an inode of EROFS, Linux 6.14 (erofs_encode_fh): number and generation."""
_CACHED: Final = 1024
"""Entries of each cache."""
_DOTS: Final = frozenset({b".", b".."})
_REGION_BITS: Final = 11
"""Files whose numbers differ in lower bits only are read in one order, for `group`."""
_KIND: Final = 0o170000
_DEVICES: Final = frozenset({stat.S_IFCHR, stat.S_IFBLK})


class IndexedTree(XattrMappings):
    """The tree of an index; it never changes, and forked processes share it.

    :param image: the index.
    :param files: descriptors of the index and of its tars, in the order of their numbers.
    :param dialect: how the names of xattrs are escaped in the index.
    :param users: maps each user ID in the index.
    :param groups: maps each group ID in the index.
    """

    size: Final = 0
    """No file has a file on disk of its own."""
    stride: Final = 3
    """Most inodes of files take two or three units."""

    def __init__(
        self,
        image: Image,
        files: Sequence[int],
        dialect: WhiteoutDialect,
        *,
        users: Callable[[int], int] | None = None,
        groups: Callable[[int], int] | None = None,
    ) -> None:
        self._image = image
        self._files = files
        self._dialect = dialect
        self._users, self._groups = users, groups
        self.has_acls = users is None and groups is None
        """Whether an inode can have a POSIX ACL; a search would take longer than the mount."""
        self._attributes = image.attributes
        self._root = image.superblock.root
        self.count = image.superblock.inodes
        self.limit = max(1, len(image.data) // on_disk.INODE_UNIT - self._root)
        self._parents: array[int] | None = None
        self._more_parents: dict[Node, list[Node]] = {}
        self.file = lru_cache(_CACHED)(self._file)
        self._place_of = lru_cache(_CACHED)(self._directory_place)

    def close(self) -> None:
        """Close the index and its tars."""
        for descriptor in self._files:
            os.close(descriptor)

    # Names

    def lookup(self, directory: Node, name: bytes) -> Node | None:
        """Return the inode of a name in a directory; ``None`` if the name does not exist."""
        inode = self._directory(directory)
        found = None if name in _DOTS else self._image.lookup(inode, name)
        return None if found is None else self._node(found)

    def entries(self, directory: Node, offset: int = 0) -> Iterator[tuple[int, bytes, Node]]:
        """Yield the offset, name and inode of each entry after ``offset``, sorted by name.

        :raises OSError: ``ENOTDIR``.
        """
        inode = self._directory(directory)
        root, limit = self._root, self.limit
        for at, name, nid in self._image.names_after(inode, offset):
            if name not in _DOTS:
                node = nid - root
                yield at, name, node if 0 <= node < limit else self._node(nid)

    def parent(self, directory: Node) -> Node:
        """Return the parent of a directory; the root is its own parent."""
        if directory == ROOT:
            return ROOT
        found = self._image.lookup(self._directory(directory), b"..")
        parent = -1 if found is None else found - self._root
        if not 0 <= parent < directory:
            raise self._damaged(f"got the parent {found} of directory {directory + self._root}")
        return parent

    def names(self, inode: Node) -> list[tuple[Node, bytes]]:
        """Return each name of an inode, after its directory."""
        if self.kind(inode) == stat.S_IFDIR:
            return [self._place_of(inode)]
        return [
            (directory, name)
            for directory in self._directories_with(inode)
            for _, name, found in self.entries(directory)
            if found == inode
        ]

    def _directory_place(self, inode: Node) -> tuple[Node, bytes]:
        parent = self.parent(inode)
        for _, name, found in self.entries(parent):
            if found == inode:
                return parent, name
        raise self._damaged(f"got no name of directory {inode + self._root}")

    def _directories_with(self, inode: Node) -> list[Node]:
        """Return the directories that have a name of a file: all are read, once."""
        if self._parents is None:
            self._parents = self._all_parents()
        first = self._parents[inode]
        return [first - 1, *self._more_parents.get(inode, ())] if first else []

    def _all_parents(self) -> array[int]:
        """Return the first directory of each file, plus one."""
        parents, todo = array("I", bytes(4 * self.limit)), [ROOT]
        while todo:
            directory = todo.pop()
            for name, nid, kind in self._image.names(self._directory(directory)):
                node = self._node(nid)
                if name in _DOTS:
                    continue
                if not parents[node]:
                    parents[node] = directory + 1
                    if kind == on_disk.FILE_TYPES[stat.S_IFDIR]:
                        todo.append(node)
                elif parents[node] != directory + 1:
                    self._more_parents.setdefault(node, [])
                    if directory not in self._more_parents[node]:
                        self._more_parents[node].append(directory)
        return parents

    def _directory(self, node: Node) -> Inode:
        inode = self._inode(node)
        if not stat.S_ISDIR(inode.mode):
            raise OSError(errno.ENOTDIR, "not a directory")
        return inode

    def _inode(self, node: Node) -> Inode:
        return self._image.inode(node + self._root)

    def _node(self, nid: int) -> Node:
        node = nid - self._root
        if not 0 <= node < self.limit:
            raise self._damaged(f"got the number {nid} of an inode")
        return node

    def _damaged(self, got: str) -> IntegrityError:
        return IntegrityError(
            f"damaged index: {self._image.what}: {got}",
            hint="replace the layer with `stacker repair`",
        )

    # Attributes

    def mode(self, inode: Node) -> int:
        """Return an inode's file type and permissions."""
        return self._attributes(inode + self._root)[0]

    def kind(self, inode: Node) -> int:
        """Return an inode's type, an ``S_IF*`` constant."""
        return self._attributes(inode + self._root)[0] & _KIND

    @property
    def generation(self) -> int:
        """A part of the UUID of the index, which depends on all its inodes."""
        return int.from_bytes(self._image.superblock.uuid[:4], "little") & INT_MAX

    def number(self, inode: Node) -> int:
        """Return the inode number that programs see: the place of the inode, from 1."""
        return inode + 1

    def birth(self, inode: Node) -> None:
        """Return ``None``: an index has no birth time."""
        del inode

    def flags(self, inode: Node) -> int:
        """Return 0: an index has no flags."""
        del inode
        return 0

    def origin(self, inode: Node) -> bytes:
        """Return the value of overlayfs's xattr *origin* for a copy of a file."""
        nid = inode + self._root
        handle = FileHandle(INO64_GEN, _HANDLE.pack(nid >> 32, nid & 0xFFFFFFFF, 0))
        return Origin(self._image.superblock.uuid, handle).packed()

    def number_of_origin(self, value: bytes) -> int | None:
        """Return the number of the file that an origin names; ``None`` if this tree lacks it."""
        origin = read_origin(value)
        if origin is None or origin.uuid != self._image.superblock.uuid:
            return None
        kind, data = origin.handle
        if kind != INO64_GEN or len(data) != _HANDLE.size:
            return None
        high, low, _ = _HANDLE.unpack(data)
        node = (high << 32 | low) - self._root
        return self.number(node) if 0 <= node < self.limit else None

    def number_on(self, device: int, inode: int) -> int:
        """Return the number of a file of an upper directory, which the index does not have."""
        del device
        return 1 << FILESYSTEM_BIT | inode

    def status(self, inode: Node) -> Status:
        """Return an inode's attributes; all times are the time of the last modification.

        As in a tree of directories, a directory has one link and no size.
        """
        mode, links, uid, gid, size, seconds, nanoseconds, union = self._attributes(
            inode + self._root
        )
        device, kind = 0, mode & _KIND
        if kind == stat.S_IFDIR:
            size, links = 0, 1
        elif kind in _DEVICES:
            device = on_disk.decode_device(union)
        if self._users is not None and self._groups is not None:
            uid, gid = self._users(uid), self._groups(gid)
        mtime = seconds * SECOND + nanoseconds
        # Status() would add a Python call to every LOOKUP of a FUSE server.
        return tuple.__new__(
            Status,
            (mode, links, uid, gid, size, (size + 511) >> 9, device, mtime, mtime, mtime),
        )

    def readlink(self, inode: Node) -> bytes:
        """Return the target of a symbolic link.

        :raises OSError: ``EINVAL`` for any other file type.
        """
        found = self._inode(inode)
        if not stat.S_ISLNK(found.mode):
            raise OSError(errno.EINVAL, "not a symbolic link")
        return self._image.target(found)

    def xattrs(self, inode: Node) -> Mapping[bytes, bytes]:
        """Return all extended attributes of an inode, under the image's names."""
        found = self._image.xattrs(self._inode(inode))
        names = ((self._dialect.unescape(name), value) for name, value in found.items())
        visible = {name: value for name, value in names if name is not None}
        return visible if self.has_acls else acl.without(visible)

    def with_owners(self, users: Callable[[int], int], groups: Callable[[int], int]) -> IndexedTree:
        """Return the same tree with other owners, and without ACLs, which name owners.

        :param users: maps each user ID in the index.
        :param groups: maps each group ID in the index.
        """
        return IndexedTree(self._image, self._files, self._dialect, users=users, groups=groups)

    # Contents

    def _file(self, inode: Node) -> _FileInTar:
        """Return the contents of a regular file.

        :raises OSError: ``EINVAL`` for any other file type.
        """
        found = self._inode(inode)
        if not stat.S_ISREG(found.mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return _FileInTar(self._image, self._files, found)

    def read(self, inode: Node, offset: int, length: int) -> bytes:
        """Return a range of a file; fewer than ``length`` bytes only at its end.

        :raises OSError: as for `file`.
        """
        file = self.file(inode)
        buffer = bytearray(max(0, min(length, file.size - offset)))
        return bytes(buffer[: read_into(file, memoryview(buffer), offset)])

    # The order in which programs read files

    def inode(self, node: Node) -> Node:
        """Return ``node``: each node is an inode."""
        return node

    def group(self, inode: Node) -> int:
        """Return a number that is equal for files that programs read one after the other."""
        return inode >> _REGION_BITS

    def after(self, node: Node) -> Node | None:
        """Return the file after another, as the index places the files of a directory."""
        at = self._image.end_of(self._inode(node))
        for place in (at, on_disk.aligned(at, on_disk.BLOCK)):  # a gap precedes an inode
            node = place // on_disk.INODE_UNIT - self._root
            if node >= self.limit:
                return None
            mode = self.mode(node)
            if mode:
                return None if stat.S_ISDIR(mode) else node
        return None


class _FileInTar:
    """The contents of a file: chunks of tars, of the index itself, and holes."""

    __slots__ = ("_files", "_image", "_inode", "size")

    def __init__(self, image: Image, files: Sequence[int], inode: Inode) -> None:
        self._image, self._files, self._inode = image, files, inode
        self.size = inode.size

    def piece(self, offset: int, length: int) -> Piece:
        """Return where a range starts, and how much of it follows there."""
        tar, start, found = self._image.chunk_at(self._inode, offset)
        while found < length and offset + found < self.size:
            other, place, more = self._image.chunk_at(self._inode, offset + found)
            if other != tar or (tar >= 0 and place != start + found):
                break
            found += more
        return Piece(HOLE if tar < 0 else self._files[tar], start, min(found, length))

    def seek(self, offset: int, whence: int) -> int:
        """Find data or a hole; the end of the file is a hole.

        :raises OSError: ``ENXIO`` past the end, and if there is no data up to it.
        """
        if not 0 <= offset < self.size:
            raise OSError(errno.ENXIO, "past the end of the file")
        while offset < self.size:
            descriptor, _, length = self.piece(offset, self.size - offset)
            if (descriptor == HOLE) == (whence == os.SEEK_HOLE):
                return offset
            offset += length
        if whence == os.SEEK_DATA:
            raise OSError(errno.ENXIO, "no data up to the end of the file")
        return self.size

    def copy_to(self, target: int) -> None:
        """Copy everything into an empty file, and keep its holes."""
        copy_pieces(self, target, self.size)

    def copy_start(self, target: int, length: int) -> None:
        """Copy the first bytes into an empty file."""
        copy_pieces(self, target, length)

    def close(self) -> None:
        """Do nothing: the tree keeps the tars open."""


def open_index(merged: MergedIndex, dialect: WhiteoutDialect) -> IndexedTree:
    """Map an index, and open its tars, for the life of this process.

    :raises OSError: the kernel's error, with the path.
    :raises IntegrityError: the index is damaged.
    """
    files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (merged.path, *merged.tars)]
    if not os.fstat(files[0]).st_size:
        raise IntegrityError(f"damaged index: {merged.path}: got an empty file, want an image")
    data = mmap.mmap(files[0], 0, prot=mmap.PROT_READ)
    image = Image(memoryview(data), str(merged.path))
    if image.superblock.tars > len(merged.tars):
        raise IntegrityError(
            f"damaged index: {merged.path}: got {image.superblock.tars} tars,"
            f" want {len(merged.tars)}"
        )
    tree = IndexedTree(image, files, dialect)
    if not stat.S_ISDIR(tree.mode(ROOT)):
        raise IntegrityError(f"damaged index: {merged.path}: got a root that is not a directory")
    return tree
