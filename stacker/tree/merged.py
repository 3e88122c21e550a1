"""Build the merged tree of a stack in memory, with nothing mounted.

The directories of a stack come in, topmost first; a :class:`MergedTree` goes out, which implements
:class:`stacker.tree.protocol.Tree`.  Stacking is applied once, while it is built; after that it
never changes.  This module must not use FUSE.

Each name has a number, 0 for the root.  Names of one directory have consecutive numbers, sorted,
and each attribute is an array indexed by them.  An array needs a few bytes for each name where an
object needs hundreds, and forked processes continue to share its pages.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from array import array
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Final

from stacker.layer.paths import LayerPaths
from stacker.layer.symlinks import join
from stacker.linux import acl
from stacker.linux.opath import open_below
from stacker.tar.entry import Directory, File, Meta, Special, Symlink, Whiteout, without_user_xattrs
from stacker.tree.contents import FileOnDisk
from stacker.tree.numbers import LayerNumbers, NumbersOnDisk
from stacker.tree.protocol import INT_MAX, ROOT, Status, XattrMappings
from stacker.tree.scan import Contents, Inodes, Item, has_outside_names, scan_directory
from stacker.tree.skeleton_contents import scan_layer
from stacker.tree.whiteout_dialects import ForeignDialect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from stacker.tree.protocol import Node
    from stacker.tree.whiteout_dialects import WhiteoutDialect

_FIRST, _LAST = -(1 << 63), (1 << 63) - 1  # nanoseconds: the years 1677 and 2262


class MergedTree(XattrMappings, NumbersOnDisk):
    """An immutable tree.

    Hard links share an inode: the lowest number of their names.  A parameter called ``inode`` is
    such a number; ``node`` is the number of any name.
    """

    stride: Final = 1

    def __init__(self) -> None:
        super().__init__()
        self._roots: tuple[bytes, ...] = ()
        self._walks = False
        """Whether symbolic links may have replaced directories since the scan."""
        self._names = b""
        self._name_at = array("Q", [0])
        self._parent = array("I")
        self._inode = array("I")
        self._layer = array("H")
        self._mode = array("I")
        self._uid = array("I")
        self._gid = array("I")
        self._nlink = array("I")
        self._size = array("Q")
        self._mtime = array("q")
        self._first = array("I")
        self._last = array("I")
        self._targets: dict[Node, bytes] = {}
        self._devices: dict[Node, int] = {}
        self._xattrs: dict[Node, Mapping[bytes, bytes]] = {}
        self._groups: dict[Node, list[Node]] | None = None

    def __len__(self) -> int:
        return len(self._mode)

    @property
    def count(self) -> int:
        """The number of names, the root's included."""
        return len(self._mode)

    @property
    def limit(self) -> int:
        """The number after the last node."""
        return len(self._mode)

    @property
    def size(self) -> int:
        """The sum of all file sizes in bytes."""
        return sum(self._size)

    def name(self, node: Node) -> bytes:
        """Return a node's name; the root's is empty."""
        at = self._name_at
        return self._names[at[node] : at[node + 1]]

    def inode(self, node: Node) -> Node:
        """Return the inode of a node."""
        return self._inode[node]

    def parent(self, node: Node) -> Node:
        """Return the directory of a node; the root is its own parent."""
        return self._parent[node]

    def lookup(self, directory: Node, name: bytes) -> Node | None:
        """Return the inode of a name in a directory; ``None`` if the name does not exist."""
        first, last = self._first[directory], self._last[directory]
        at = bisect_left(range(first, last), name, key=self.name) + first
        return self._inode[at] if at < last and self.name(at) == name else None

    def entries(self, directory: Node, offset: int = 0) -> Iterator[tuple[int, bytes, Node]]:
        """Yield the offset, name and inode of each entry after ``offset``, sorted by name.

        :raises OSError: ``ENOTDIR``.
        """
        if not stat.S_ISDIR(self._mode[directory]):
            raise OSError(errno.ENOTDIR, "not a directory")
        for at, child in enumerate(self.children(directory)[offset:], offset + 1):
            yield at, self.name(child), self._inode[child]

    def names(self, inode: Node) -> list[tuple[Node, bytes]]:
        """Return each name of an inode, after its directory."""
        if self._groups is None:
            self._groups = {}
            for node, first in enumerate(self._inode):
                if node != first:
                    self._groups.setdefault(first, [first]).append(node)
        return [(self._parent[node], self.name(node)) for node in self._groups.get(inode, [inode])]

    def children(self, directory: Node) -> range:
        """Return the nodes in a directory, sorted by name; none for any other file type."""
        return range(self._first[directory], self._last[directory])

    def mode(self, inode: Node) -> int:
        """Return an inode's file type and permissions."""
        return self._mode[inode]

    def kind(self, inode: Node) -> int:
        """Return an inode's type, an ``S_IF*`` constant."""
        return stat.S_IFMT(self._mode[inode])

    def status(self, inode: Node) -> Status:
        """Return an inode's attributes; all times are the time of the last modification."""
        size, mtime = self._size[inode], self._mtime[inode]
        # Status() would add a Python call to every LOOKUP of a FUSE server.
        return tuple.__new__(
            Status,
            (
                self._mode[inode],
                self._nlink[inode],
                self._uid[inode],
                self._gid[inode],
                size,
                (size + 511) >> 9,
                self._devices.get(inode, 0),
                mtime,
                mtime,
                mtime,
            ),
        )

    def readlink(self, inode: Node) -> bytes:
        """Return the target of a symbolic link.

        :raises OSError: ``EINVAL`` for any other file type.
        """
        target = self._targets.get(inode)
        if target is None:
            raise OSError(errno.EINVAL, "not a symbolic link")
        return target

    def xattrs(self, inode: Node) -> Mapping[bytes, bytes]:
        """Return all extended attributes of an inode, under the image's names."""
        return self._xattrs.get(inode, {})

    @property
    def generation(self) -> int:
        """A checksum of all names and directories, which determine the number of each node."""
        return zlib.crc32(self._parent, zlib.crc32(self._names)) & INT_MAX

    @property
    def has_acls(self) -> bool:
        """Whether an inode has a POSIX ACL."""
        return any(name.startswith(acl.PREFIX) for each in self._xattrs.values() for name in each)

    def path(self, node: Node) -> bytes:
        """Return the path of a node from the root, without a leading slash."""
        names = []
        while node != ROOT:
            names.append(self.name(node))
            node = self._parent[node]
        return b"/".join(reversed(names))

    def open(self, inode: Node) -> int:
        """Open a regular file for reading; the caller closes it.

        :raises OSError: the kernel's error; ``EINVAL`` for any other file type.
        """
        if not stat.S_ISREG(self._mode[inode]):
            raise OSError(errno.EINVAL, "not a regular file")
        root = self._roots[self._layer[inode]]
        return open_below(root, self.path(inode), no_symlinks=self._walks)

    def file(self, inode: Node) -> FileOnDisk:
        """Open a regular file; the caller closes it.

        :raises OSError: as for `open`.
        """
        return FileOnDisk(self.open(inode), self._size[inode])

    def read(self, inode: Node, offset: int, length: int) -> bytes:
        """Return a range of a file; fewer than ``length`` bytes only at its end.

        :raises OSError: as for `open`.
        """
        fd = self.open(inode)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def with_owners(self, users: Callable[[int], int], groups: Callable[[int], int]) -> MergedTree:
        """Return the same tree with other owners, and without ACLs, which name owners.

        :param users: maps each user ID on disk.
        :param groups: maps each group ID on disk.
        """
        tree = MergedTree()
        uid, gid = array("I", map(users, self._uid)), array("I", map(groups, self._gid))
        xattrs = {node: acl.without(each) for node, each in self._xattrs.items()}
        vars(tree).update(vars(self), _uid=uid, _gid=gid, _xattrs=xattrs)
        return tree

    def __iter__(self) -> Iterator[Node]:
        return iter(range(len(self)))

    def group(self, inode: Node) -> int:
        """Return the directory of a file."""
        return self._parent[inode]

    def after(self, node: Node) -> Node | None:
        """Return the next node of a directory, if any."""
        return node + 1 if node + 1 < self._last[self._parent[node]] else None


