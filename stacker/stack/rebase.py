"""One layer applied anew, to a stack that is known.

Needed where a layer has a file in a directory that lower down is a symbolic link: unpacked on
its own it could not know.  Its skeleton gives the entries again and its tree their contents
(by hard link), and the same code that unpacks applies them, this time with the lower tree to
resolve parents in.  So the rules stay in one place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stacker.layer.apply import apply
from stacker.layer.entry import (
    Entry,
    File,
    Known,
    OpaqueWhiteout,
    Whiteout,
)
from stacker.layer.idmap import IDENTITY, SQUASH
from stacker.layer.record import LayerRecord
from stacker.layer.skeleton import location, skeleton_entries
from stacker.stack.merged import Merged


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An unpacked layer as a stack sees it.

    :param diff: its tree; ``skeleton`` its skeleton; ``aside`` what later entries replaced.
    """

    name: str
    diff: Path
    skeleton: Path
    aside: Path
    record: LayerRecord


def must_rebase(layer: Unpacked, below: Merged) -> bool:
    """Say whether a symbolic link below leads an entry of ``layer`` to another place."""
    record = layer.record
    if any(
        below.symlink(path) is not None
        for path in record.implied
        if path and not _replaced_above(path, record.opaque)
    ):
        return True
    stranded = *record.stranded, *(path + b"/." for path in record.stranded_opaque)
    return any(_led_elsewhere(path.rpartition(b"/")[0], below) for path in stranded)


def _replaced_above(path: bytes, opaque: frozenset[bytes]) -> bool:
    while path:
        path = path.rpartition(b"/")[0]
        if path in opaque:
            return True
    return False


def _led_elsewhere(directory: bytes, below: Merged) -> bool:
    physical = below.physical(directory)
    return physical != directory and bool(below.sources(physical))


def rebase(layer: Unpacked, below: Merged, room: Path) -> Unpacked:
    """Apply ``layer`` to ``below``; the outcome goes into the empty directory ``room``."""
    hidden, emptied = _whiteouts(layer, below)
    diff, aside = room / "diff", room / "replaced"
    diff.mkdir()
    with skeleton_entries(layer.skeleton, what=layer.name) as reader:
        record = apply(
            _Entries(layer, below, reader),
            diff,
            aside=aside,
            form=layer.record.whiteout_format,
            idmap=SQUASH if layer.record.squashed else IDENTITY,
            lower=_Masked(below, hidden, emptied),
        )
    return Unpacked(layer.name, diff, layer.skeleton, aside, record)


def _whiteouts(layer: Unpacked, below: Merged) -> tuple[set[bytes], set[bytes]]:
    hidden, emptied = set(), set()
    with skeleton_entries(layer.skeleton, what=layer.name) as reader:
        for entry in reader:
            if isinstance(entry, Whiteout):
                hidden.add(below.physical_name(entry.path))
            elif isinstance(entry, OpaqueWhiteout):
                emptied.add(below.physical(entry.path))
    return hidden, emptied


class _Masked:
    """A lower tree without what the layer's own whiteouts hide of it."""

    def __init__(self, below: Merged, hidden: set[bytes], emptied: set[bytes]) -> None:
        self._below = below
        self._hidden = hidden
        self._emptied = emptied

    def symlink(self, path: bytes) -> bytes | None:
        inner = path
        if inner in self._hidden:
            return None
        while inner:
            inner = inner.rpartition(b"/")[0]
            if inner in self._emptied or (inner and inner in self._hidden):
                return None
        return self._below.symlink(path)


class _Entries:
    """A layer's entries with contents taken from its tree, and whiteouts where they lead."""

    def __init__(self, layer: Unpacked, below: Merged, entries: Iterable[Entry]) -> None:
        self.what = layer.name
        self.count = 0
        self._layer = layer
        self._below = below
        self._entries = entries

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            self.count += 1
            yield self._translated(entry)

    def _translated(self, entry: Entry) -> Entry:
        match entry:
            case File(path=path, size=size):
                return Known(path, size, self._source(path))
            case Whiteout(path=path):
                return Whiteout(self._below.physical_name(path))
            case OpaqueWhiteout(path=path):
                return OpaqueWhiteout(self._below.physical(path))
            case _:
                return entry

    def _source(self, path: bytes) -> bytes:
        layer = self._layer
        number, inside = location(layer.record, self.count - 1, path)
        root = layer.diff if number is None else layer.aside / str(number)
        return os.fsencode(root) + (b"/" + inside if inside else b"")

    def write_payload(self, fd: int, length: int) -> None:
        raise NotImplementedError  # no File comes out of this stream
