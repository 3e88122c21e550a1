"""Look up names in a stack of directories by overlayfs's rules, without a mount.

The directories come in, topmost first, with their whiteout format; the paths on disk behind a
name go out.  Stack repairs and copies work on these paths.  For a tree to read, use
:class:`stacker.tree.protocol.Tree`.  This module must not write (kernel,
filesystems/overlayfs.rst, *Upper and Lower*, *Whiteouts and opaque directories*).

Names are bytes relative to the root, without slashes at the ends; the root is ``b""``.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stacker.layer.symlinks import follow_symlinks, join
from stacker.layer.whiteout_format import WhiteoutFormat, is_whiteout

_MANY: Final = 64
"""The largest number of directories that a lookup searches one by one."""
_MOST_NAMES: Final = 1_000_000
"""The largest number of names that are held in memory for a merged directory."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of the merged tree: its path on disk, and the ``lstat`` of that."""

    path: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        """Whether the entry is a directory."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_symlink(self) -> bool:
        """Whether the entry is a symbolic link."""
        return stat.S_ISLNK(self.status.st_mode)


class SymlinkLookup(ABC):
    """A merged tree in which paths can be resolved."""

    @abstractmethod
    def symlink(self, path: bytes) -> bytes | None:
        """Return the target if ``path`` is a symbolic link; its parents must be directories."""

    def physical(self, path: bytes, *, replaced: Container[bytes] = ()) -> bytes:
        """Follow symbolic links in all components of ``path``, inside the root.

        Components that do not exist stay in the result, since that is where they would be made.

        :param replaced: paths that are not symbolic links any more.
        :raises LayerError: the links form a loop.
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


class LayerLookup(SymlinkLookup):
    """Finds the paths on disk behind the names of a stack.

    It caches the directories that it finds, so the layers must not change.

    :param layers: the topmost first.
    """

    def __init__(self, layers: Sequence[Path], whiteout_format: WhiteoutFormat) -> None:
        self._format = whiteout_format
        self._root = _Merged()
        self._root.sources += (os.fsencode(layer) for layer in reversed(layers))
        self._known: dict[bytes, _Merged] = {}

    def push(self, layer: Path) -> None:
        """Add a layer on top."""
        self._root.sources.append(os.fsencode(layer))

    def sources(self, directory: bytes) -> tuple[bytes, ...]:
        """Return the directories on disk that merge into ``directory``, topmost first.

        The result is empty if the merged tree has no such directory.
        """
        return self._merged(directory).topmost_first()

    def below(self, sources: Sequence[bytes], name: bytes) -> tuple[bytes, ...]:
        """Return the directories on disk that merge into ``name``, inside those in ``sources``."""
        found: list[bytes] = []
        for path in _directories(source + b"/" + name for source in sources):
            found.append(path)
            if path is not sources[-1] and self._format.is_opaque(path):
                break
        return tuple(found)

    def candidates(self, directory: bytes, name: bytes) -> Iterator[bytes]:
        """Yield the directories called ``name``, down to the first layer with another file type.

        Unlike :meth:`sources` this continues below an opaque directory: a directory without an
        entry has the attributes of a lower one.
        """
        return _directories(self._merged(directory).paths(name))

    def entry(self, path: bytes) -> Found | None:
        """Look up ``path``, whose parents must be directories; a symbolic link is not followed."""
        above, _, name = path.rpartition(b"/")
        merged = self._merged(above)
        for found in merged.paths(name) if name else merged.topmost_first():
            try:
                status = os.lstat(found)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return None if is_whiteout(status) else Found(found, status)
        return None

    def _merged(self, directory: bytes) -> _Merged:
        merged, inner, layers = self._root, b"", len(self._root.sources)
        known = self._known.get(directory)
        if known is not None and known.layers == layers:
            return known
        for name in directory.split(b"/") if directory else ():
            inner = join(inner, name)
            above, known = merged, self._known.get(inner)
            merged = self._known[inner] = known or _Merged()
            if merged.layers < layers:
                self._extend(merged, above, name)
                merged.layers = layers
        return merged

    def _extend(self, merged: _Merged, above: _Merged, name: bytes) -> None:
        """Add the sources that ``above`` has got since the last call."""
        merged.cut(above.start)
        for number in above.numbers(name, merged.seen):
            path = above.sources[number] + b"/" + name
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(status.st_mode) or (number and self._format.is_opaque(path)):
                merged.start = len(merged.sources)
            if stat.S_ISDIR(status.st_mode):
                merged.sources.append(path)
                merged.origins.append(number)
        merged.seen = len(above.sources)

    def symlink(self, path: bytes) -> bytes | None:
        """See :meth:`SymlinkLookup.symlink`."""
        found = self.entry(path)
        if found is None or not found.is_symlink:
            return None
        return os.readlink(found.path)


class _Merged:
    """A merged directory: the directories on disk behind it, base first.

    Layers are only added on top, so that each lookup resumes where the last one ended.  An upper
    layer can hide the lower ones: sources before ``start`` are hidden.

    ``origins`` has the number of each source's parent among the sources of the parent directory;
    ``seen`` counts the parent's sources that were searched, ``layers`` the layers of the stack.
    """

    __slots__ = ("_listed", "_names", "_visible", "layers", "origins", "seen", "sources", "start")

    def __init__(self) -> None:
        self.sources: list[bytes] = []
        self.origins: list[int] = []
        self.start = self.seen = self.layers = 0
        self._visible: tuple[tuple[int, int], tuple[bytes, ...]] = (0, 0), ()
        self._names: dict[bytes, list[int]] | None = {}
        self._listed = 0

    def cut(self, start: int) -> None:
        """Hide the sources whose parents are before ``start``."""
        self.start = max(self.start, bisect_left(self.origins, start))
        self.seen = max(self.seen, start)

    def topmost_first(self) -> tuple[bytes, ...]:
        """Return the visible sources."""
        visible = self.start, len(self.sources)
        if self._visible[0] != visible:
            self._visible = visible, tuple(reversed(self.sources[self.start :]))
        return self._visible[1]

    def paths(self, name: bytes) -> Iterator[bytes]:
        """Yield the paths on disk that an entry called ``name`` can have, topmost first."""
        for number in reversed(self.numbers(name, self.start)):
            yield self.sources[number] + b"/" + name

    def numbers(self, name: bytes, start: int) -> Sequence[int]:
        """Return the numbers of the sources from ``start`` on that can have an entry ``name``."""
        if len(self.sources) <= _MANY or not self._list_names() or self._names is None:
            return range(start, len(self.sources))
        numbers = self._names.get(name, ())
        return numbers[bisect_left(numbers, start) :]

    def _list_names(self) -> bool:
        """List the sources: a lookup in each would take quadratic time for many layers."""
        names = self._names
        if names is None:
            return False
        for number in range(max(self._listed, self.start), len(self.sources)):
            for name in os.listdir(self.sources[number]):
                names.setdefault(name, []).append(number)
        self._listed = len(self.sources)
        if len(names) > _MOST_NAMES:
            self._names = None
        return self._names is not None


def _directories(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield paths up to the first that is not a directory; skip those that do not exist."""
    for path in paths:
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(status.st_mode):
            return
        yield path
