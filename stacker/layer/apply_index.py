"""Apply tar entries to a tree in memory: this is how a layer becomes an index.

Entries of a tar come in; inodes that refer to the tar's payloads and a :class:`LayerRecord` go
out.  The rules are in :mod:`stacker.layer.applier`.  This module must not read payloads or write
files.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Protocol

from stacker.erofs.inodes import Inodes, xattr_set
from stacker.erofs.sparse import map_bytes
from stacker.layer.applier import Applier, EntryStream
from stacker.layer.index_metadata import IndexMetadata
from stacker.layer.index_root import IndexRoot
from stacker.layer.metadata import IDENTITY, IdMap
from stacker.layer.record import LayerRecord
from stacker.layer.root import IMPLIED, LowerTree
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.syscall import PATH_MAX
from stacker.tar.entry import ExistingFile, File, Meta, Special, Symlink
from stacker.tar.limits import Limits


class PositionedStream(EntryStream, Protocol):
    """A stream whose payloads have positions, such as :class:`stacker.tar.reader.TarReader`."""

    @property
    def offset(self) -> int:
        """Where the payload of the last entry starts in the tar, in bytes."""


def apply_to_index(
    entries: PositionedStream,
    inodes: Inodes,
    *,
    tar: int,
    whiteout_format: WhiteoutFormat,
    idmap: IdMap = IDENTITY,
    limits: Limits | None = None,
    lower: LowerTree | None = None,
) -> tuple[int, LayerRecord]:
    """Apply every entry to an empty tree, whose inodes are added to ``inodes``.

    :param tar: the number of the tar in the image.
    :param whiteout_format: how deletions are written.
    :param lower: the tree below, when a layer is applied again to a known stack.
    :returns: the root's inode, and the record.
    :raises LayerError: the layer is malformed, leaves the root, or exceeds a limit.
    """
    limits = limits or Limits()
    root = IndexRoot(inodes, lower=lower, limits=limits)
    applier = _IndexApplier(
        entries, root, tar=tar, whiteout_format=whiteout_format, idmap=idmap, limits=limits
    )
    return root.number, applier.run()


class _IndexApplier(Applier):
    form = "erofs"
    _tree: IndexRoot
    _entries: PositionedStream
    _metadata: IndexMetadata

    def __init__(
        self,
        entries: PositionedStream,
        tree: IndexRoot,
        *,
        tar: int,
        whiteout_format: WhiteoutFormat,
        idmap: IdMap,
        limits: Limits,
    ) -> None:
        super().__init__(
            entries, tree, whiteout_format=whiteout_format, squash=idmap.squash, limits=limits
        )
        self._tar = tar
        self._inodes = tree.inodes
        self._metadata = IndexMetadata(whiteout_format)
        self._owner = (os.geteuid(), os.getegid()) if idmap.squash else None

    def _file(self, entry: File) -> None:
        path, meta, size, stored, segments = entry
        above, _, name = path.rpartition(b"/")
        if not name:
            raise self._not_the_root(entry)
        start = self._entries.offset if stored else 0
        parent, physical = self._tree.parent(above)
        self._count(size)
        number = self._add(stat.S_IFREG, meta, size=size, start=start)
        if segments is not None:
            self._tree.budget.spend(map_bytes(segments, size), path)
            self._inodes.sparse[number] = segments
        try:
            self._tree.add(parent, name, number)
        except FileExistsError:
            self._tree.set_aside(parent, name, join(physical, name))
            self._tree.add(parent, name, number)
        if self._tree.pending.count:
            self._tree.pending.discard(join(physical, name))

    def _add(self, kind: int, meta: Meta, *, size: int = 0, start: int = 0) -> int:
        xattrs = meta.xattrs
        kept = xattr_set(self._metadata.kept(kind, meta.mode, xattrs)) if xattrs else ()
        return self._inodes.add(
            kind, self._owned(meta), kept, size=size, start=start, tar=self._tar
        )

    def _owned(self, meta: Meta) -> Meta:
        if self._owner is None:
            return meta
        return meta._replace(uid=self._owner[0], gid=self._owner[1])

    def _make_symlink(self, parent: int, name: bytes, entry: Symlink) -> None:
        if len(entry.target) >= PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        meta = entry.meta._replace(mode=0o777)
        number = self._add(stat.S_IFLNK, meta, size=len(entry.target))
        self._inodes.targets[number] = entry.target
        self._tree.budget.spend(len(entry.target), entry.path)
        self._tree.add(parent, name, number)

    def _make_special(self, parent: int, name: bytes, entry: Special) -> bool:
        self._tree.add(parent, name, self._add(entry.kind, entry.meta, start=entry.device))
        return True

    def _existing_file(self, entry: ExistingFile) -> None:
        raise NotImplementedError  # the entries of a tar have their contents

    def _finish_directories(self) -> None:
        inodes, opaque = self._inodes, self._whiteouts.opaque
        for path, given in self._tree.directories.items():
            self._finishing = path
            meta = given or IMPLIED
            kept = self._metadata.kept(stat.S_IFDIR, meta.mode, meta.xattrs)
            if path in opaque:
                kept[self._format.prefix + b"opaque"] = b"y"
            inodes.set_meta(self._tree.directory(path), self._owned(meta), xattr_set(kept))
