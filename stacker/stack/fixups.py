"""Write the repairs that a stack puts on top of its layers, as separate directories.

The layers so far and their records come in.  Directories go out with hard links whose targets are
in lower layers (:mod:`stacker.stack.links`), and with the attributes of directories that upper
layers only imply.  This module must not read skeletons or use the store.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stacker.layer.metadata import copy_layer_attributes
from stacker.layer.root import IMPLIED_MODE
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.mountapi import FileDescriptor
from stacker.linux.walk import walk
from stacker.stack.flatten import copy_leaf
from stacker.stack.links import LinkMaker, make_links
from stacker.stack.lookup import LayerLookup
from stacker.tar.entry import HardLink

_NO_SYMLINK = {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}
"""The errors of readlink(2) for a path that is not a symlink, or does not exist."""


def write_links(
    links: Sequence[HardLink],
    tree: LayerLookup,
    directory: Path,
    *,
    what: str,
) -> frozenset[bytes]:
    """Make ``links`` in the empty ``directory``; their targets are in ``tree``.

    :param tree: the layer with the links, and all layers below it.
    :param what: the name of the layer in errors.
    :returns: the directories that it created; all of them are implied.
    :raises LayerError: a target does not exist, or is a directory.
    """
    maker = _DiskLinks(links, tree, directory, what)
    make_links(maker)
    for path in sorted(maker.directories, reverse=True):
        os.utime(os.fsencode(directory) + b"/" + path, ns=(0, 0))
    return frozenset(maker.directories)


class _DiskLinks(LinkMaker[bytes]):
    """Creates hard links in a directory above the layers that have the targets.

    ``directories`` has the directories that it created, including the root.
    """

    def __init__(
        self, links: Sequence[HardLink], tree: LayerLookup, directory: Path, what: str
    ) -> None:
        super().__init__(links, what)
        self.directories = {b""}
        self._tree, self._root = tree, os.fsencode(directory)
        self._copies: dict[tuple[int, int], bytes] = {}

    def _find(self, path: bytes) -> tuple[bytes, bool] | None:
        found = self._tree.entry(path)
        return None if found is None else (found.path, found.is_directory)

    def _symlink_below(self, path: bytes) -> bytes | None:
        return self._tree.symlink(path)

    def _target_of(self, file: bytes) -> bytes | None:
        try:
            return os.readlink(file)
        except OSError as error:
            if error.errno not in _NO_SYMLINK:
                raise
        return None

    def _link(self, file: bytes, path: bytes) -> bytes:
        self._make_directories(path.rpartition(b"/")[0])
        made = self._root + b"/" + path
        try:
            os.link(file, made, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(file, made)
        return made

    def _copy(self, file: bytes, made: bytes) -> None:
        """Copy a file of a layer on another filesystem; all its names get the one copy."""
        status = os.lstat(file)
        inode = status.st_dev, status.st_ino
        if inode in self._copies:
            os.link(self._copies[inode], made, follow_symlinks=False)
            return
        above, _, name = made.rpartition(b"/")
        with FileDescriptor.open_directory(Path(os.fsdecode(above))) as parent:
            copy_leaf(file, status, parent.number, name, rename=lambda xattr: xattr)
        self._copies[inode] = made
        layer = next(each for each in self._tree.sources(b"") if file.startswith(each + b"/"))
        for path in _names_of(layer, file, status):
            found = self._tree.entry(path)
            is_link = path in self._made or path in self.left
            if found is not None and found.path == layer + b"/" + path and not is_link:
                self._make_directories(path.rpartition(b"/")[0])
                os.link(made, self._root + b"/" + path, follow_symlinks=False)

    def _make_directories(self, path: bytes) -> None:
        inner = b""
        for name in path.split(b"/") if path else ():
            inner = join(inner, name)
            if inner not in self.directories:
                os.mkdir(self._root + b"/" + inner)
                os.chmod(self._root + b"/" + inner, IMPLIED_MODE)
                self.directories.add(inner)


def _names_of(layer: bytes, file: bytes, status: os.stat_result) -> list[bytes]:
    """Return the paths in a layer that are hard links to a file of it."""
    if status.st_nlink == 1:
        return [file[len(layer) + 1 :]]
    return [
        path for path, other in walk(Path(os.fsdecode(layer))) if os.path.samestat(status, other)
    ]


def write_attributes(
    layers: list[Path],
    implied: Mapping[Path, frozenset[bytes]],
    directory: Path,
    *,
    whiteout_format: WhiteoutFormat,
    whiteout_parents: Mapping[Path, frozenset[bytes]] | None = None,
) -> bool:
    """Make the directories in ``directory`` that give merged directories their attributes.

    A merged directory has the attributes of the topmost layer with an entry for it.  A directory
    with whiteouts that no lower layer has gets a second directory above it, because overlayfs lists
    the whiteouts of a directory that it does not merge.

    :param layers: the topmost first.
    :param directory: an empty directory.
    :param implied: the directories of each layer that have no entry in it.
    :param whiteout_parents: the directories of each layer that have whiteouts.
    :returns: whether a directory was made.
    """
    tree = LayerLookup(layers, whiteout_format)
    sources = _AttributeSources(
        tree, {os.fsencode(layer): paths for layer, paths in implied.items()}
    )
    wanted = {path for path in frozenset().union(*implied.values()) if sources.differs(path)}
    for layer, paths in (whiteout_parents or {}).items():
        root = os.fsencode(layer)
        wanted |= {p for p in paths if tree.sources(p) == (root + b"/" + p if p else root,)}
    for path in list(wanted):
        while path:
            path = path.rpartition(b"/")[0]  # noqa: PLW2901 - walking up
            wanted.add(path)
    root = os.fsencode(directory)
    for path in sorted(wanted):
        if path:
            os.mkdir(root + b"/" + path)
    for path in sorted(wanted, reverse=True):
        path_on_disk = sources.source_of(path) or tree.sources(path)[0]
        copy_layer_attributes(path_on_disk, root + b"/" + path, whiteout_format=whiteout_format)
    return bool(wanted)


class _AttributeSources:
    """Finds the directory on disk whose attributes a merged directory has."""

    def __init__(self, tree: LayerLookup, implied: Mapping[bytes, frozenset[bytes]]) -> None:
        self._tree = tree
        self._implied = implied

    def differs(self, path: bytes) -> bool:
        """Return whether the topmost directory lacks the attributes of the merged directory."""
        sources = self._tree.sources(path)
        return bool(sources) and self.source_of(path) not in (None, sources[0])

    def source_of(self, path: bytes) -> bytes | None:
        """Return the topmost directory at ``path`` with an entry in its layer."""
        if not path:
            places: Iterable[bytes] = self._tree.sources(path)
        else:
            above, _, name = path.rpartition(b"/")
            places = self._tree.candidates(above, name)
        return next(
            (path_on_disk for path_on_disk in places if not self._is_implied(path_on_disk, path)),
            None,
        )

    def _is_implied(self, path_on_disk: bytes, path: bytes) -> bool:
        layer = path_on_disk[: -len(path) - 1] if path else path_on_disk
        return path in self._implied[layer]
