"""Unpacked layers on disk: the paths of one layer, and the directories that a mount stacks.

A :class:`LayerPaths` comes from the directory of one layer; a :class:`Stack` lists the trees of
several.  Both are plain values that the store, a mount plan and the merged tree share.  This
module reads no file, and must not use the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.layer.whiteout_format import WhiteoutFormat


@dataclass(frozen=True, slots=True)
class LayerPaths:
    """The parts of one layer in its directory, in the store or in staging.

    :param root: the directory of the layer.
    """

    root: Path

    @property
    def diff(self) -> Path:
        """The unpacked tree."""
        return self.root / "diff"

    @property
    def skeleton(self) -> Path:
        """The layer's tar without file contents."""
        return self.root / "skeleton.tar.zst"

    @property
    def checksums(self) -> Path:
        """The CRC-32 of each file, after `stacker verify` has found the layer sound."""
        return self.root / "checksums"

    @property
    def seals(self) -> Path:
        """The fs-verity digest of each file, after `stacker repair --seal`."""
        return self.root / "seals"

    @property
    def replaced(self) -> Path:
        """The files that later entries of the same layer replaced; most layers have none."""
        return self.root / "replaced"

    @property
    def record(self) -> Path:
        """The file with the :class:`stacker.layer.record.LayerRecord`."""
        return self.root / "layer.json"

    @property
    def boot_id(self) -> Path:
        """The file with the ID of the boot in which the layer was committed without a flush."""
        return self.root / "boot-id"

    @property
    def durable(self) -> Path:
        """The empty file that exists once the whole layer is known to be on disk."""
        return self.root / "durable"


@dataclass(frozen=True, slots=True)
class Stack:
    """The directories that a mount stacks.

    :param directories: the topmost first, as overlayfs's ``lowerdir`` lists them.
    :param whiteout_format: how deletions are written in all of them.
    :param plain: the stack is a single directory without whiteouts, opaque marks or escaped
        names, so a bind mount exposes it correctly.
    """

    directories: tuple[Path, ...]
    whiteout_format: WhiteoutFormat
    plain: bool