def merge(sources: Sequence[LayerPaths | Path], dialect: WhiteoutDialect) -> MergedTree:
    """Merge the directories of a stack.

    :param sources: topmost first: layers with a skeleton, and other directories.
    :param dialect: how deletions are written in them.
    :raises IntegrityError: a skeleton or a record is damaged.
    :raises OSError: the kernel's error.
    """
    inodes: Inodes = {}
    layers = [scan_layer(source, dialect, inodes) for source in sources]
    if has_outside_names(inodes) and any(isinstance(each, LayerPaths) for each in sources):
        # Skeletons do not have inode numbers, so they cannot identify hard links across layers.
        inodes = {}
        layers = [scan_directory(tree_of(source), dialect, inodes) for source in sources]
    merger = _Merger(layers, walks=isinstance(dialect, ForeignDialect))
    return merger.merged([None if type(each) is LayerPaths else dialect.prefix for each in sources])


def tree_of(source: LayerPaths | Path) -> Path:
    """Return the directory that overlayfs would stack."""
    return source.diff if isinstance(source, LayerPaths) else source


class _Merger(MergedTree):
    """Fills the arrays level by level, so that names of one directory are consecutive."""

    def __init__(self, layers: list[Contents], *, walks: bool) -> None:
        super().__init__()
        self._walks = walks
        self._layers = layers
        self._text = bytearray()
        self._shared = frozenset().union(*(layer.shared for layer in layers))
        self._seen: dict[int, Node] = {}

    def merged(self, prefixes: Sequence[bytes | None]) -> MergedTree:
        """Return the tree.

        :param prefixes: the prefix of overlayfs's marks in each layer; ``None`` if it has none.
        """
        layers, top = self._layers, self._top()
        self._roots = tuple(layer.root for layer in layers)
        self._append(b"", ROOT, 0, Directory(b"", layers[0].top))
        self._base[ROOT] = top[-1]
        todo = deque([(ROOT, b"", top)])
        while todo:
            node, path, sources = todo.popleft()
            self._first[node] = len(self)
            for name, (number, item) in sorted(self._visible(path, sources).items()):
                child = self._append(name, node, number, item)
                if type(item) is Directory:
                    inner = join(path, name)
                    below = self._below(path, name, inner, sources)
                    self._base[child] = below[-1]
                    todo.append((child, inner, below))
            self._last[node] = len(self)
        self._names = bytes(self._text)
        self._number_by(
            [
                LayerNumbers(*each, walks=self._walks)
                for each in zip(self._roots, prefixes, strict=True)
            ]
        )
        tree = MergedTree()
        for column in vars(tree):
            setattr(tree, column, getattr(self, column))
        return tree

    def _top(self) -> tuple[int, ...]:
        """Return the numbers of the layers that merge into the root."""
        opaque = [number for number, layer in enumerate(self._layers) if b"" in layer.opaque]
        return tuple(range(min(opaque, default=len(self._layers) - 1) + 1))

    def _visible(self, path: bytes, sources: tuple[int, ...]) -> dict[bytes, tuple[int, Item]]:
        """Return the topmost entry of each name in a directory."""
        found: dict[bytes, tuple[int, Item]] = {}
        for number in reversed(sources):
            found.update(
                (name, (number, item))
                for name, item in self._layers[number].directories[path].items()
            )
        if any(type(item) is Whiteout for _, item in found.values()):
            return {name: at for name, at in found.items() if type(at[1]) is not Whiteout}
        return found

    def _below(
        self, path: bytes, name: bytes, inner: bytes, sources: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Return the layers that merge into a directory, down to the first that hides others."""
        found = []
        for number in sources:
            layer = self._layers[number]
            item = layer.directories[path].get(name)
            if item is None:
                continue
            if type(item) is not Directory:
                break
            found.append(number)
            if inner in layer.opaque:
                break
        return tuple(found)

    def _append(self, name: bytes, parent: Node, number: int, item: Item) -> Node:
        node = len(self._mode)
        self._text += name
        self._name_at.append(len(self._text))
        self._parent.append(parent)
        self._layer.append(number)
        self._base.append(number)
        self._first.append(0)
        self._last.append(0)
        self._nlink.append(1)
        self._inode.append(self._inode_of(node, item))
        if isinstance(item, Whiteout):  # _visible has removed whiteouts
            raise TypeError(item)
        meta = item.meta
        self._mtime.append(max(_FIRST, min(meta.mtime, _LAST)))
        uid, gid = self._layers[number].owner or (meta.uid, meta.gid)
        self._uid.append(uid)
        self._gid.append(gid)
        self._describe(node, item, meta)
        return node

    def _inode_of(self, node: Node, item: Item) -> Node:
        if id(item) not in self._shared:
            return node
        first = self._seen.setdefault(id(item), node)
        if first != node:
            self._nlink[first] += 1
        return first

    def _describe(self, node: Node, item: Item, meta: Meta) -> None:
        kind, size, xattrs = stat.S_IFREG, 0, meta.xattrs
        if type(item) is File:
            size = item.size
        elif type(item) is Directory:
            kind = stat.S_IFDIR
        else:
            kind, size = self._describe_other(node, item)
            xattrs = without_user_xattrs(xattrs) if xattrs else None
        self._mode.append(kind | (0o777 if kind == stat.S_IFLNK else meta.mode))
        self._size.append(size)
        if xattrs:
            self._xattrs[node] = acl.after_chmod(xattrs, self._mode[node])

    def _describe_other(self, node: Node, item: Item) -> tuple[int, int]:
        if isinstance(item, Symlink):
            self._targets[node] = item.target
            return stat.S_IFLNK, len(item.target)
        if isinstance(item, Special):
            self._devices[node] = item.device
            return item.kind, 0
        raise TypeError(item)
