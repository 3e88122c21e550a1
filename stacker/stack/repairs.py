"""What a stack adds on top of its layers, as directories of its own.

Two things: hard links whose targets are in lower layers (by a real link, so that a link stays a
link), and the attributes of directories that upper layers only imply.  In: the merged tree so
far, and what a layer's record says.  Knows no store and no skeleton.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from stacker.errors import LayerError
from stacker.layer.entry import shown
from stacker.layer.record import DeferredLink
from stacker.layer.tree import IMPLIED_MODE
from stacker.layer.walk import joined
from stacker.layer.whiteout import WhiteoutFormat
from stacker.stack.attributes import copy_attributes
from stacker.stack.directories import MergedDirectories


def write_links(
    links: Iterable[DeferredLink],
    layers: list[Path],
    room: Path,
    *,
    form: WhiteoutFormat,
    what: str,
) -> frozenset[bytes]:
    """Make ``links`` in the empty directory ``room``, their targets being in ``layers``.

    :param layers: the topmost first: the layer that has the links, and all below it.
    :returns: the directories made, all of them implied.
    :raises LayerError: a target exists nowhere, or is a directory.
    """
    tree, made = MergedDirectories(layers, form), {b""}
    linked: dict[bytes, bytes] = {}
    for link in links:
        target = tree.physical_name(link.target)
        place = linked.get(target) or _linkable(tree, target, link, what)
        above = link.path.rpartition(b"/")[0]
        _make_directories(room, above, made)
        linked[link.path] = os.fsencode(room) + b"/" + link.path
        os.link(place, linked[link.path], follow_symlinks=False)
    for path in sorted(made, reverse=True):
        os.utime(os.fsencode(room) + b"/" + path, ns=(0, 0))
    return frozenset(made)


def _linkable(tree: MergedDirectories, target: bytes, link: DeferredLink, what: str) -> bytes:
    found = tree.entry(target)
    if found is None or found.is_directory:
        raise LayerError(
            f"malformed hard link: {what}: {shown(link.path)}: got the target "
            f"{shown(link.target)}, which is {'a directory' if found else 'nowhere'}, "
            "want a file of this layer or one below"
        )
    return found.place


def _make_directories(room: Path, path: bytes, made: set[bytes]) -> None:
    inner = b""
    for name in path.split(b"/") if path else ():
        inner = joined(inner, name)
        if inner not in made:
            place = os.fsencode(room) + b"/" + inner
            os.mkdir(place)
            os.chmod(place, IMPLIED_MODE)
            made.add(inner)


def write_attributes(
    layers: list[Path],
    implied: Mapping[Path, frozenset[bytes]],
    room: Path,
    *,
    form: WhiteoutFormat,
    holders: Mapping[Path, frozenset[bytes]] | None = None,
) -> bool:
    """Make directories in the empty ``room`` that lie on top of others and carry attributes.

    Where a directory has none of its own, those of a lower one come up.  And a directory with
    whiteouts that hides nothing, because no layer below has it, gets a second one above it:
    overlayfs lists whiteouts of a directory that it does not merge.

    :param layers: the topmost first; ``implied`` says for each what it has no entry for, and
        ``holders`` which directories in it hold whiteouts.
    :returns: whether anything had to be made.
    """
    tree = MergedDirectories(layers, form)
    bearers = _Bearers(tree, {os.fsencode(layer): paths for layer, paths in implied.items()})
    wanted = {path for path in frozenset().union(*implied.values()) if bearers.differs(path)}
    for layer, paths in (holders or {}).items():
        root = os.fsencode(layer)
        wanted |= {p for p in paths if tree.sources(p) == (root + b"/" + p if p else root,)}
    for path in list(wanted):
        while path:
            path = path.rpartition(b"/")[0]  # noqa: PLW2901 - walking up
            wanted.add(path)
    root = os.fsencode(room)
    for path in sorted(wanted):
        if path:
            os.mkdir(root + b"/" + path)
    for path in sorted(wanted, reverse=True):
        place = bearers.bearer(path) or tree.sources(path)[0]
        copy_attributes(place, root + b"/" + path, form=form)
    return bool(wanted)


class _Bearers:
    """Finds the directory on disk whose attributes a merged directory has."""

    def __init__(self, tree: MergedDirectories, implied: Mapping[bytes, frozenset[bytes]]) -> None:
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
