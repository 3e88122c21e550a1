"""Read the entries of one layer from its skeleton, and compare them with the tree.

The files of a layer come in; its :class:`~stacker.tree.scan.Contents` go out, equal to those of a
walk of the tree, but without the walk.  The skeleton is not enough if entries of the layer replaced
or moved each other, or if the filesystem could not store all metadata.  This module must not merge
layers, and does not read the contents of files.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, LayerError
from stacker.layer.paths import LayerPaths
from stacker.layer.pending_links import PendingLinks
from stacker.layer.record import LayerRecord
from stacker.layer.skeleton import open_skeleton
from stacker.tar.entry import (
    AufsFile,
    Directory,
    Entry,
    File,
    HardLink,
    OpaqueWhiteout,
    Special,
    Symlink,
    Whiteout,
    is_redundant,
)
from stacker.tree.compare import ADDED_BY_KERNEL, Difference, differences
from stacker.tree.scan import Contents, scan_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stacker.tree.scan import Inodes, Item
    from stacker.tree.whiteout_dialects import WhiteoutDialect


def scan_layer(source: LayerPaths | Path, dialect: WhiteoutDialect, inodes: Inodes) -> Contents:
    """Read a directory of a stack, from its skeleton if that is enough.

    :param dialect: how deletions are written on disk.
    :param inodes: collects the items read from disk.
    :raises IntegrityError: the skeleton or the record is damaged.
    :raises OSError: the kernel's error.
    """
    if not isinstance(source, LayerPaths):
        return scan_directory(source, dialect, inodes)
    record = LayerRecord.from_json(source.record.read_bytes(), str(source.record))
    if not (record.moved or record.replacements or record.warnings):
        found = _FromSkeleton(source, record).read()
        if found is not None:
            return found
    return scan_directory(source.diff, dialect, inodes)


def from_skeleton(source: LayerPaths, record: LayerRecord) -> Contents | None:
    """Read the entries of a layer from its skeleton alone.

    :returns: ``None`` if entries replace each other or lie below symbolic links, so that only
        unpacking them gives the tree.
    :raises IntegrityError: the skeleton is damaged.
    :raises OSError: it cannot be read.
    """
    if record.moved or record.replacements:
        return None
    return _FromSkeleton(source, record).read()


class _UnusualError(Exception):
    """Entries of the layer replace or move each other."""


class _FromSkeleton:
    def __init__(self, source: LayerPaths, record: LayerRecord) -> None:
        self._source = source
        self._record = record
        self.is_unusual = False
        self._found = Contents(os.fsencode(source.diff), opaque=record.opaque)
        self._hidden: set[bytes] = set()
        self._emptied: set[bytes] = set()
        self._waiting: list[HardLink] = []
        if record.squashed:
            status = os.lstat(self._found.root)
            self._found.owner = status.st_uid, status.st_gid

    @property
    def owner(self) -> tuple[int, int] | None:
        """The owner of everything in a squashed layer."""
        return self._found.owner

    def read(self) -> Contents | None:
        """Return the contents, or ``None`` if the tree has to be read."""
        what = str(self._source.skeleton)
        try:
            with open_skeleton(self._source.skeleton, what=what) as reader:
                for _ in self.adding(iter(reader)):
                    if self.is_unusual:
                        return None
                count = reader.count
        except LayerError as error:
            raise IntegrityError(f"damaged skeleton: {error}") from error
        if count != self._record.entries:  # zstd does not report a truncated frame
            raise IntegrityError(
                f"damaged skeleton: {what}: got {count} entries, want {self._record.entries}"
            )
        return self.finish()

    def adding(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Yield entries, and add each to the contents, until one of them is unusual."""
        for entry in entries:
            try:
                self._add(entry)
            except _UnusualError:
                self.is_unusual = True
                yield entry
                yield from entries
                return
            yield entry

    def _add(self, entry: Entry) -> None:
        kind = type(entry)
        if kind is File or kind is Symlink or kind is Special:
            above, _, name = entry.path.rpartition(b"/")
            inside = self._found.directories.get(above)
            if inside is None:
                inside = self._items_in(above)
            if name in inside or not name:
                raise _UnusualError
            inside[name] = entry  # type: ignore[assignment] # a union, told apart by type()
        else:
            self._add_other(entry)

    def _add_other(self, entry: Entry) -> None:
        match entry:
            case Directory():
                self._directory(entry)
            case HardLink():
                self._items_in(entry.path.rpartition(b"/")[0])
                if not self._add_link(entry):
                    self._waiting.append(entry)
            case Whiteout():
                self._hidden.add(entry.path)
            case OpaqueWhiteout():
                self._emptied.add(entry.path)
            case AufsFile():
                pass
            case _:
                raise _UnusualError

    def _items_in(self, path: bytes) -> dict[bytes, Item]:
        made = self._found.make(path)
        if made is None:
            raise _UnusualError
        return made

    def _directory(self, entry: Directory) -> None:
        if not entry.path:
            self._found.top = entry.meta
            return
        above, _, name = entry.path.rpartition(b"/")
        inside = self._items_in(above)
        if name in inside and not isinstance(inside[name], Directory):
            raise _UnusualError
        inside[name] = entry
        self._found.directories.setdefault(entry.path, {})

    def _add_link(self, link: HardLink) -> bool:
        """Add a link if its target exists; a link to itself changes nothing."""
        target = self._found.find(link.target)
        above, _, name = link.path.rpartition(b"/")
        inside = self._found.directories[above]
        if link.path == link.target:
            return True
        if name in inside:
            raise _UnusualError
        if target is None or isinstance(target, Directory):
            return False
        inside[name] = target
        self._found.shared.add(id(target))
        return True

    def finish(self) -> Contents | None:
        """Return the contents after all entries, or ``None`` if the tree has to be read."""
        if self.is_unusual:
            return None
        try:
            self._add_late_links()
        except _UnusualError:
            return None
        for path in self._record.opaque:  # before whiteouts: it needs none beside it
            self._found.make(path)
        for path in sorted(self._hidden):
            if not is_redundant(path, self._hidden, self._emptied):
                self._hide(path)
        return self._found

    def _add_late_links(self) -> None:
        """Add the links whose targets came later."""
        left = PendingLinks(self._waiting)
        left.make(lambda link: None if self._add_link(link) else link.target)
        if {link.path for link in left} != {link.path for link in self._record.deferred_links}:
            raise _UnusualError

    def _hide(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        inside = self._found.make(above)
        if inside is not None and name not in inside:  # else the layer's entry hides it
            inside[name] = Whiteout(path)


class LayerComparison:
    """Compares the tree of a layer with its entries, while another function reads the contents.

    The other function passes all entries through :meth:`entries`, and each file that it has opened
    to :meth:`compare`: fstat(2) needs no lookup of the path.

    :param record: the record of a layer whose entries do not replace or move each other.
    """

    def __init__(self, source: LayerPaths, record: LayerRecord) -> None:
        self._source = source
        self._dialect = record.whiteout_format
        self._want = _FromSkeleton(source, record)
        self._owner = self._want.owner
        self._same: set[int] = set()

    def entries(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Yield entries, and keep them for the comparison."""
        return self._want.adding(entries)

    def compare(self, entry: File, descriptor: int) -> None:
        """Compare the attributes of an open file with its entry.

        A file with other attributes, with xattrs or with several names is compared by its name
        later.
        """
        status, meta = os.fstat(descriptor), entry.meta
        if (
            status.st_mtime_ns == meta[3]
            and status.st_mode == meta[0] | stat.S_IFREG
            and status.st_size == entry.size
            and status.st_nlink == 1
            and (status.st_uid, status.st_gid) == (self._owner or meta[1:3])
            and meta[5] is None
            and _has_no_xattrs(descriptor)
        ):
            self._same.add(id(entry))

    def differences(self) -> Iterator[Difference] | None:
        """Return every difference between the tree and the entries, after all entries.

        :returns: ``None`` if only unpacking the entries gives the tree to compare with.
        """
        want = self._want.finish()
        if want is None:
            return None
        same, directories = self._same, want.directories

        def known(path: bytes) -> dict[bytes, Item]:
            inside = directories.get(path, {})
            return {name: item for name, item in inside.items() if id(item) in same}

        return differences(scan_directory(self._source.diff, self._dialect, {}, known), want)


def _has_no_xattrs(descriptor: int) -> bool:
    try:
        names = os.listxattr(descriptor)
    except OSError:  # no xattr support
        return True
    return not names or names == [ADDED_BY_KERNEL.decode()]
