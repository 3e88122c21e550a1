"""The interface of a merged tree, for all of its readers.

A FUSE server, an archive writer, a verifier and a viewer read a tree through :class:`Tree`:
inode numbers and names go in, names, :class:`Status` values and bytes come out.
`stacker.tree.merged.MergedTree` implements it from layers and never changes;
`stacker.tree.writable.WritableTree` puts an upper directory on top and adds the operations that
write.  This module must not use FUSE, a mount plan or the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Node: TypeAlias = int
"""An inode number; all hard links of a file share one."""

ROOT: Final[Node] = 0


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
