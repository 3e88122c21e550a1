"""Hard links that wait for their targets, in a compact form.

Links come in, and links whose targets exist by then go out.  A layer can have millions of links
before their targets, so a link takes `LINK_BYTES` besides its names, instead of several objects.
This module must not touch files.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from stacker.tar.entry import HardLink

LINK_BYTES: Final = 40
"""Bytes of memory for a link, besides its path and its target."""

_FIRST_SLOTS: Final = 16


class PendingLinks:
    """A set of hard links with different paths, in the order in which they were added.

    Both names of link N are in ``_names``, from ``_starts[N]`` on.  ``_slots`` is a hash table with
    open addressing; it has N + 1 for link N, and 0 for an empty slot.  A path of length 0 marks a
    removed link.

    :param links: added in turn.
    """

    __slots__ = ("_before", "_lengths", "_names", "_newest", "_slots", "_starts", "count")

    def __init__(self, links: Iterable[HardLink] = ()) -> None:
        self.count = 0
        self._names = bytearray()
        self._starts = array("Q", [0])
        self._lengths = array("I")
        self._before = array("I")  # the previous link in the same directory, plus 1
        self._newest: dict[bytes, int] = {}  # the last link in a directory, plus 1
        self._slots = array("I", bytes(4 * _FIRST_SLOTS))
        for link in links:
            self.add(link)

    def __contains__(self, path: bytes) -> bool:
        """Return whether a link with this path waits."""
        return self.count > 0 and self._find(path) >= 0

    def __iter__(self) -> Iterator[HardLink]:
        """Yield the links in order."""
        for number, length in enumerate(self._lengths):
            if length:
                yield self._at(number)

    def add(self, link: HardLink) -> None:
        """Add a link; it replaces one with the same path."""
        path, target = link
        self.discard(path)
        number = len(self._lengths)
        directory = path.rpartition(b"/")[0]
        self._names += path
        self._names += target
        self._starts.append(len(self._names))
        self._lengths.append(len(path))
        self._before.append(self._newest.get(directory, 0))
        self._newest[directory] = number + 1
        self.count += 1
        if 2 * number >= len(self._slots):
            self._grow()
        else:
            self._insert(path, number)

    def target(self, path: bytes) -> bytes | None:
        """Return the target of the link with a path, or ``None`` if no such link waits."""
        number = self._find(path) if self.count else -1
        return self._at(number).target if number >= 0 else None

    def discard(self, path: bytes) -> bool:
        """Remove the link with a path; return whether there was one."""
        number = self._find(path) if self.count else -1
        if number >= 0:
            self._remove(number)
        return number >= 0

    def discard_inside(self, directory: bytes) -> None:
        """Remove the links in a directory, but not those in directories below it."""
        number = self._newest.pop(directory, 0)
        while number:
            if self._lengths[number - 1]:
                self._remove(number - 1)
            number = self._before[number - 1]

    def make(self, make: Callable[[HardLink], bytes | None]) -> None:
        """Make each link after the links that its target depends on, in linear time.

        Afterwards only those links are left that could not be made.

        :param make: makes one link and returns ``None``, or returns the path that the link waits
            for.
        """
        waiting = array("I", bytes(4 * len(self._lengths)))  # the last link that waits, plus 1
        next_waiting = array("I", waiting)
        for first, length in enumerate(self._lengths):
            ready = first + 1 if length else 0
            while ready:
                number, ready = ready - 1, next_waiting[ready - 1]
                wanted = make(self._at(number))
                if wanted is None:
                    self._remove(number)
                    last = waiting[number]
                    while last:  # ready after this one
                        following = next_waiting[last - 1]
                        next_waiting[last - 1], ready, last = ready, last, following
                elif (other := self._find(wanted)) >= 0:
                    next_waiting[number], waiting[other] = waiting[other], number + 1

    def _at(self, number: int) -> HardLink:
        start, length = self._starts[number], self._lengths[number]
        names = bytes(self._names[start : self._starts[number + 1]])
        return HardLink(names[:length], names[length:])

    def _find(self, path: bytes) -> int:
        """Return the number of the link with a path, or -1."""
        slots, lengths, length = self._slots, self._lengths, len(path)
        last = len(slots) - 1
        slot = hash(path) & last
        while number := slots[slot]:
            if lengths[number - 1] == length and self._names.startswith(
                path, self._starts[number - 1]
            ):
                return number - 1
            slot = slot + 1 & last
        return -1

    def _remove(self, number: int) -> None:
        self._lengths[number] = 0
        self.count -= 1

    def _insert(self, path: bytes, number: int) -> None:
        slots = self._slots
        last = len(slots) - 1
        slot = hash(path) & last
        while slots[slot]:
            slot = slot + 1 & last
        slots[slot] = number + 1

    def _grow(self) -> None:
        self._slots = array("I", bytes(8 * len(self._slots)))
        for number, length in enumerate(self._lengths):
            if length:
                start = self._starts[number]
                self._insert(bytes(self._names[start : start + length]), number)
