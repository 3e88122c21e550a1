"""Read the entries of one directory of a stack from disk.

A directory comes in; its :class:`Contents` go out.  `stacker.tree.skeleton_contents` reads equal
ones from the skeleton of a layer.  This module must not merge layers.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from stacker.layer.root import IMPLIED
from stacker.layer.symlinks import join
from stacker.layer.whiteout_format import is_whiteout
from stacker.tar.entry import (
    OPAQUE_NAME,
    Directory,
    File,
    Meta,
    Special,
    Symlink,
    Whiteout,
    Xattrs,
)
from stacker.tree.whiteout_dialects import ForeignDialect, hidden_by, is_reserved, refuse_unread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
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


def scan_directory(
    source: Path,
    dialect: WhiteoutDialect,
    inodes: Inodes,
    known: Callable[[bytes], Mapping[bytes, Item]] | None = None,
) -> Contents:
    """Read a directory of a stack from disk.

    :param dialect: how deletions are written on disk.
    :param inodes: collects the items read from disk.
    :param known: returns, for the path of a directory, the items by name that were read before.
    :raises OSError: the kernel's error.
    """
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
        entries = _listed(location) if known is None else _unknown(location, inside, known(path))
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


def _unknown(
    location: bytes, inside: dict[bytes, Item], known: Mapping[bytes, Item]
) -> Iterator[_Listed]:
    """Add the known items of a directory to ``inside``, and yield its other names."""
    for name in os.listdir(location):
        item = known.get(name)
        if item is None:
            yield name, os.lstat(location + b"/" + name)
        else:
            inside[name] = item


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
