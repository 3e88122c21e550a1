"""Put the inodes and the names of a tree in the order of an image.

A tree comes in; its inodes in order and the sorted names of its directories go out.  A directory
precedes the inodes of its files, which follow in the order of their names, so that a walk reads the
metadata once and in order.  This module must not encode structures.

Names are sorted as bytes, with ``.`` and ``..`` among them, and none crosses the end of a block
(kernel documentation, ``filesystems/erofs.rst``, *Directories*).
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.erofs.format import BLOCK, DIRENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.erofs.inodes import Inodes


@dataclass(slots=True)
class Listing:
    """The sorted names of a directory, and how they fill its blocks.

    :param names: all names, with ``.`` and ``..``.
    :param numbers: the inode of each name.
    :param ends: the index after the last name of each block.
    :param size: the length of the directory's data in bytes.
    """

    names: Sequence[bytes]
    numbers: array[int]
    ends: Sequence[int]
    size: int

    def blocks(self) -> Iterator[tuple[Sequence[bytes], array[int]]]:
        """Yield the names and the inodes of each block."""
        first = 0
        for end in self.ends:
            yield self.names[first:end], self.numbers[first:end]
            first = end


@dataclass(slots=True)
class Layout:
    """The order of a tree in an image.

    :param root: the inode of the root directory.
    :param epoch: the time, in seconds and nanoseconds, that most inodes have.
    :param order: the inodes by their place.
    :param listings: the listing of each directory.
    """

    root: int
    epoch: tuple[int, int]
    order: array[int]
    listings: dict[int, Listing]


def lay_out(inodes: Inodes, root: int) -> Layout:
    """Return the order of the inodes below ``root`` in an image, and the listings of directories.

    Sets ``links`` of these inodes, and ``size`` of the directories.
    """
    inodes.links = array("I", bytes(4 * len(inodes)))
    order, listings, stack = array("I"), dict[int, Listing](), [(root, root)]
    inodes.links[root] = 2
    while stack:
        number, parent = stack.pop()
        children = inodes.directories[number]
        listings[number] = listing = _listing({**children, b".": number, b"..": parent})
        inodes.size[number] = listing.size
        order.append(number)
        inner = _add_children(inodes, number, map(children.get, listing.names), order)
        stack += [(child, number) for child in reversed(inner)]
    return Layout(root, _most_common_time(inodes, order), order, listings)


def _add_children(
    inodes: Inodes, number: int, children: Iterator[int | None], order: array[int]
) -> list[int]:
    """Add files to ``order``, except further names of a file; return the directories."""
    links, directories, inner = inodes.links, inodes.directories, list[int]()
    for child in children:
        if child is None:
            continue
        if child in directories:
            inner.append(child)
            links[child] = 2
        else:
            if not links[child]:
                order.append(child)
            links[child] += 1
    links[number] += len(inner)
    return inner


def _most_common_time(inodes: Inodes, order: array[int]) -> tuple[int, int]:
    seconds, nanoseconds = inodes.seconds, inodes.nanoseconds
    times = Counter((seconds[number], nanoseconds[number]) for number in order)
    most = min(times, key=lambda time: (-times[time], time))
    return most if most[0] >= 0 else (0, 0)


def _listing(children: dict[bytes, int]) -> Listing:
    """Return a sorted listing, with as many names in each block as fit."""
    names = sorted(children)
    numbers = array("I", map(children.__getitem__, names))
    size = DIRENT.size * len(names) + sum(map(len, names))
    if size <= BLOCK:
        return Listing(names, numbers, (len(names),), size)
    ends, used = list[int](), 0
    for index, name in enumerate(names):
        used += DIRENT.size + len(name)
        if used > BLOCK:
            ends.append(index)
            used = DIRENT.size + len(name)
    return Listing(names, numbers, [*ends, len(names)], BLOCK * len(ends) + used)
