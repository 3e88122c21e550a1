"""The names in one directory that changes, in an order that does not.

Each name has a place, a number that stays with it while others come and go, so that whoever reads
a listing in pieces sees every name that was there all the while, once (POSIX, readdir).  Knows no
filesystem.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stacker.tree.protocol import Node


class Listing:
    """Names, and which inode each leads to.

    :param lower: the names that a lower directory shows, in its order; their places are 1, 2, …
    """

    __slots__ = ("_names", "_next", "_order", "_places", "whiteouts")

    def __init__(self, lower: Iterable[tuple[bytes, int]] = ()) -> None:
        self.whiteouts: set[bytes] = set()
        """Names that have a whiteout on disk."""
        self._names = {name: (place, node) for place, (name, node) in enumerate(lower, 1)}
        self._order = {place: name for name, (place, _) in self._names.items()}
        self._next = len(self._order) + 1
        self._places: list[int] | None = None

    def __len__(self) -> int:
        return len(self._names)

    def get(self, name: bytes) -> int | None:
        """Give the inode of a name."""
        found = self._names.get(name)
        return None if found is None else found[1]

    def put(self, name: bytes, node: int) -> None:
        """Let a name lead to an inode; one that exists keeps its place."""
        found = self._names.get(name)
        if found is not None:
            self._names[name] = found[0], node
            return
        place, self._next = self._next, self._next + 1
        self._names[name] = place, node
        self._order[place] = name
        self._places = None

    def remove(self, name: bytes) -> None:
        """Forget a name, if it is there."""
        found = self._names.pop(name, None)
        if found is not None:
            del self._order[found[0]]
            self._places = None

    def after(self, place: int) -> Iterator[tuple[int, bytes, int]]:
        """Give places, names and inodes, from behind a place on; the first place is 1."""
        if self._places is None:
            self._places = list(self._order)  # places only grow, so they are sorted
        places = self._places
        for at in range(bisect_right(places, place), len(places)):
            name = self._order[places[at]]
            yield places[at], name, self._names[name][1]


class Inode:
    """An inode of the upper directory.

    :param number: its number in the tree.
    :param kind: its type, as in ``st_mode``.
    :param lower: for a directory, the lower one that it merges with.
    """

    __slots__ = ("held", "key", "kind", "listing", "lower", "number", "places")

    def __init__(self, number: Node, kind: int, lower: Node | None = None) -> None:
        self.number = number
        self.kind = kind
        self.lower = lower
        self.places: dict[tuple[Node, bytes], None] = {}
        """The names it is known by: directory and name."""
        self.listing: Listing | None = None
        self.held = -1
        """A descriptor that stays open: the root's, and those of inodes without a name."""
        self.key: tuple[int, int] | None = None
