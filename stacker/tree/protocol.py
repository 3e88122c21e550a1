"""The interface of a merged tree, for all of its readers.

A FUSE server, an archive writer, a verifier and a viewer read a tree through :class:`Tree`:
inode numbers and names go in, names, :class:`Status` values and bytes come out.
`stacker.tree.merged.MergedTree` implements it from directories, `stacker.tree.indexed.IndexedTree`
from an index; both are a :class:`LowerTree` and never change.  `stacker.tree.writable.WritableTree`
puts an upper directory on top and adds the operations that write.  This module must not use FUSE,
a mount plan or the store.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

Node: TypeAlias = int
"""An inode number; all hard links of a file share one."""

ROOT: Final[Node] = 0
INT_MAX: Final = (1 << 31) - 1


class Status(NamedTuple):
    """The attributes of an inode, as stat(2) reports them.

    Times are nanoseconds since the epoch, ``size`` is bytes, ``blocks`` counts 512-byte units.
    """

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocks: int
    device: int
    atime: int
    mtime: int
    ctime: int


class Tree(Protocol):
    """A merged tree to read.

    Every method raises `OSError` with the errno of the corresponding system call; ``ESTALE`` means
    that no such inode exists.
    """

    def lookup(self, directory: Node, name: bytes) -> Node | None:
        """Return the inode of a name in a directory; ``None`` if the name does not exist."""

    def parent(self, directory: Node) -> Node:
        """Return the parent of a directory; the root is its own parent."""

    def kind(self, node: Node) -> int:
        """Return the file type of an inode: an ``S_IF*`` constant."""

    def number(self, node: Node) -> int:
        """Return the inode number that programs see, which is the same in every mount."""

    def entries(self, directory: Node, offset: int = 0) -> Iterator[tuple[int, bytes, Node]]:
        """Yield the offset, name and inode of each directory entry after ``offset``.

        An entry keeps its offset while others are added and removed (POSIX, readdir).

        :param offset: the offset of the last entry already read; 0 to start.
        :raises OSError: ``ENOTDIR``.
        """

    def status(self, node: Node) -> Status:
        """Return the attributes of an inode."""

    def readlink(self, node: Node) -> bytes:
        """Return the target of a symbolic link.

        :raises OSError: ``EINVAL`` for any other file type.
        """

    def xattr_names(self, node: Node) -> list[bytes]:
        """Return the names of all extended attributes, without overlayfs's marks."""

    def xattr(self, node: Node, name: bytes) -> bytes:
        """Return the value of an extended attribute.

        :raises OSError: ``ENODATA`` if it does not exist.
        """

    def read(self, node: Node, offset: int, length: int) -> bytes:
        """Return a range of a regular file; fewer than ``length`` bytes only at its end.

        :param offset: bytes.
        :raises OSError: ``EISDIR`` or ``EINVAL`` for any other file type.
        """


class XattrMappings(ABC):
    """The xattr methods of a tree that has all xattrs of an inode in a mapping."""

    @abstractmethod
    def xattrs(self, inode: Node) -> Mapping[bytes, bytes]:
        """Return all extended attributes of an inode, under the image's names."""

    def xattr_names(self, inode: Node) -> list[bytes]:
        """Return the names of all extended attributes of an inode."""
        return list(self.xattrs(inode))

    def xattr(self, inode: Node, name: bytes) -> bytes:
        """Return the value of an extended attribute.

        :raises OSError: ``ENODATA`` if it does not exist.
        """
        value = self.xattrs(inode).get(name)
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return value


class Piece(NamedTuple):
    """A range of a file that has its bytes in a row in one descriptor.

    :param descriptor: the descriptor with the bytes; -1 if all are zero.
    :param offset: where they start there.
    """

    descriptor: int
    offset: int
    length: int


class Contents(Protocol):
    """The contents of a regular file of a `LowerTree`, open for reading."""

    size: int
    """Bytes; nothing after them is read, even if a descriptor has more."""

    def piece(self, offset: int, length: int) -> Piece:
        """Return the first part of a range that starts before the end of the file."""

    def seek(self, offset: int, whence: int) -> int:
        """Find data or a hole: ``SEEK_DATA`` or ``SEEK_HOLE`` of lseek(2).

        :raises OSError: ``ENXIO`` past the end.
        """

    def copy_to(self, target: int) -> None:
        """Copy everything into an empty file."""

    def copy_start(self, target: int, length: int) -> None:
        """Copy the first ``length`` bytes, at most all, into an empty file."""

    def close(self) -> None:
        """Close what only this object uses."""


class LowerTree(Tree, Protocol):
    """A tree that never changes: what a server shares between processes, and an upper covers."""

    @property
    def count(self) -> int:
        """The number of files, as statfs(2) reports it."""

    @property
    def size(self) -> int:
        """The sum of the sizes in bytes of all files that have a file on disk of their own."""

    @property
    def limit(self) -> int:
        """All inode numbers are below it."""

    @property
    def stride(self) -> int:
        """How much the numbers of two files in a row differ, about."""

    @property
    def generation(self) -> int:
        """A number below 2**31 that two trees share only if equal nodes are the same files."""

    @property
    def has_acls(self) -> bool:
        """Whether an inode can have a POSIX ACL, which the kernel then asks for."""

    def mode(self, inode: Node) -> int:
        """Return an inode's file type and permissions."""

    def names(self, inode: Node) -> list[tuple[Node, bytes]]:
        """Return each name of an inode other than the root, after its directory."""

    def birth(self, inode: Node) -> int | None:
        """Return when a file was made on disk, in nanoseconds; ``None`` if that is not known."""

    def flags(self, inode: Node) -> int:
        """Return the flags of a file or directory, as lsattr(1) shows them.

        :raises OSError: ``ENOTTY`` if its filesystem has none.
        """

    def origin(self, inode: Node) -> bytes:
        """Return the value of overlayfs's xattr *origin* for a copy of a file.

        :raises OSError: ``EOPNOTSUPP`` if the filesystem has no file handles.
        """

    def number_of_origin(self, value: bytes) -> int | None:
        """Return the `number` of the file that an origin names; ``None`` if this tree lacks it."""

    def number_on(self, device: int, inode: int) -> int:
        """Return the `number` of a file of an upper directory.

        :param device: the device of its filesystem.
        :param inode: its inode number there.
        """

    def xattrs(self, inode: Node) -> Mapping[bytes, bytes]:
        """Return all extended attributes of an inode, under the image's names."""

    def file(self, inode: Node) -> Contents:
        """Open a regular file; the caller closes it.

        :raises OSError: the kernel's error; ``EINVAL`` for any other file type.
        """

    def with_owners(self, users: Callable[[int], int], groups: Callable[[int], int]) -> Self:
        """Return the same tree with other owners.

        :param users: maps each user ID on disk.
        :param groups: maps each group ID on disk.
        """

    def inode(self, node: Node) -> Node:
        """Return the inode of a number that `after` returned."""

    def group(self, inode: Node) -> int:
        """Return a number that is equal for files that programs read one after the other."""

    def after(self, node: Node) -> Node | None:
        """Return the number of the next file of a group, if any."""
