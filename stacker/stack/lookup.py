"""Directories of layers as one tree, by overlayfs's rules and without mounting anything.

In: the layers' directories, the topmost first, and how deletions are written in them.  Out:
what a name in the merged tree is and which layers it comes from.  Nothing is written here.
Sources: kernel, filesystems/overlayfs.rst, *Upper and Lower*, *Whiteouts and opaque directories*.

Paths are bytes relative to the root, without slashes at the ends; the root is ``b""``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stacker.layer.symlinks import follow_symlinks, join
from stacker.layer.whiteout_format import WhiteoutFormat, is_whiteout


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of the merged tree: where it lies on disk, and its ``lstat``."""

    place: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.status.st_mode)


class LayerLookup:
    """The merged tree of ``layers``, the topmost first.

    It remembers what it has looked up; the layers must not change meanwhile.
    """

    def __init__(self, layers: Sequence[Path], form: WhiteoutFormat) -> None:
        self._roots = tuple(os.fsencode(layer) for layer in layers)
        self._form = form
        self._sources: dict[bytes, tuple[bytes, ...]] = {b"": self._roots}

    def sources(self, directory: bytes) -> tuple[bytes, ...]:
        """Give the directories on disk that make up ``directory``, the topmost first.

        Empty when there is no such directory in the merged tree.
        """
        known, names = directory, list[bytes]()
        while known not in self._sources:
            known, _, name = known.rpartition(b"/")
            names.append(name)
        while names:  # and no recursion: a tree may be deeper than Python's stack
            name, sources = names.pop(), self._sources[known]
            known = join(known, name)
            self._sources[known] = self.below(sources, name)
        return self._sources[known]

    def below(self, sources: Sequence[bytes], name: bytes) -> tuple[bytes, ...]:
        """Give what makes up the directory ``name`` in the directory that ``sources`` make up."""
        found: list[bytes] = []
        for place in self.candidates(sources, name):
            found.append(place)
            if place is not sources[-1] and self._form.is_opaque(place):
                break
        return tuple(found)

    def candidates(self, sources: Sequence[bytes], name: bytes) -> Iterator[bytes]:
        """Give the directories called ``name`` down to the first layer that has something else.

        Unlike :meth:`below` this does not stop at an opaque one: attributes of a directory that
        has none of its own come from further down.
        """
        for source in sources:
            place = source + b"/" + name
            try:
                status = os.lstat(place)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(status.st_mode):
                return
            yield place

    def entry(self, path: bytes) -> Found | None:
        """Look ``path`` up; its parents must be directories, and it is not followed."""
        above, _, name = path.rpartition(b"/")
        for source in self.sources(above):
            place = source + b"/" + name if name else source
            try:
                status = os.lstat(place)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return None if is_whiteout(status) else Found(place, status)
        return None

    def symlink(self, path: bytes) -> bytes | None:
        """Give the target when ``path``, its parents being directories, is a symbolic link."""
        found = self.entry(path)
        if found is None or not found.is_symlink:
            return None
        return os.readlink(found.place)

    def physical(self, path: bytes, *, replaced: Container[bytes] = ()) -> bytes:
        """Follow symbolic links in all components of ``path``, inside the root.

        Components that do not exist stay as they are: that is where they would be made.

        :param replaced: paths that are no links any more, whatever they are here.
        :raises LayerError: the links go round in a circle.
        """
        return follow_symlinks(
            path,
            lambda candidate: None if candidate in replaced else self.symlink(candidate),
            want="a file or directory",
        )

    def physical_name(self, path: bytes, *, replaced: Container[bytes] = ()) -> bytes:
        """Follow symbolic links in the parents of ``path`` only."""
        above, _, name = path.rpartition(b"/")
        return join(self.physical(above, replaced=replaced), name)
