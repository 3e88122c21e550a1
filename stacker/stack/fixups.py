"""What a stack adds on top of its layers, as directories of its own.

Two things: hard links whose targets are in lower layers (by a real link, so that a link stays a
link), and the attributes of directories that upper layers only imply.  In: the merged tree so
far, and what a layer's record says.  Knows no store and no skeleton.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stacker.errors import LayerError
from stacker.layer.attributes import copy_attributes
from stacker.layer.record import DeferredLink
from stacker.layer.root import IMPLIED_MODE
from stacker.layer.symlinks import followed, joined
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.stack.overlay_rules import Found, MergedDirectories
from stacker.tar.entry import shown


def write_links(
    links: Iterable[DeferredLink],
    layers: list[Path],
    room: Path,
    *,
    whiteout_format: WhiteoutFormat,
    what: str,
) -> frozenset[bytes]:
    """Make ``links`` in the empty directory ``room``, their targets being in ``layers``.

    :param layers: the topmost first: the layer that has the links, and all below it.
    :returns: the directories made, all of them implied.
    :raises LayerError: a target exists nowhere, or is a directory.
    """
    tree, made = MergedDirectories(layers, whiteout_format), {b""}
    for link, place in _Places(links, tree, os.fsencode(room), what):
        _make_directories(room, link.path.rpartition(b"/")[0], made)
        os.link(place, os.fsencode(room) + b"/" + link.path, follow_symlinks=False)
    for path in sorted(made, reverse=True):
        os.utime(os.fsencode(room) + b"/" + path, ns=(0, 0))
    return frozenset(made)


class _NotYetError(Exception):
    """A target is, or lies behind, another link that is still to be made: the argument."""


class _Places:
    """Iterate over links and where their targets lie on disk, each link after those it needs.

    What a layer has at a link's name hides what lower layers have there, even while the link
    waits.  So a target that is a link of the same layer is never looked up below it.
    """

    def __init__(
        self, links: Iterable[DeferredLink], tree: MergedDirectories, room: bytes, what: str
    ) -> None:
        self._left = {link.path: link for link in links}
        self._made: dict[bytes, bytes] = {}
        self._tree, self._room, self._what = tree, room, what

    def __iter__(self) -> Iterator[tuple[DeferredLink, bytes]]:
        ready, waiting = list(self._left.values()), dict[bytes, list[DeferredLink]]()
        for link in ready:
            try:
                place = self._place(link)
            except _NotYetError as error:
                waiting.setdefault(error.args[0], []).append(link)
                continue
            yield link, place
            self._made[link.path] = self._room + b"/" + link.path
            del self._left[link.path]
            ready.extend(waiting.pop(link.path, ()))
        for link in self._left.values():
            raise LayerError(
                f"malformed hard link: {self._what}: {shown(link.path)}: got the target "
                f"{shown(link.target)}, which waits for this link itself, want a file"
            )

    def _place(self, link: DeferredLink) -> bytes:
        above, _, name = link.target.rpartition(b"/")
        path = joined(followed(above, self._symlink, want="a file"), name)
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


def _linkable(found: Found | None, link: DeferredLink, what: str) -> bytes:
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
    whiteout_format: WhiteoutFormat,
    whiteout_parents: Mapping[Path, frozenset[bytes]] | None = None,
) -> bool:
    """Make directories in the empty ``room`` that lie on top of others and carry attributes.

    Where a directory has none of its own, those of a lower one come up.  And a directory with
    whiteouts that hides nothing, because no layer below has it, gets a second one above it:
    overlayfs lists whiteouts of a directory that it does not merge.

    :param layers: the topmost first; ``implied`` says for each what it has no entry for, and
        ``whiteout_parents`` which directories in it hold whiteouts.
    :returns: whether anything had to be made.
    """
    tree = MergedDirectories(layers, whiteout_format)
    bearers = _Bearers(tree, {os.fsencode(layer): paths for layer, paths in implied.items()})
    wanted = {path for path in frozenset().union(*implied.values()) if bearers.differs(path)}
    for layer, paths in (whiteout_parents or {}).items():
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
        copy_attributes(place, root + b"/" + path, whiteout_format=whiteout_format)
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
