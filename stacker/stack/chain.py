"""Layers to the list of directories that a mount stacks.

In: unpacked layers, the base first, and an empty directory for what has to be repaired.  Out: a
:class:`Chain`.  Each layer is looked at with the exact tree below it, so what is true of the
stack so far stays true (docs/architecture.md, *Stacking*).  Knows no store and no mount.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stacker.errors import UnsupportedError
from stacker.layer.root import IMPLIED_MODE
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.filesystem import make_private
from stacker.linux.mountapi import OVERLAY_MAX_LAYERS
from stacker.stack.fixups import write_attributes, write_links
from stacker.stack.flatten import copy_layer, merge_layers
from stacker.stack.overlay_rules import MergedDirectories
from stacker.stack.rebase import Unpacked, must_rebase, rebase
from stacker.tar.limits import Limits


@dataclass(frozen=True, slots=True)
class Chain:
    """What to stack: directories, the topmost first.

    :param plain: one directory is all there is, and nothing in it is overlayfs's language.
    """

    directories: tuple[Path, ...]
    form: WhiteoutFormat
    plain: bool


def chained(
    layers: Sequence[Unpacked],
    *,
    room: Path,
    form: WhiteoutFormat,
    limits: Limits | None = None,
) -> Chain:
    """Stack ``layers``, the base first.

    :param room: an empty directory on the layers' filesystem for repairs; it may stay empty.
    :param form: what an image without layers is said to be written in.
    :param limits: for a layer that is applied anew.
    :raises LayerError: a hard link's target exists nowhere.
    :raises UnsupportedError: the layers write deletions in different ways.
    """
    form = _common_form(layers, form)
    builder = _Builder(room, form, layers, limits)
    for number, layer in enumerate(layers):
        builder.add(number, layer)
    return builder.finished()


def _common_form(layers: Sequence[Unpacked], form: WhiteoutFormat) -> WhiteoutFormat:
    forms = {layer.record.whiteout_format for layer in layers}
    if len(forms) > 1:
        raise UnsupportedError(
            "mixed layers: some write deletions with trusted.overlay.*, some with user.overlay.*",
            hint="pull the image into a store of its own (--store)",
        )
    return forms.pop() if forms else form


class _Builder:
    """The stack while it grows; ``_stack`` has the base first."""

    def __init__(
        self, room: Path, form: WhiteoutFormat, layers: Sequence[Unpacked], limits: Limits | None
    ) -> None:
        self._room = room
        self._limits = limits
        self._places = Counter(layer.diff for layer in layers)
        self._links = any(layer.record.deferred_links for layer in layers)
        self._form = form
        self._stack: list[Path] = []
        self._implied: dict[Path, frozenset[bytes]] = {}
        self._holders: dict[Path, frozenset[bytes]] = {}
        self._plain = True

    def add(self, number: int, layer: Unpacked) -> None:
        below = MergedDirectories(self._topmost_first(), self._form)
        if self._stack and must_rebase(layer, below):
            place = self._new(f"rebased-{number}")
            layer = rebase(self._own(number, layer), below, place, limits=self._limits)
        elif self._links:
            layer = self._own(number, layer)
        if b"" in layer.record.opaque:
            self._start_over(number, layer)
        self._push(layer.diff, layer.record.implied)
        self._holders[layer.diff] = layer.record.whiteout_holders
        self._plain = self._plain and layer.record.is_plain
        if layer.record.deferred_links:
            place = self._new(f"links-{number}")
            made = write_links(
                layer.record.deferred_links,
                self._topmost_first(),
                place,
                form=self._form,
                what=layer.name,
            )
            self._push(place, made)

    def _own(self, number: int, layer: Unpacked) -> Unpacked:
        """Copy a layer that comes twice, since hard links to both would make its files one."""
        if self._places[layer.diff] == 1:
            return layer
        copy = self._new(f"copy-{number}")
        copy_layer(layer.diff, copy, self._form)
        return replace(layer, diff=copy)

    def finished(self) -> Chain:
        stack = self._without_repeats()
        implied = {path: self._implied[path] for path in stack}
        fixup = self._new("fixup")
        holders = {path: self._holders.get(path, frozenset()) for path in stack}
        if not stack or write_attributes(stack, implied, fixup, form=self._form, holders=holders):
            stack.insert(0, fixup)
        else:
            fixup.rmdir()
        if len(stack) > OVERLAY_MAX_LAYERS:
            base = self._new("base")
            keep = OVERLAY_MAX_LAYERS - 1
            merge_layers(stack[keep:], base, self._form)
            stack = [*stack[:keep], base]
        return Chain(tuple(stack), self._form, plain=len(stack) == 1 and self._plain)

    def _topmost_first(self) -> list[Path]:
        return self._stack[::-1]

    def _without_repeats(self) -> list[Path]:
        """Keep the topmost place of a layer that occurs twice (overlayfs refuses a repeat)."""
        return list(dict.fromkeys(self._topmost_first()))

    def _push(self, directory: Path, implied: frozenset[bytes]) -> None:
        self._stack.append(directory)
        self._implied[directory] = implied

    def _new(self, name: str) -> Path:
        directory = self._room / name
        directory.mkdir()
        make_private(os.fsencode(directory))
        os.chmod(directory, IMPLIED_MODE)
        os.utime(directory, ns=(0, 0))
        return directory

    def _start_over(self, number: int, layer: Unpacked) -> None:
        """Drop what lies below an opaque root, which overlayfs would merge all the same.

        Only the root's attributes live on, where the layer has none of its own for it.
        """
        below, known = self._topmost_first(), self._implied
        self._stack, self._implied = [], {}
        if b"" in layer.record.implied and below:
            bearer = self._new(f"root-{number}")
            root = frozenset({b""})
            implied = {bearer: root} | {path: known[path] & root for path in below}
            write_attributes([bearer, *below], implied, bearer, form=self._form)
            self._push(bearer, frozenset())
