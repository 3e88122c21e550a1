"""Layers on disk: the paths of one layer, and what a mount stacks.

A :class:`LayerPaths` comes from the directory of one layer; a :class:`Stack` lists the trees of
several, or the one index of all.  All are plain values that the store, a mount plan and the merged
tree share.  This module reads no file, and must not use the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.layer.whiteout_format import WhiteoutFormat

Form: TypeAlias = Literal["tree", "erofs"]
"""How a layer is stored: as a directory tree with a skeleton, or as its tar with an EROFS index."""

FORMS: Final[tuple[Form, ...]] = ("tree", "erofs")


@dataclass(frozen=True, slots=True)
class LayerPaths:
    """The parts of one layer in its directory, in the store or in staging.

    A layer has `diff` and `skeleton`, or `tar` and `index`, or all four.

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
    def tar(self) -> Path:
        """The layer's uncompressed tar, padded with zeros to a multiple of 512 bytes."""
        return self.root / "layer.tar"

    @property
    def index(self) -> Path:
        """The EROFS image of the layer's metadata; it refers to `tar` for contents."""
        return self.root / "index.erofs"

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that the layer has on disk."""
        found = {"tree": self.diff, "erofs": self.index}
        return tuple(form for form in FORMS if found[form].exists())

    @property
    def checksums(self) -> Path:
        """The CRC-32 of each file, after `stacker verify` has found the layer sound."""
        return self.root / "checksums"

    @property
    def index_checksum(self) -> Path:
        """The checksum of `index`, after `stacker verify` has found that it equals the tar."""
        return self.root / "index.sha256"

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


@dataclass(frozen=True, slots=True)
class MergedIndex:
    """An EROFS image of the merged metadata of several layers.

    :param path: the image.
    :param tars: the tars with the contents of its files; the image refers to them by number, from
        1, and a mount names them in this order.
    """

    path: Path
    tars: tuple[Path, ...]

    @property
    def root(self) -> Path:
        """An empty directory with the attributes of the merged root directory."""
        return self.path.with_name("root")


@dataclass(frozen=True, slots=True)
class Stack:
    """What a mount stacks: directories, or a merged index.

    :param directories: the topmost first, as overlayfs's ``lowerdir`` lists them.
    :param whiteout_format: how deletions are written in all of them.
    :param plain: the stack is a single directory, or an index, without whiteouts, opaque marks or
        escaped names, so that it is right without overlayfs.
    :param merged: the index; `directories` is then empty.
    """

    directories: tuple[Path, ...]
    whiteout_format: WhiteoutFormat
    plain: bool
    merged: MergedIndex | None = None

    @property
    def form(self) -> Form:
        """The form of the layers that the stack uses."""
        return "tree" if self.merged is None else "erofs"

    @property
    def tars(self) -> tuple[Path, ...]:
        """The tars of the layers, if the stack is an index."""
        return () if self.merged is None else self.merged.tars
