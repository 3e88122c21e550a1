"""Turn unpacked layers into the list of directories that a mount stacks.

The input is the layers, base first, and an empty directory for repairs; the output is a
:class:`~stacker.layer.paths.Stack`.  Each layer is compared with the merged tree of the layers
below it, so a repair sees the exact tree that it changes (docs/rules.md, Stacking).  This module
must not use the store, and mounts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from stacker.errors import LayerError, UnsupportedError
from stacker.layer.paths import Stack
from stacker.layer.root import IMPLIED_MODE
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.filesystem import make_private
from stacker.linux.mountapi import OVERLAY_MAX_LAYERS
from stacker.stack.fixups import write_attributes, write_links
from stacker.stack.flatten import copy_layer, merge_layers
from stacker.stack.lookup import LayerLookup
from stacker.stack.rebase import UnpackedLayer, must_rebase, rebase
from stacker.tar.limits import Limits


def build_stack(
    layers: Sequence[UnpackedLayer],
    *,
    repairs: Path,
    whiteout_format: WhiteoutFormat,
    limits: Limits | None = None,
) -> Stack:
    """Stack ``layers``, base first.

    :param repairs: an empty directory on the layers' filesystem, for what the stack adds.
    :param whiteout_format: the format of a stack without layers.
    :param limits: the limits for a layer that is applied again.
    :raises LayerError: the target of a hard link does not exist, or a limit is exceeded.
    :raises IntegrityError: the skeleton of a layer that is applied again is damaged.
    :raises UnsupportedError: the layers have different whiteout formats.
    """
    whiteout_format = common_format(layers, whiteout_format)
    builder = _Builder(repairs, whiteout_format, limits)
    for number, layer in enumerate(layers):
        builder.add(number, layer)
    return builder.finish()


def common_format(layers: Sequence[UnpackedLayer], default: WhiteoutFormat) -> WhiteoutFormat:
    """Return the whiteout format that all layers have.

    :param default: the result without layers.
    :raises UnsupportedError: the layers have different formats.
    """
    formats = {layer.record.whiteout_format for layer in layers}
    if len(formats) > 1:
        raise UnsupportedError(
            "cannot stack layers: got whiteouts with trusted.overlay.* and with user.overlay.* "
            "xattrs, want one format",
            hint="pull the image into a separate store (--store)",
        )
    return formats.pop() if formats else default


class _Version(NamedTuple):
    """A layer, or its last copy, and how many directories of links there were when it was added.

    A later directory of links can have hard links to its files.
    """

    layer: UnpackedLayer
    linked: int


class _Builder:
    """The stack while it grows; ``_stack`` has the directories base first, each once.

    A repeated layer moves to its topmost position: overlayfs refuses a repeated directory.
    """

    def __init__(
        self,
        repairs: Path,
        whiteout_format: WhiteoutFormat,
        limits: Limits | None,
    ) -> None:
        self._repairs = repairs
        self._limits = limits
        self._versions: dict[Path, _Version] = {}
        self._linked = 0
        self._copied_bytes = self._copied_entries = 0
        self._last: Path | None = None
        self._format = whiteout_format
        self._stack: dict[Path, None] = {}
        self._lookup = LayerLookup((), whiteout_format)
        self._implied: dict[Path, frozenset[bytes]] = {}
        self._whiteout_parents: dict[Path, frozenset[bytes]] = {}
        self._plain = True

    def add(self, number: int, layer: UnpackedLayer) -> None:
        below = self._lookup
        if self._stack and must_rebase(layer, below):
            self._last = None
            directory = self._make_directory(f"rebased-{number}")
            source = self._unshared(number, layer, rebased=True)
            layer = rebase(source, below, directory, limits=self._limits)
        elif layer.diff == self._last:
            return  # applied twice in a row, a layer changes nothing
        else:
            self._last = layer.diff
            layer = self._unshared(number, layer)
        if b"" in layer.record.opaque:
            self._start_over(number, layer)
        self._push(layer.diff, layer.record.implied)
        self._whiteout_parents[layer.diff] = layer.record.whiteout_parents
        self._plain = self._plain and layer.record.is_plain
        if layer.record.deferred_links:
            directory = self._make_directory(f"links-{number}")
            implied = write_links(
                layer.record.deferred_links,
                self._lookup,
                directory,
                what=layer.name,
            )
            self._push(directory, implied)
            self._linked += 1

    def _unshared(
        self, number: int, layer: UnpackedLayer, *, rebased: bool = False
    ) -> UnpackedLayer:
        """Return a layer, or a copy of it if the stack has hard links to its files.

        Otherwise the hard links would join the files of two occurrences of the layer.

        :param rebased: the caller makes hard links to the files.
        """
        known = self._versions.get(layer.diff)
        version = known.layer if known else layer
        if known and (known.linked != self._linked or (rebased and version.diff in self._stack)):
            self._count_copy(layer)
            copy = self._make_directory(f"copy-{number}")
            copy_layer(layer.diff, copy, self._format)
            version = replace(layer, diff=copy)
        self._versions[layer.diff] = _Version(version, -1 if rebased else self._linked)
        return version

    def _count_copy(self, layer: UnpackedLayer) -> None:
        limits = self._limits or Limits()
        self._copied_bytes += layer.record.file_bytes
        self._copied_entries += layer.record.entries
        for got, limit, unit, flag in (
            (self._copied_bytes, limits.unpacked_bytes, "bytes", "--max-bytes"),
            (self._copied_entries, limits.entries, "entries", "--max-entries"),
        ):
            if got > limit:
                raise LayerError(
                    f"over a limit: {layer.name}: got copies of more than {limit} {unit} of layers "
                    "that the image repeats, want fewer",
                    hint=f"raise the limit with {flag} if you trust the image",
                )

    def finish(self) -> Stack:
        stack = self._topmost_first()
        implied = {path: self._implied[path] for path in stack}
        fixup = self._make_directory("fixup")
        parents = {path: self._whiteout_parents.get(path, frozenset()) for path in stack}
        if not stack or write_attributes(
            stack, implied, fixup, whiteout_format=self._format, whiteout_parents=parents
        ):
            stack.insert(0, fixup)
        else:
            fixup.rmdir()
        if len(stack) > OVERLAY_MAX_LAYERS:
            base = self._make_directory("base")
            keep = OVERLAY_MAX_LAYERS - 1
            merge_layers(stack[keep:], base, self._format)
            stack = [*stack[:keep], base]
        return Stack(tuple(stack), self._format, plain=len(stack) == 1 and self._plain)

    def _topmost_first(self) -> list[Path]:
        return [*reversed(self._stack)]

    def _push(self, directory: Path, implied: frozenset[bytes]) -> None:
        self._stack.pop(directory, None)
        self._stack[directory] = None
        self._lookup.push(directory)
        self._implied[directory] = implied

    def _make_directory(self, name: str) -> Path:
        directory = self._repairs / name
        directory.mkdir()
        make_private(os.fsencode(directory))
        os.chmod(directory, IMPLIED_MODE)
        os.utime(directory, ns=(0, 0))
        return directory

    def _start_over(self, number: int, layer: UnpackedLayer) -> None:
        """Drop the layers below an opaque root: overlayfs merges roots even if they are opaque.

        A layer without an entry for its root keeps the attributes of the lower root.
        """
        below, known = self._topmost_first(), self._implied
        self._stack, self._implied = {}, {}
        self._lookup = LayerLookup((), self._format)
        if b"" in layer.record.implied and below:
            attributes = self._make_directory(f"root-{number}")
            root = frozenset({b""})
            implied = {attributes: root} | {path: known[path] & root for path in below}
            write_attributes(
                [attributes, *below], implied, attributes, whiteout_format=self._format
            )
            self._push(attributes, frozenset())
