"""Read the entries of one directory of a stack.

A layer or a directory comes in; its :class:`Contents` go out, equal whether they come from the
skeleton or from the tree.  The skeleton saves a walk of the tree.  It is not enough if entries of
the layer replaced or moved each other, or if the filesystem could not store all metadata.  This
module must not merge layers.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from stacker.errors import IntegrityError, LayerError
from stacker.layer.paths import LayerPaths
from stacker.layer.pending_links import PendingLinks
from stacker.layer.record import LayerRecord
from stacker.layer.root import IMPLIED
from stacker.layer.skeleton import open_skeleton
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import is_whiteout
from stacker.tar.entry import (
    OPAQUE_NAME,
    AufsFile,
    Directory,
    Entry,
    File,
    HardLink,
    Meta,
    OpaqueWhiteout,
    Special,
    Symlink,
    Whiteout,
    Xattrs,
    is_redundant,
)
from stacker.tree.whiteout_dialects import ForeignDialect, hidden_by, is_reserved, refuse_unread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from stacker.tree.whiteout_dialects import WhiteoutDialect

Item: TypeAlias = Directory | File | Symlink | Special | Whiteout
"""An entry; two names with the same object are hard links of one inode."""

_Listed: TypeAlias = tuple[bytes, os.stat_result]

Inodes: TypeAlias = dict[tuple[int, int], tuple[Item, int]]
"""Items read from disk by device and inode number, with the number of names not yet seen."""


@dataclass(slots=True)
class Contents:
    """The entries of one directory of a stack.

    :param root: the directory on disk.
    :param directories: the items of each directory, by path and name.
    :param top: the attributes of the root.
    :param owner: the owner of everything in a squashed layer.
    :param opaque: the directories that hide lower ones.
    :param shared: the ``id()`` of each item with several names.
    """

    root: bytes
    directories: dict[bytes, dict[bytes, Item]] = field(default_factory=lambda: {b"": {}})
    top: Meta = IMPLIED
    owner: tuple[int, int] | None = None
    opaque: frozenset[bytes] | set[bytes] = frozenset()
    shared: set[int] = field(default_factory=set)

    def find(self, path: bytes) -> Item | None:
        """Return the item at a path; ``None`` for the root."""
        above, _, name = path.rpartition(b"/")
        return self.directories.get(above, {}).get(name)

    def make(self, path: bytes) -> dict[bytes, Item] | None:
        """Return the items in a directory, made if needed; ``None`` if a file is in its place."""
        made, names = path, list[bytes]()
        while made not in self.directories:
            made, _, name = made.rpartition(b"/")
            names.append(name)
        inside = self.directories[made]
        while names:  # a loop, since a tree may be deeper than Python's recursion limit
            if (name := names.pop()) in inside:
                return None
            made = join(made, name)
            inside[name] = Directory(made, IMPLIED)
            inside = self.directories[made] = {}
        return inside


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
        self._found = Contents(os.fsencode(source.diff), opaque=record.opaque)
        self._hidden: set[bytes] = set()
        self._emptied: set[bytes] = set()
        self._waiting: list[HardLink] = []
        if record.squashed:
            status = os.lstat(self._found.root)
            self._found.owner = status.st_uid, status.st_gid

    def read(self) -> Contents | None:
        """Return the contents, or ``None`` if the tree has to be read."""
        what = str(self._source.skeleton)
        try:
            with open_skeleton(self._source.skeleton, what=what) as reader:
                self._add_entries(reader)
                count = reader.count
        except LayerError as error:
            raise IntegrityError(f"damaged skeleton: {error}") from error
        except _UnusualError:
            return None
        if count != self._record.entries:  # zstd does not report a truncated frame
            raise IntegrityError(
                f"damaged skeleton: {what}: got {count} entries, want {self._record.entries}"
            )
        return self._finish()

    def _add_entries(self, entries: Iterable[Entry]) -> None:
        directories = self._found.directories
        for entry in entries:
            kind = type(entry)
            if kind is File or kind is Symlink or kind is Special:
                above, _, name = entry.path.rpartition(b"/")
                inside = directories.get(above)
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

    def _finish(self) -> Contents | None:
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


def scan_directory(source: Path, dialect: WhiteoutDialect, inodes: Inodes) -> Contents:
    """Read a directory of a stack from disk; parameters and errors as for `scan_layer`."""
    root = os.fsencode(source)
    found = Contents(root, opaque=set())
    found.top = _meta(root + b"/", os.lstat(root + b"/"), dialect)
    todo = [b""]
    while todo:
        path = todo.pop()
        location = root + b"/" + path if path else root
        inside = found.directories.setdefault(path, {})
        if path and _mark(location, dialect) == b"y":
            found.opaque |= {path}
        entries = _listed(location)
        if isinstance(dialect, ForeignDialect):
            entries = iter(_without_deletions(found, path, location, entries, dialect))
        for name, status in entries:
            inner = join(path, name)
            inside[name] = item = _item(inner, location + b"/" + name, status, dialect, inodes)
            if isinstance(item, Directory):
                todo.append(inner)
            elif status.st_nlink > 1:
                found.shared.add(id(item))
    return found


def _without_deletions(
    found: Contents,
    path: bytes,
    location: bytes,
    entries: Iterable[_Listed],
    dialect: ForeignDialect,
) -> list[_Listed]:
    """Remove other programs' whiteouts from ``entries``, and record what they hide.

    A directory beside its own whiteout hides lower ones: whiteouts act on lower layers only.
    """
    by_files = _mark(location + b"/", dialect) == b"x"  # the root may be a symbolic link
    kept, hidden = [], set[bytes]()
    for name, status in entries:
        if name == OPAQUE_NAME:
            found.opaque |= {path}
        elif is_reserved(name):
            hidden |= hidden_by(name)
        elif by_files and _is_file_whiteout(location + b"/" + name, status, dialect):
            hidden.add(name)
        else:
            kept.append((name, status))
    found.directories[path].update((name, Whiteout(join(path, name))) for name in hidden)
    found.opaque |= {join(path, name) for name, _ in kept if name in hidden}
    return kept


def _is_file_whiteout(location: bytes, status: os.stat_result, dialect: ForeignDialect) -> bool:
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        return False
    return not set(dialect.whiteout_marks).isdisjoint(_xattr_names(location))


def has_outside_names(inodes: Inodes) -> bool:
    """Return whether a file read from disk has a name outside the directories read."""
    return any(left for _, left in inodes.values())


def _listed(location: bytes) -> Iterator[_Listed]:
    with os.scandir(location) as entries:
        for entry in entries:
            yield entry.name, entry.stat(follow_symlinks=False)


def _item(
    path: bytes,
    location: bytes,
    status: os.stat_result,
    dialect: WhiteoutDialect,
    inodes: Inodes,
) -> Item:
    if stat.S_ISDIR(status.st_mode):
        return Directory(path, _meta(location, status, dialect))
    if is_whiteout(status):
        return Whiteout(path)
    key = status.st_dev, status.st_ino
    known = inodes.get(key)
    if known is not None:
        item, left = known
        inodes[key] = item, left - 1
        return item
    made = _made_item(path, location, status, _meta(location, status, dialect))
    if status.st_nlink > 1:
        inodes[key] = made, status.st_nlink - 1
    return made


def _made_item(path: bytes, location: bytes, status: os.stat_result, meta: Meta) -> Item:
    if stat.S_ISREG(status.st_mode):
        return File(path, meta, status.st_size, status.st_size)
    if stat.S_ISLNK(status.st_mode):
        return Symlink(path, meta, os.readlink(location))
    return Special(path, meta, stat.S_IFMT(status.st_mode), status.st_rdev)


def _meta(location: bytes, status: os.stat_result, dialect: WhiteoutDialect) -> Meta:
    names = _xattr_names(location)
    return Meta(
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_atime_ns,
        _xattrs(location, names, dialect) if names else None,
    )


def _xattrs(location: bytes, names: list[bytes], dialect: WhiteoutDialect) -> Xattrs | None:
    """Return the image's xattrs of a file, without the marks of overlayfs."""
    if isinstance(dialect, ForeignDialect):
        refuse_unread(names, location)
    xattrs = {}
    for listed in names:
        name = dialect.unescape(listed)
        if name is not None:
            xattrs[name] = os.getxattr(location, listed, follow_symlinks=False)
    return xattrs or None


def _mark(location: bytes, dialect: WhiteoutDialect) -> bytes | None:
    """Return the mark of a directory: ``y`` for opaque, ``x`` for file whiteouts."""
    names = _xattr_names(location)
    values = {
        os.getxattr(location, mark, follow_symlinks=False)
        for mark in dialect.opaque_marks
        if mark in names
    }
    return next((value for value in (b"y", b"x") if value in values), None)


def _xattr_names(location: bytes) -> list[bytes]:
    try:
        names = os.listxattr(location, follow_symlinks=False)
    except OSError:  # no xattr support, or no permission
        return []
    return [os.fsencode(name) for name in names] if names else []
