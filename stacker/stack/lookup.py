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
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stacker.layer.symlinks import follow_symlinks, join
from stacker.layer.whiteout_format import WhiteoutFormat, is_whiteout


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


class LayerLookup:
    """Finds the paths on disk behind the names of a stack.

    It caches the directories that it finds, so the layers must not change.

    :param layers: the topmost first.
    """

    def __init__(self, layers: Sequence[Path], form: WhiteoutFormat) -> None:
        self._roots = tuple(os.fsencode(layer) for layer in layers)
        self._form = form
        self._sources: dict[bytes, tuple[bytes, ...]] = {b"": self._roots}

    def sources(self, directory: bytes) -> tuple[bytes, ...]:
        """Return the directories on disk that merge into ``directory``, topmost first.

        The result is empty if the merged tree has no such directory.
        """
        known, names = directory, list[bytes]()
        while known not in self._sources:
            known, _, name = known.rpartition(b"/")
            names.append(name)
        while names:  # a loop, since a tree may be deeper than Python's recursion limit
            name, sources = names.pop(), self._sources[known]
            known = join(known, name)
            self._sources[known] = self.below(sources, name)
        return self._sources[known]

    def below(self, sources: Sequence[bytes], name: bytes) -> tuple[bytes, ...]:
        """Return the directories on disk that merge into ``name``, inside those in ``sources``."""
        found: list[bytes] = []
        for path in self.candidates(sources, name):
            found.append(path)
            if path is not sources[-1] and self._form.is_opaque(path):
                break
        return tuple(found)

    def candidates(self, sources: Sequence[bytes], name: bytes) -> Iterator[bytes]:
        """Yield the directories called ``name``, down to the first layer with another file type.

        Unlike :meth:`below` this continues below an opaque directory: a directory without an entry
        has the attributes of a lower one.
        """
        for source in sources:
            path = source + b"/" + name
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(status.st_mode):
                return
            yield path

    def entry(self, path: bytes) -> Found | None:
        """Look up ``path``, whose parents must be directories; a symbolic link is not followed."""
        above, _, name = path.rpartition(b"/")
        for source in self.sources(above):
            path = source + b"/" + name if name else source
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return None if is_whiteout(status) else Found(path, status)
        return None

    def symlink(self, path: bytes) -> bytes | None:
        """Return the target if ``path`` is a symbolic link; its parents must be directories."""
        found = self.entry(path)
        if found is None or not found.is_symlink:
            return None
        return os.readlink(found.path)

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
