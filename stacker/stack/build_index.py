"""Merge the indexes of layers into one, which a single mount presents.

Layers with indexes come in, base first; the merged index goes out.  Stacking is applied once, while
the index is written, so a read-only mount needs no overlayfs.  This module must not use the store.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from stacker.erofs.format import MAX_DEVICES
from stacker.erofs.inodes import SECOND, Inodes
from stacker.erofs.load import CopiedDataError, load_tree
from stacker.erofs.read import Image
from stacker.erofs.write import write_index
from stacker.errors import LayerError, UnsupportedError
from stacker.layer.metadata import set_attributes
from stacker.layer.paths import MergedIndex, Stack
from stacker.layer.root import IMPLIED
from stacker.stack.build import common_format
from stacker.stack.merge_index import MergedInodes
from stacker.stack.rebase import apply_tar, must_rebase, rebase_index
from stacker.tar.entry import Meta
from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stacker.erofs.inodes import XattrSet
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.stack.rebase import UnpackedLayer

_NAME: Final = "merged.erofs"


def build_index(
    layers: Sequence[UnpackedLayer],
    *,
    directory: Path,
    whiteout_format: WhiteoutFormat,
    limits: Limits | None = None,
) -> Stack:
    """Merge the indexes of ``layers``, base first.

    :param directory: an empty directory, for the merged index.
    :param whiteout_format: the format of a stack without layers.
    :param limits: the limits for a layer that is applied again.
    :raises LayerError: the target of a hard link does not exist.
    :raises UnsupportedError: the layers have different whiteout formats.
    :raises IntegrityError: an index is damaged.
    """
    whiteout_format = common_format(layers, whiteout_format)
    builder = _Builder(layers, limits or Limits())
    for layer in layers:
        builder.add(layer)
    merged = MergedIndex(directory / _NAME, builder.tars)
    builder.write(merged)
    plain = not any(layer.record.escaped_xattrs for layer in layers)
    return Stack((), whiteout_format, plain, merged)


class _Builder:
    def __init__(self, layers: Sequence[UnpackedLayer], limits: Limits) -> None:
        squashed = any(layer.record.squashed for layer in layers)
        owner = (os.geteuid(), os.getegid()) if squashed else (0, 0)
        self._limits = limits
        self._inodes = Inodes()
        self._tree = MergedInodes(self._inodes, IMPLIED._replace(uid=owner[0], gid=owner[1]))
        self._numbers: dict[Path, int] = {}
        self._sizes: list[int] = []
        self._seen: set[Path] = set()
        self._repeated = 0
        self._last: Path | None = None

    @property
    def tars(self) -> tuple[Path, ...]:
        """The tars that the inodes refer to."""
        return tuple(self._numbers)

    def add(self, layer: UnpackedLayer) -> None:
        """Merge one more layer."""
        tar = self._tar(layer)
        if must_rebase(layer, self._tree):
            self._last = None
            self._count(layer)
            root, record = rebase_index(
                layer, self._tree, self._inodes, tar=tar, limits=self._limits
            )
        elif layer.paths.root == self._last:
            return  # applied twice in a row, a layer changes nothing
        else:
            self._last = layer.paths.root
            self._count(layer)
            root, record = self._loaded(layer, tar), layer.record
        self._tree.merge(root, record)
        if record.deferred_links:
            self._tree.add_links(record.deferred_links, layer.name)

    def write(self, merged: MergedIndex) -> None:
        """Write the index, and the directory with the root's attributes."""
        sizes = zip(self._numbers, self._sizes, strict=True)
        write_index(merged.path, self._inodes, self._tree.root, [*sizes])
        merged.root.mkdir(mode=0o700)
        set_attributes(os.fsencode(merged.root), *self._root_attributes())

    def _root_attributes(self) -> tuple[Meta, XattrSet]:
        inodes, root = self._inodes, self._tree.root
        time = inodes.seconds[root] * SECOND + inodes.nanoseconds[root]
        mode = stat.S_IMODE(inodes.mode[root])
        meta = Meta(mode, inodes.uid[root], inodes.gid[root], time, time, None)
        return meta, inodes.xattr_set(root)

    def _tar(self, layer: UnpackedLayer) -> int:
        tar = layer.paths.tar
        number = self._numbers.get(tar)
        if number is None:
            number = self._numbers[tar] = len(self._numbers) + 1
            self._sizes.append(layer.record.tar_bytes)
        if number > MAX_DEVICES:
            raise UnsupportedError(
                f"too many layers for one index: got more than {MAX_DEVICES}, want fewer",
                hint="use the form `tree` for this image",
            )
        return number

    def _loaded(self, layer: UnpackedLayer, tar: int) -> int:
        path = layer.paths.index
        try:
            return load_tree(Image(path.read_bytes(), f"{path}"), self._inodes, tar=tar)
        except CopiedDataError:
            return apply_tar(layer, self._inodes, tar=tar)

    def _count(self, layer: UnpackedLayer) -> None:
        """Limit the memory for layers that the image repeats."""
        if layer.paths.root not in self._seen:
            self._seen.add(layer.paths.root)
            return
        self._repeated += layer.record.entries
        if self._repeated > self._limits.entries:
            raise LayerError(
                f"over a limit: {layer.name}: got copies of more than {self._limits.entries} "
                "entries of layers that the image repeats, want fewer",
                hint="raise the limit with --max-entries if you trust the image",
            )
