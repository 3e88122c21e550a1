"""A tree of inodes in memory, with the contents of its files in tars.

Attributes and names come in; numbers of inodes go out.  Trees of several layers can share one
:class:`Inodes`: each directory is a dict from names to inode numbers, so that merging two trees
changes dicts only.  The attributes are in arrays, to need little memory for an inode.  This module
must not use the EROFS format.
"""

from __future__ import annotations

import stat
from array import array
from itertools import repeat
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stacker.tar.entry import Meta, Segment

XattrSet: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names and values, sorted by name."""

Directory: TypeAlias = dict[bytes, int]
"""The names in a directory, and the number of each inode."""

Row: TypeAlias = tuple[int, int, int, int, int, int, int, int, int]
"""mode, uid, gid, seconds, nanoseconds, size, start, tar, and the number of the xattr set."""

SECOND: Final = 1_000_000_000


class Inodes:
    """The inodes of one or more trees, by number.

    ``mode``, ``uid``, ``gid``, ``seconds``, ``nanoseconds`` (of the modification), ``size`` and
    ``links`` are what stat(2) returns.  The others are:

    - ``start``: where a regular file starts in its tar, in bytes; a device's number.
    - ``tar``: the number of this tar, from 1.
    - ``xattrs``: the number of a set in ``xattr_sets``; 0 is the empty set.
    - ``directories``: the names in each directory.
    - ``targets``: the target of each symbolic link.
    - ``sparse``: where the data of each sparse file belongs.
    """

    def __init__(self) -> None:
        self.mode = array("I")
        self.uid = array("I")
        self.gid = array("I")
        self.seconds = array("q")
        self.nanoseconds = array("I")
        self.size = array("Q")
        self.start = array("Q")
        self.tar = array("H")
        self.links = array("I")
        self.xattrs = array("I")
        self.directories: dict[int, Directory] = {}
        self.targets: dict[int, bytes] = {}
        self.sparse: dict[int, tuple[Segment, ...]] = {}
        self.xattr_sets: list[XattrSet] = [()]
        self._set_numbers: dict[XattrSet, int] = {(): 0}

    def __len__(self) -> int:
        return len(self.mode)

    def add(
        self,
        kind: int,
        meta: Meta,
        xattrs: XattrSet = (),
        *,
        size: int = 0,
        start: int = 0,
        tar: int = 0,
    ) -> int:
        """Add an inode without names, and return its number.

        :param kind: its ``S_IF*`` constant.
        """
        self.mode.append(kind | meta.mode)
        self.uid.append(meta.uid)
        self.gid.append(meta.gid)
        seconds, nanoseconds = divmod(meta.mtime, SECOND)
        self.seconds.append(seconds)
        self.nanoseconds.append(nanoseconds)
        self.size.append(size)
        self.start.append(start)
        self.tar.append(tar)
        self.links.append(0)
        self.xattrs.append(self.set_number(xattrs) if xattrs else 0)
        return len(self.mode) - 1

    def extend(self, rows: Sequence[Row]) -> None:
        """Add inodes without names, whose xattrs have the numbers of sets."""
        columns = (
            *(self.mode, self.uid, self.gid, self.seconds, self.nanoseconds),
            *(self.size, self.start, self.tar, self.xattrs),
        )
        for column, values in zip(columns, zip(*rows, strict=True), strict=False):
            column.extend(values)
        self.links.extend(repeat(0, len(rows)))

    def add_directory(self, meta: Meta, xattrs: XattrSet = ()) -> int:
        """Add an empty directory."""
        number = self.add(stat.S_IFDIR, meta, xattrs)
        self.directories[number] = {}
        return number

    def add_symlink(self, meta: Meta, target: bytes, xattrs: XattrSet = ()) -> int:
        """Add a symbolic link."""
        number = self.add(stat.S_IFLNK, meta, xattrs, size=len(target))
        self.targets[number] = target
        return number

    def set_meta(self, number: int, meta: Meta, xattrs: XattrSet) -> None:
        """Replace mode, owner, time and xattrs of an inode."""
        self.mode[number] = stat.S_IFMT(self.mode[number]) | meta.mode
        self.uid[number], self.gid[number] = meta.uid, meta.gid
        self.seconds[number], self.nanoseconds[number] = divmod(meta.mtime, SECOND)
        self.set_xattrs(number, xattrs)

    def set_xattrs(self, number: int, xattrs: XattrSet) -> None:
        """Replace the xattrs of an inode."""
        self.xattrs[number] = self.set_number(xattrs)

    def copy_attributes(self, source: int, target: int) -> None:
        """Give ``target`` the mode, owner, time and xattrs of ``source``, which has its type."""
        for column in (self.mode, self.uid, self.gid, self.seconds, self.nanoseconds, self.xattrs):
            column[target] = column[source]

    def kind(self, number: int) -> int:
        """Return the ``S_IF*`` constant of an inode."""
        return stat.S_IFMT(self.mode[number])

    def xattr_set(self, number: int) -> XattrSet:
        """Return the xattrs of an inode."""
        return self.xattr_sets[self.xattrs[number]]

    def set_number(self, xattrs: XattrSet) -> int:
        """Return the number of a set, and add it if it is new."""
        number = self._set_numbers.get(xattrs)
        if number is None:
            number = self._set_numbers[xattrs] = len(self.xattr_sets)
            self.xattr_sets.append(xattrs)
        return number


def xattr_set(xattrs: Mapping[bytes, bytes]) -> XattrSet:
    """Return a mapping as a set that can be compared and shared."""
    return tuple(sorted(xattrs.items()))
