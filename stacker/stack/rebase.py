"""One layer applied anew, to a stack that is known.

Needed where a layer has a file in a directory that lower down is a symbolic link: unpacked on
its own it could not know.  Its skeleton gives the entries again and its tree their contents
(by hard link), and the same code that unpacks applies them, this time with the lower tree to
resolve parents in.  So the rules stay in one place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stacker.errors import IntegrityError
from stacker.layer.apply import apply
from stacker.layer.metadata import IDENTITY, SQUASH
from stacker.layer.paths import LayerPaths
from stacker.layer.record import LayerRecord
from stacker.layer.skeleton import FileLocations, open_skeleton
from stacker.stack.lookup import LayerLookup
from stacker.tar.entry import (
    AufsFile,
    Directory,
    Entry,
    ExistingFile,
    File,
    OpaqueWhiteout,
    Whiteout,
    is_redundant,
)
from stacker.tar.limits import Limits


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """An unpacked layer in a stack.

    :param name: names the layer in errors.
    :param paths: the files of the layer.
    :param record: the content of ``paths.record``.
    :param diff: the tree to stack: ``paths.diff``, or a copy of it.
    """

    name: str
    paths: LayerPaths
    record: LayerRecord
    diff: Path

    @classmethod
    def at(cls, name: str, paths: LayerPaths, record: LayerRecord) -> UnpackedLayer:
        """Return the layer at ``paths``, with its own tree."""
        return cls(name, paths, record, paths.diff)


def must_rebase(layer: UnpackedLayer, below: LayerLookup) -> bool:
    """Say whether a symbolic link below leads an entry of ``layer`` to another place."""
    record = layer.record
    if any(
        below.symlink(path) is not None
        for path in record.assumed
        if not is_redundant(path, (), record.opaque)
    ):
        return True
    stranded = *record.stranded, *(path + b"/." for path in record.stranded_opaque)
    holders = {path.rpartition(b"/")[0] for path in stranded}
    return any(below.physical(holder) != holder for holder in holders)


def rebase(
    layer: UnpackedLayer, below: LayerLookup, directory: Path, *, limits: Limits | None = None
) -> UnpackedLayer:
    """Apply ``layer`` to ``below``; the outcome goes into the empty directory ``directory``.

    :param limits: those that it was unpacked with.
    """
    whiteouts = _whiteouts(layer, below)
    paths = LayerPaths(directory)
    paths.diff.mkdir()
    with open_skeleton(layer.paths.skeleton, what=layer.name) as reader:
        record = apply(
            _Entries(layer, whiteouts, reader),
            paths.diff,
            replaced=paths.replaced,
            whiteout_format=layer.record.whiteout_format,
            idmap=SQUASH if layer.record.squashed else IDENTITY,
            limits=limits,
            lower=_Masked(below, whiteouts),
        )
    return UnpackedLayer.at(layer.name, paths, record)


@dataclass(frozen=True, slots=True)
class _Whiteouts:
    """A layer's whiteouts as its stream names them, and where these lead in the lower tree.

    ``names`` and ``areas`` are the paths hidden and the directories emptied, as named; ``hidden``
    and ``emptied`` say where those lead that other whiteouts do not make moot.
    ``brought`` are the directories with an entry in the layer: whatever is there lower down,
    and wherever in the stream the entry stands, they are directories and lead nowhere else.
    """

    names: frozenset[bytes]
    areas: frozenset[bytes]
    hidden: Mapping[bytes, bytes]
    emptied: Mapping[bytes, bytes]
    brought: set[bytes]

    def is_moot(self, path: bytes) -> bool:
        """Say whether another whiteout of the layer hides all around ``path``."""
        return is_redundant(path, self.names, self.areas)


def _whiteouts(layer: UnpackedLayer, below: LayerLookup) -> _Whiteouts:
    """Collect whiteouts from the skeleton, and resolve them in the lower tree."""
    names, areas, brought = set[bytes](), set[bytes](), set[bytes]()
    with open_skeleton(layer.paths.skeleton, what=layer.name) as reader:
        for entry in reader:
            if isinstance(entry, Whiteout):
                names.add(entry.path)
            elif isinstance(entry, OpaqueWhiteout):
                areas.add(entry.path)
            elif isinstance(entry, Directory):
                brought.add(entry.path)
    if reader.count != layer.record.entries:
        raise IntegrityError(
            f"damaged skeleton: {layer.name}: got {reader.count} entries, "
            f"want {layer.record.entries}"
        )
    found = [path for path in names if not is_redundant(path, names, areas)]
    emptied = [path for path in areas if not is_redundant(path, names, areas)]
    return _Whiteouts(
        frozenset(names),
        frozenset(areas),
        {path: below.physical_name(path, replaced=brought) for path in found},
        {path: below.physical(path, replaced=brought) for path in emptied},
        brought,
    )


class _Masked:
    """A lower tree without what the layer's whiteouts hide and its directories replace."""

    def __init__(self, below: LayerLookup, whiteouts: _Whiteouts) -> None:
        self._below = below
        self._brought = whiteouts.brought
        self._hidden = frozenset(whiteouts.hidden.values())
        self._emptied = frozenset(whiteouts.emptied.values())

    def symlink(self, path: bytes) -> bytes | None:
        if (
            path in self._hidden
            or path in self._brought
            or is_redundant(path, self._hidden, self._emptied)
        ):
            return None
        return self._below.symlink(path)


class _Entries:
    """A layer's entries with contents taken from its tree, and whiteouts where they lead."""

    def __init__(
        self, layer: UnpackedLayer, whiteouts: _Whiteouts, entries: Iterable[Entry]
    ) -> None:
        self.what = layer.name
        self.count = 0
        self._layer = layer
        self._locations = FileLocations(layer.record)
        self._whiteouts = whiteouts
        self._entries = entries

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            self.count += 1
            yield self._translated(entry)

    def _translated(self, entry: Entry) -> Entry:
        match entry:
            case File(path=path, size=size):
                return ExistingFile(path, size, self._source(path))
            case Whiteout(path=path) | OpaqueWhiteout(path=path) if self._whiteouts.is_moot(path):
                return AufsFile(path)
            case Whiteout(path=path):
                return Whiteout(self._whiteouts.hidden[path])
            case OpaqueWhiteout(path=path):
                return OpaqueWhiteout(self._whiteouts.emptied[path])
            case _:
                return entry

    def _source(self, path: bytes) -> bytes:
        layer = self._layer
        number, inside = self._locations.find(self.count - 1, path)
        root = layer.diff if number is None else layer.paths.replaced / str(number)
        return os.fsencode(root) + (b"/" + inside if inside else b"")

    def write_payload(self, fd: int, length: int) -> None:
        raise NotImplementedError  # no File comes out of this stream
