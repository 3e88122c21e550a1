"""Write the repairs that a stack puts on top of its layers, as separate directories.

The layers so far and their records come in.  Directories go out with hard links whose targets are
in lower layers, and with the attributes of directories that upper layers only imply.  This module
must not read skeletons or use the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stacker.errors import LayerError
from stacker.layer.metadata import copy_layer_attributes
from stacker.layer.pending_links import PendingLinks
from stacker.layer.root import IMPLIED_MODE
from stacker.layer.symlinks import follow_symlinks, join
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.stack.lookup import Found, LayerLookup
from stacker.tar.entry import HardLink, printable


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
    :returns: the directories made; all of them are implied.
    :raises LayerError: a target does not exist, or is a directory.
    """
    left = PendingLinks(links)
    maker = _LinkMaker(left, tree, directory, what)
    left.make(maker.make)
    for link in left:
        raise LayerError(
            f"malformed hard link: {what}: {printable(link.path)}: got the target "
            f"{printable(link.target)}, which depends on this link itself, want a file"
        )
    for path in sorted(maker.directories, reverse=True):
        os.utime(os.fsencode(directory) + b"/" + path, ns=(0, 0))
    return frozenset(maker.directories)


class _NotYetError(Exception):
    """The target is, or leads through, ``path``: a link of the same layer that is not made yet."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


class _LinkMaker:
    """Makes links in a directory on top of the layers with their targets.

    A layer's entry at a link's name hides the lower entry, even while the link waits.  So a target
    that is another link of the same layer is never looked up in the layers below.

    ``directories`` collects the directories made, including the root.
    """

    def __init__(self, left: PendingLinks, tree: LayerLookup, directory: Path, what: str) -> None:
        self.directories = {b""}
        self._left = left
        self._made: set[bytes] = set()
        self._tree, self._root, self._what = tree, os.fsencode(directory), what

    def make(self, link: HardLink) -> bytes | None:
        """Make a link and return ``None``, or return the path of the link that it waits for."""
        try:
            source = self._source(link)
        except _NotYetError as error:
            return error.path
        if source is None:
            return None
        self._make_directories(link.path.rpartition(b"/")[0])
        os.link(source, self._root + b"/" + link.path, follow_symlinks=False)
        self._made.add(link.path)
        return None

    def _make_directories(self, path: bytes) -> None:
        inner = b""
        for name in path.split(b"/") if path else ():
            inner = join(inner, name)
            if inner not in self.directories:
                os.mkdir(self._root + b"/" + inner)
                os.chmod(self._root + b"/" + inner, IMPLIED_MODE)
                self.directories.add(inner)

    def _source(self, link: HardLink) -> bytes | None:
        """Return the file to link, or ``None`` for a link to itself, which changes nothing."""
        above, _, name = link.target.rpartition(b"/")
        path = join(follow_symlinks(above, self._symlink, want="a file"), name)
        if path == link.path and self._found(path) is not None:
            return None
        if path in self._left and path != link.path:
            raise _NotYetError(path)
        if path in self._made:
            return self._root + b"/" + path
        return _linkable(self._found(path), link, self._what)

    def _found(self, path: bytes) -> Found | None:
        """Look up a target; a link on its path hides the lower layers."""
        above = path
        while above := above.rpartition(b"/")[0]:
            if above in self._made:
                return None
        return self._tree.entry(path)

    def _symlink(self, path: bytes) -> bytes | None:
        if path in self._left:
            raise _NotYetError(path)
        if path not in self._made:
            return self._tree.symlink(path)
        made = self._root + b"/" + path
        return os.readlink(made) if os.path.islink(made) else None


def _linkable(found: Found | None, link: HardLink, what: str) -> bytes:
    if found is None or found.is_directory:
        raise LayerError(
            f"malformed hard link: {what}: {printable(link.path)}: got the target "
            f"{printable(link.target)}, which {'is a directory' if found else 'does not exist'}, "
            "want a file of this layer or one below"
        )
    return found.path


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
