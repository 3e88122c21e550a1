"""Apply a layer again, on top of a known stack.

A layer can have a file in a directory that is a symbolic link in a lower layer; when it was
unpacked alone, that link was unknown.  The skeleton yields the layer's entries again, its tree
provides the contents as hard links, and `stacker.layer.apply` resolves their parents in the lower
tree.  This module must not repeat the rules for applying entries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stacker.erofs.inodes import Inodes
from stacker.errors import IntegrityError
from stacker.layer.apply import apply
from stacker.layer.apply_index import apply_to_index
from stacker.layer.metadata import IdMap
from stacker.layer.paths import Form, LayerPaths
from stacker.layer.record import LayerRecord
from stacker.layer.skeleton import FileLocations, open_skeleton
from stacker.stack.lookup import LayerLookup, SymlinkLookup
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
from stacker.tar.index import SeekableChunks
from stacker.tar.limits import UNLIMITED, Limits
from stacker.tar.reader import TarReader


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """An unpacked layer in a stack.

    :param name: the name of the layer in errors.
    :param paths: the files of the layer.
    :param record: the content of ``paths.record``.
    :param diff: the tree to stack: ``paths.diff``, or a copy of it.
    :param form: the form of the stack.
    """

    name: str
    paths: LayerPaths
    record: LayerRecord
    diff: Path
    form: Form = "tree"

    @classmethod
    def at(
        cls, name: str, paths: LayerPaths, record: LayerRecord, form: Form = "tree"
    ) -> UnpackedLayer:
        """Return the layer at ``paths``, with its own tree."""
        return cls(name, paths, record, paths.diff, form)

    @contextmanager
    def open_entries(self) -> Iterator[TarReader]:
        """Open the entries of the layer, in its skeleton or in its tar."""
        if self.form == "tree":
            with open_skeleton(self.paths.skeleton, what=self.name) as skeleton:
                yield skeleton
        else:
            with self.paths.tar.open("rb") as file:
                yield TarReader(SeekableChunks(file), what=self.name, limits=UNLIMITED)


def must_rebase(layer: UnpackedLayer, below: SymlinkLookup) -> bool:
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
    with layer.open_entries() as reader:
        record = apply(
            _ExistingFiles(layer, whiteouts, reader),
            paths.diff,
            replaced=paths.replaced,
            whiteout_format=layer.record.whiteout_format,
            idmap=IdMap(squash=layer.record.squashed),
            limits=limits,
            lower=_MaskedTree(below, whiteouts),
        )
    return UnpackedLayer.at(layer.name, paths, record)


def apply_tar(layer: UnpackedLayer, inodes: Inodes, *, tar: int) -> int:
    """Apply the tar of ``layer`` to an empty tree, whose inodes are added to ``inodes``.

    :param tar: the number of the layer's tar.
    :returns: the number of its root.
    :raises LayerError: the tar is malformed.
    """
    with layer.open_entries() as reader:
        root, _ = apply_to_index(
            reader,
            inodes,
            tar=tar,
            whiteout_format=layer.record.whiteout_format,
            idmap=IdMap(squash=layer.record.squashed),
            limits=UNLIMITED,
        )
    return root


def rebase_index(
    layer: UnpackedLayer,
    below: SymlinkLookup,
    inodes: Inodes,
    *,
    tar: int,
    limits: Limits | None = None,
) -> tuple[int, LayerRecord]:
    """Apply ``layer`` on top of ``below``; its inodes are added to ``inodes``.

    :param tar: the number of the layer's tar.
    :returns: the number of its root, and the record.
    """
    whiteouts = _collect_whiteouts(layer, below)
    with layer.open_entries() as reader:
        return apply_to_index(
            _Entries(layer, whiteouts, reader),
            inodes,
            tar=tar,
            whiteout_format=layer.record.whiteout_format,
            idmap=IdMap(squash=layer.record.squashed),
            limits=limits,
            lower=_MaskedTree(below, whiteouts),
        )


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


def _collect_whiteouts(layer: UnpackedLayer, below: SymlinkLookup) -> _Whiteouts:
    """Collect whiteouts from the entries, and resolve them in the lower tree."""
    names, areas, directories = set[bytes](), set[bytes](), set[bytes]()
    with layer.open_entries() as reader:
        for entry in reader:
            if isinstance(entry, Whiteout):
                names.add(entry.path)
            elif isinstance(entry, OpaqueWhiteout):
                areas.add(entry.path)
            elif isinstance(entry, Directory):
                directories.add(entry.path)
    if reader.count != layer.record.entries:
        raise IntegrityError(
            f"damaged layer: {layer.name}: got {reader.count} entries, want {layer.record.entries}"
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

    def __init__(self, below: SymlinkLookup, whiteouts: _Whiteouts) -> None:
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
    """The entries of a layer, with resolved whiteouts."""

    def __init__(self, layer: UnpackedLayer, whiteouts: _Whiteouts, entries: TarReader) -> None:
        self.what = layer.name
        self.count = 0
        self._whiteouts = whiteouts
        self._entries = entries

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            self.count += 1
            yield self._translate(entry)

    @property
    def offset(self) -> int:
        """Where the payload of the last entry starts in the tar, in bytes."""
        return self._entries.offset

    def _translate(self, entry: Entry) -> Entry:
        match entry:
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

    def write_payload(self, fd: int, length: int) -> None:
        raise NotImplementedError  # the files exist already, or stay in the tar


class _ExistingFiles(_Entries):
    """The same, with contents from the layer's tree."""

    def __init__(self, layer: UnpackedLayer, whiteouts: _Whiteouts, entries: TarReader) -> None:
        super().__init__(layer, whiteouts, entries)
        self._layer = layer
        self._locations = FileLocations(layer.record)

    def _translate(self, entry: Entry) -> Entry:
        if isinstance(entry, File):
            return ExistingFile(entry.path, entry.size, self._source(entry.path))
        return super()._translate(entry)

    def _source(self, path: bytes) -> bytes:
        layer = self._layer
        number, inside = self._locations.find(self.count - 1, path)
        root = layer.diff if number is None else layer.paths.replaced / str(number)
        return os.fsencode(root) + (b"/" + inside if inside else b"")
