"""What a stack adds on top of its layers, as directories of its own.

Two things: hard links whose targets are in lower layers (by a real link, so that a link stays a
link), and the attributes of directories that upper layers only imply.  In: the merged tree so
far, and what a layer's record says.  Knows no store and no skeleton.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stacker.errors import LayerError
from stacker.layer.links import make_in_order
from stacker.layer.metadata import copy_attributes
from stacker.layer.root import IMPLIED_MODE
from stacker.layer.symlinks import follow_symlinks, join
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.stack.lookup import Found, LayerLookup
from stacker.tar.entry import HardLink, printable


def write_links(
    links: Sequence[HardLink],
    layers: list[Path],
    directory: Path,
    *,
    whiteout_format: WhiteoutFormat,
    what: str,
) -> frozenset[bytes]:
    """Make ``links`` in the empty directory ``directory``, their targets being in ``layers``.

    :param layers: the topmost first: the layer that has the links, and all below it.
    :returns: the directories made, all of them implied.
    :raises LayerError: a target exists nowhere, or is a directory.
    """
    maker = _LinkMaker(links, LayerLookup(layers, whiteout_format), directory, what)
    for link in make_in_order(links, maker.make).values():
        raise LayerError(
            f"malformed hard link: {what}: {printable(link.path)}: got the target "
            f"{printable(link.target)}, which waits for this link itself, want a file"
        )
    for path in sorted(maker.directories, reverse=True):
        os.utime(os.fsencode(directory) + b"/" + path, ns=(0, 0))
    return frozenset(maker.directories)


class _NotYetError(Exception):
    """The target is at or behind ``path``, a link of the same layer that does not exist yet."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


class _LinkMaker:
    """Makes links in a directory on top of the layers that have their targets.

    A layer's entry at a link's name hides the lower entry, even while the link waits.  So a
    target that is another link of the same layer is never looked up in the layers below.

    ``directories`` collects the directories made, the root among them.
    """

    def __init__(
        self, links: Iterable[HardLink], tree: LayerLookup, directory: Path, what: str
    ) -> None:
        self.directories = {b""}
        self._left = {link.path for link in links}
        self._made: dict[bytes, bytes] = {}
        self._tree, self._root, self._what = tree, os.fsencode(directory), what

    def make(self, link: HardLink) -> bytes | None:
        """Make a link and return ``None``, or return the path of the link that it waits for."""
        try:
            source = self._source(link)
        except _NotYetError as error:
            return error.path
        self._make_directories(link.path.rpartition(b"/")[0])
        made = self._root + b"/" + link.path
        os.link(source, made, follow_symlinks=False)
        self._made[link.path] = made
        self._left.remove(link.path)
        return None

    def _make_directories(self, path: bytes) -> None:
        inner = b""
        for name in path.split(b"/") if path else ():
            inner = join(inner, name)
            if inner not in self.directories:
                os.mkdir(self._root + b"/" + inner)
                os.chmod(self._root + b"/" + inner, IMPLIED_MODE)
                self.directories.add(inner)

    def _source(self, link: HardLink) -> bytes:
        above, _, name = link.target.rpartition(b"/")
        path = join(follow_symlinks(above, self._symlink, want="a file"), name)
        if path in self._left and path != link.path:  # a link to itself keeps what is there
            raise _NotYetError(path)
        return self._made.get(path) or _linkable(self._found(path), link, self._what)

    def _found(self, path: bytes) -> Found | None:
        """Look a target up; what lower layers have below a link is hidden."""
        above = path
        while above := above.rpartition(b"/")[0]:
            if above in self._made:
                return None
        return self._tree.entry(path)

    def _symlink(self, path: bytes) -> bytes | None:
        if path in self._left:
            raise _NotYetError(path)
        made = self._made.get(path)
        if made is None:
            return self._tree.symlink(path)
        return os.readlink(made) if os.path.islink(made) else None


def _linkable(found: Found | None, link: HardLink, what: str) -> bytes:
    if found is None or found.is_directory:
        raise LayerError(
            f"malformed hard link: {what}: {printable(link.path)}: got the target "
            f"{printable(link.target)}, which is {'a directory' if found else 'nowhere'}, "
            "want a file of this layer or one below"
        )
    return found.place


def write_attributes(
    layers: list[Path],
    implied: Mapping[Path, frozenset[bytes]],
    directory: Path,
    *,
    whiteout_format: WhiteoutFormat,
    whiteout_parents: Mapping[Path, frozenset[bytes]] | None = None,
) -> bool:
    """Make directories in the empty ``directory`` that lie on top of others and carry attributes.

    Where a directory has none of its own, those of a lower one come up.  And a directory with
    whiteouts that hides nothing, because no layer below has it, gets a second one above it:
    overlayfs lists whiteouts of a directory that it does not merge.

    :param layers: the topmost first; ``implied`` says for each what it has no entry for, and
        ``whiteout_parents`` which directories in it hold whiteouts.
    :returns: whether anything had to be made.
    """
    tree = LayerLookup(layers, whiteout_format)
    bearers = _Bearers(tree, {os.fsencode(layer): paths for layer, paths in implied.items()})
    wanted = {path for path in frozenset().union(*implied.values()) if bearers.differs(path)}
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
        place = bearers.bearer(path) or tree.sources(path)[0]
        copy_attributes(place, root + b"/" + path, whiteout_format=whiteout_format)
    return bool(wanted)


class _Bearers:
    """Finds the directory on disk whose attributes a merged directory has."""

    def __init__(self, tree: LayerLookup, implied: Mapping[bytes, frozenset[bytes]]) -> None:
        self._tree = tree
        self._implied = implied

    def differs(self, path: bytes) -> bool:
        """Say whether the topmost directory's attributes are not those the tree must show."""
        sources = self._tree.sources(path)
        return bool(sources) and self.bearer(path) not in (None, sources[0])

    def bearer(self, path: bytes) -> bytes | None:
        """Give the topmost directory at ``path`` that has an entry of its own."""
        if not path:
            places: Iterable[bytes] = self._tree.sources(path)
        else:
            above, _, name = path.rpartition(b"/")
            places = self._tree.candidates(self._tree.sources(above), name)
        return next((place for place in places if not self._is_implied(place, path)), None)

    def _is_implied(self, place: bytes, path: bytes) -> bool:
        layer = place[: -len(path) - 1] if path else place
        return path in self._implied[layer]
