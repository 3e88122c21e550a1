"""Apply tar entries to a tree in memory: this is how a layer becomes an index.

Entries of a tar come in; inodes that refer to the tar's payloads and a :class:`LayerRecord` go
out.  The rules are in :mod:`stacker.layer.applier`.  A tree on disk gets its xattrs by setxattr(2)
and then its mode by chmod(2), and the kernel checks and changes values in both; `_IndexMetadata`
applies the same rules (acl(5), capabilities(7), ``fs/posix_acl.c``).  This module must not read
payloads or write files.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, Protocol

from stacker.erofs.format import split_xattr_name
from stacker.erofs.inodes import Inodes, xattr_set
from stacker.erofs.sparse import map_bytes
from stacker.layer.applier import Applier, EntryStream
from stacker.layer.index_root import IndexRoot
from stacker.layer.metadata import IDENTITY, IdMap
from stacker.layer.root import IMPLIED, LowerTree
from stacker.layer.symlinks import join
from stacker.linux import acl
from stacker.linux.syscall import PATH_MAX
from stacker.tar.entry import (
    ExistingFile,
    File,
    Meta,
    Special,
    Symlink,
    Xattrs,
    printable,
    without_user_xattrs,
)
from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from stacker.layer.record import LayerRecord
    from stacker.layer.whiteout_format import WhiteoutFormat

_CAPABILITY: Final = b"security.capability"
_CAPABILITY_SIZES: Final = {1: (12,), 2: (20,), 3: (24,)}
_MAX_VALUE: Final = 65_535


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
    _metadata: _IndexMetadata

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
        self._metadata = _IndexMetadata(whiteout_format)
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


class _IndexMetadata:
    """Selects the xattrs of entries.

    ``warnings`` collects one line for each kind of loss; ``escaped`` is true after an xattr name of
    overlayfs was escaped.
    """

    def __init__(self, whiteout_format: WhiteoutFormat) -> None:
        self.warnings: dict[str, str] = {}
        self.escaped = False
        self._format = whiteout_format

    def kept(self, kind: int, mode: int, xattrs: Xattrs | None) -> dict[bytes, bytes]:
        """Return the xattrs to store.

        :param kind: the ``S_IF*`` constant of the inode.
        :param mode: its permissions.
        """
        if not xattrs:
            return {}
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            xattrs = without_user_xattrs(xattrs)
        found: dict[bytes, bytes] = {}
        for name, value in xattrs.items():
            written = self._format.escape(name)
            if written is not name:
                self.escaped = True
            if split_xattr_name(written) is None or len(value) > _MAX_VALUE:
                self._warn(name, "Operation not supported")
            elif name in (acl.ACCESS, acl.DEFAULT):
                self._add_acl(found, name, value, kind=kind, mode=mode)
            elif name == _CAPABILITY and not _is_capability(value):
                self._warn(name, "Invalid argument")
            else:
                found[written] = value
        return found

    def _add_acl(
        self, found: dict[bytes, bytes], name: bytes, value: bytes, *, kind: int, mode: int
    ) -> None:
        stored = acl.kept(value, mode if name == acl.ACCESS else None)
        if stored is None or kind == stat.S_IFLNK or (name == acl.DEFAULT and kind != stat.S_IFDIR):
            self._warn(name, "Invalid argument")
        elif stored:
            found[name] = stored

    def _warn(self, name: bytes, reason: str) -> None:
        space = printable(name.partition(b".")[0])
        self.warnings.setdefault(
            f"xattr {space} {reason}",
            f"omitted xattrs: {printable(name)} and others of {space}.*: {reason}",
        )


def _is_capability(value: bytes) -> bool:
    """Return whether the kernel accepts a value of ``security.capability``."""
    revision = value[3] if len(value) > 3 else 0
    return len(value) in _CAPABILITY_SIZES.get(revision, ()) and revision != 1
