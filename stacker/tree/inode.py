"""An inode of an upper directory, and the names in a directory that changes.

Names and inode numbers come in; listings in a stable order go out.  A name keeps its offset while
other names are added and removed.  So a reader that takes the listing in parts gets each remaining
name exactly once (POSIX, readdir).  This module must not use a filesystem.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stacker.tree.protocol import Node


class Listing:
    """The names in a directory, and the inode of each.

    :param lower: the offsets, names and inodes of a lower directory, in order.
    """

    __slots__ = ("_names", "_next", "_offsets", "_order", "whiteouts")

    def __init__(self, lower: Iterable[tuple[int, bytes, int]] = ()) -> None:
        self.whiteouts: set[bytes] = set()
        """The names with a whiteout on disk."""
        self._names = {name: (offset, node) for offset, name, node in lower}
        self._order = {offset: name for name, (offset, _) in self._names.items()}
        self._next = next(reversed(self._order), 0) + 1
        self._offsets: list[int] | None = None

    def __len__(self) -> int:
        return len(self._names)

    def get(self, name: bytes) -> int | None:
        """Return the inode of a name."""
        found = self._names.get(name)
        return None if found is None else found[1]

    def put(self, name: bytes, node: int) -> None:
        """Set the inode of a name; an existing name keeps its offset."""
        found = self._names.get(name)
        if found is not None:
            self._names[name] = found[0], node
            return
        offset, self._next = self._next, self._next + 1
        self._names[name] = offset, node
        self._order[offset] = name
        self._offsets = None

    def remove(self, name: bytes) -> None:
        """Remove a name if it exists."""
        found = self._names.pop(name, None)
        if found is not None:
            del self._order[found[0]]
            self._offsets = None

    def after(self, offset: int) -> Iterator[tuple[int, bytes, int]]:
        """Yield offset, name and inode of each entry after an offset; the first offset is 1."""
        if self._offsets is None:
            self._offsets = list(self._order)  # offsets only grow, so they are sorted
        offsets = self._offsets
        for at in range(bisect_right(offsets, offset), len(offsets)):
            name = self._order[offsets[at]]
            yield offsets[at], name, self._names[name][1]


class Inode:
    """An inode of the upper directory.

    :param number: its number in the tree.
    :param kind: its file type, an ``S_IF*`` constant.
    :param lower: the lower directory that a directory merges with.
    """

    __slots__ = (
        "held",
        "impure",
        "inherits",
        "is_bare",
        "is_copy",
        "key",
        "kind",
        "listing",
        "lower",
        "names",
        "number",
        "shown",
    )

    def __init__(self, number: Node, kind: int, lower: Node | None = None) -> None:
        self.number = number
        self.kind = kind
        self.lower = lower
        self.names: dict[tuple[Node, bytes], None] = {}
        """The names of the inode, as pairs of directory and name."""
        self.listing: Listing | None = None
        self.held = -1
        """An open descriptor: of the root, and of inodes without a name."""
        self.key: tuple[int, int] | None = None
        self.shown = 0
        """The inode number that programs see; 0 if it is not known yet."""
        self.inherits: bytes | None = None
        """The default ACL of a directory, empty if it has none; ``None`` if it is not known yet."""
        self.is_bare = False
        """Whether it has no file capabilities, for certain."""
        self.is_copy = False
        """Whether this mount or an earlier one copied it up."""
        self.impure = False
        """Whether a directory has overlayfs's mark: files in it can be copies of lower ones."""
