"""Apply a layer again, on top of a known stack.

A layer can have a file in a directory that is a symbolic link in a lower layer; when it was
unpacked alone, that link was unknown.  The skeleton yields the layer's entries again, its tree
provides the contents as hard links, and `stacker.layer.apply` resolves their parents in the lower
tree.  This module must not repeat the rules for applying entries.
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

    :param name: the name of the layer in errors.
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
    """Return whether a symbolic link in the layers below moves an entry of ``layer``."""
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
    """Apply ``layer`` on top of ``below``, in the empty ``directory``.

    :param limits: the limits that the layer was unpacked with.
    :raises LayerError: the layer exceeds a limit, or its links form a loop.
    :raises IntegrityError: the skeleton is damaged.
    """
    whiteouts = _collect_whiteouts(layer, below)
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
            lower=_MaskedTree(below, whiteouts),
        )
    return UnpackedLayer.at(layer.name, paths, record)


@dataclass(frozen=True, slots=True)
class _Whiteouts:
    """The whiteouts of a layer, and the paths that they hide in the lower tree.

    :param names: the paths of the whiteouts in the stream.
    :param areas: the directories of the opaque whiteouts in the stream.
    :param hidden: maps each of ``names`` that is not redundant to a path without symbolic links.
    :param emptied: the same for ``areas``.
    :param directories: the directories with an entry in the layer.  They replace lower symbolic
        links, wherever the entry is in the stream.
    """

    names: frozenset[bytes]
    areas: frozenset[bytes]
    hidden: Mapping[bytes, bytes]
    emptied: Mapping[bytes, bytes]
    directories: set[bytes]

    def is_redundant(self, path: bytes) -> bool:
        """Return whether another whiteout of the layer hides everything around ``path``."""
        return is_redundant(path, self.names, self.areas)


def _collect_whiteouts(layer: UnpackedLayer, below: LayerLookup) -> _Whiteouts:
    """Collect whiteouts from the skeleton, and resolve them in the lower tree."""
    names, areas, directories = set[bytes](), set[bytes](), set[bytes]()
    with open_skeleton(layer.paths.skeleton, what=layer.name) as reader:
        for entry in reader:
            if isinstance(entry, Whiteout):
                names.add(entry.path)
            elif isinstance(entry, OpaqueWhiteout):
                areas.add(entry.path)
            elif isinstance(entry, Directory):
                directories.add(entry.path)
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
        {path: below.physical_name(path, replaced=directories) for path in found},
        {path: below.physical(path, replaced=directories) for path in emptied},
        directories,
    )


class _MaskedTree:
    """The lower tree without what the layer's whiteouts hide and its directories replace."""

    def __init__(self, below: LayerLookup, whiteouts: _Whiteouts) -> None:
        self._below = below
        self._directories = whiteouts.directories
        self._hidden = frozenset(whiteouts.hidden.values())
        self._emptied = frozenset(whiteouts.emptied.values())

    def symlink(self, path: bytes) -> bytes | None:
        if (
            path in self._hidden
            or path in self._directories
            or is_redundant(path, self._hidden, self._emptied)
        ):
            return None
        return self._below.symlink(path)


class _Entries:
    """The entries of a layer, with contents from its tree and resolved whiteouts."""

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
            yield self._translate(entry)

    def _translate(self, entry: Entry) -> Entry:
        match entry:
            case File(path=path, size=size):
                return ExistingFile(path, size, self._source(path))
            case Whiteout(path=path) | OpaqueWhiteout(path=path) if self._whiteouts.is_redundant(
                path
            ):
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
        raise NotImplementedError  # this stream has no File entries
