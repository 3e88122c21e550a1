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
from stacker.layer.symlinks import join
from stacker.stack.build import common_format
from stacker.stack.links import LinkMaker, make_links
from stacker.stack.lookup import SymlinkLookup
from stacker.stack.rebase import apply_tar, must_rebase, rebase_index
from stacker.tar.entry import Meta
from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stacker.erofs.inodes import XattrSet
    from stacker.layer.record import LayerRecord
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.stack.rebase import UnpackedLayer
    from stacker.tar.entry import HardLink

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


class MergedInodes(SymlinkLookup):
    """A tree onto which layers are merged.

    :param inodes: the inodes of this tree and of the layers.
    :param implied: the attributes of directories without an entry in any layer.
    """

    def __init__(self, inodes: Inodes, implied: Meta = IMPLIED) -> None:
        self._inodes = inodes
        self._implied = implied
        self.root = inodes.add_directory(implied)

    def find(self, path: bytes) -> int | None:
        """Return the inode at a path; a symbolic link is not followed."""
        number, directories = self.root, self._inodes.directories
        for name in path.split(b"/") if path else ():
            found = directories.get(number, {}).get(name)
            if found is None:
                return None
            number = found
        return number

    def symlink(self, path: bytes) -> bytes | None:
        """See :meth:`SymlinkLookup.symlink`."""
        number = self.find(path)
        return None if number is None else self._inodes.targets.get(number)

    def merge(self, layer: int, record: LayerRecord) -> None:
        """Merge a layer onto the tree.

        :param layer: its root; the caller must not use its directories afterwards.
        """
        if b"" in record.opaque:
            self._inodes.directories[self.root].clear()
        todo = [(b"", self.root, layer)]
        while todo:
            path, below, above = todo.pop()
            if path not in record.implied:
                self._inodes.copy_attributes(above, below)
            todo += self._merge_names(path, below, above, record)
        if b"" in record.opaque:
            self._remove_mark(self.root, record)

    def _merge_names(
        self, path: bytes, below: int, above: int, record: LayerRecord
    ) -> list[tuple[bytes, int, int]]:
        """Merge one directory; return the directories that both trees have."""
        inodes, common = self._inodes, list[tuple[bytes, int, int]]()
        directories = inodes.directories
        names = directories[below]
        for name, child in directories[above].items():
            if child in directories:
                inner, old = join(path, name), names.get(name)
                if old in directories and inner not in record.opaque:
                    common.append((inner, old, child))
                    continue
                if record.whiteouts or record.opaque:
                    self._remove_marks(inner, child, record)
                if old in directories and inner in record.implied:
                    inodes.copy_attributes(old, child)
                names[name] = child
            elif self._is_whiteout(child):
                names.pop(name, None)
            else:
                names[name] = child
        return common

    def _remove_marks(self, path: bytes, directory: int, record: LayerRecord) -> None:
        """Remove the whiteouts and opaque marks of a directory that hides nothing any more."""
        directories, todo = self._inodes.directories, [(path, directory)]
        while todo:
            above, number = todo.pop()
            if above in record.opaque:
                self._remove_mark(number, record)
            names = directories[number]
            for name, child in [*names.items()]:
                if child in directories:
                    todo.append((join(above, name), child))
                elif self._is_whiteout(child):
                    del names[name]

    def _remove_mark(self, directory: int, record: LayerRecord) -> None:
        (mark,) = record.whiteout_format.opaque_marks
        kept = tuple(pair for pair in self._inodes.xattr_set(directory) if pair[0] != mark)
        self._inodes.set_xattrs(directory, kept)

    def _is_whiteout(self, number: int) -> bool:
        inodes = self._inodes
        return stat.S_ISCHR(inodes.mode[number]) and not inodes.start[number]

    def add_links(self, links: Sequence[HardLink], what: str) -> None:
        """Make hard links whose targets are in this tree.

        :param what: the name of the layer in errors.
        :raises LayerError: a target does not exist, or is a directory.
        """
        maker = _InodeLinks(links, self, self._inodes, what)
        make_links(maker)
        for path, number in maker.made:
            self._add_link(path, number)

    def _add_link(self, path: bytes, number: int) -> None:
        above, _, name = path.rpartition(b"/")
        inodes, parent = self._inodes, self.root
        for part in above.split(b"/") if above else ():
            names = inodes.directories[parent]
            child = names.get(part)
            if child not in inodes.directories:
                child = names[part] = inodes.add_directory(self._implied)
            parent = child
        inodes.directories[parent][name] = number


class _InodeLinks(LinkMaker[int]):
    """Finds the inodes of links; ``made`` has the path and the inode of each."""

    def __init__(
        self, links: Sequence[HardLink], tree: MergedInodes, inodes: Inodes, what: str
    ) -> None:
        super().__init__(links, what)
        self.made: list[tuple[bytes, int]] = []
        self._tree = tree
        self._inodes = inodes

    def _find(self, path: bytes) -> tuple[int, bool] | None:
        number = self._tree.find(path)
        return None if number is None else (number, number in self._inodes.directories)

    def _symlink_below(self, path: bytes) -> bytes | None:
        return self._tree.symlink(path)

    def _target_of(self, file: int) -> bytes | None:
        return self._inodes.targets.get(file)

    def _link(self, file: int, path: bytes) -> int:
        self.made.append((path, file))
        return file
