"""Write a merged tree as a plain directory.

The directories of a stack come in, topmost first.  A directory goes out with everything that a
mount would expose, and without overlayfs's marks.  File contents are shared by reflinks where the
filesystem supports them, or by hard links within a store.  Another user may own the target, so
this module opens everything in it relative to a descriptor, and must not follow symbolic links.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.layer.metadata import Rename, copy_attributes, without_marks
from stacker.layer.whiteout_format import WhiteoutFormat, is_whiteout
from stacker.linux import opath
from stacker.linux.filesystem import copy_range, make_private, reflink
from stacker.linux.process import usable_new_files
from stacker.stack.lookup import LayerLookup

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEARCH: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def flatten(layers: Sequence[Path], target: Path | int, whiteout_format: WhiteoutFormat) -> None:
    """Fill the empty directory ``target`` with the merged tree of ``layers``.

    An image's own ``overlay.*`` xattrs get their plain names, as in a mount.  The target loses its
    default ACL and its set-group-ID bit, which new files would inherit.

    :param layers: the topmost first.
    :param target: a path, or a descriptor, which stays open.
    :param whiteout_format: how deletions are written in the layers.
    :raises OSError: the kernel's error, e.g. a full disk.
    """
    _fill(layers, target, whiteout_format, _CopyOptions(rename=whiteout_format.unescape))


def merge_layers(layers: Sequence[Path], target: Path, whiteout_format: WhiteoutFormat) -> None:
    """Merge the lowest layers of a stack into one; files are shared by hard links."""
    _fill(
        layers,
        target,
        whiteout_format,
        _CopyOptions(rename=without_marks(whiteout_format), link=True),
    )


def copy_layer(layer: Path, target: Path, whiteout_format: WhiteoutFormat) -> None:
    """Copy a layer with its whiteouts and marks; the copy shares no inode with it."""
    _fill([layer], target, whiteout_format, _CopyOptions(rename=lambda name: name, whiteouts=True))


@dataclass(frozen=True, slots=True)
class _CopyOptions:
    """What to copy.

    :param rename: maps xattr names.
    :param link: hard link files instead of copying them.
    :param whiteouts: copy whiteouts like other files.
    """

    rename: Rename
    link: bool = False
    whiteouts: bool = False


def _fill(
    layers: Sequence[Path],
    target: Path | int,
    whiteout_format: WhiteoutFormat,
    options: _CopyOptions,
) -> None:
    with usable_new_files(), _opened(target) as fd:
        make_private(fd)  # so that its owner cannot exchange files in it
        _Flattener(LayerLookup(layers, whiteout_format), options).fill(fd)


@contextmanager
def _opened(target: Path | int) -> Iterator[int]:
    at = (b".", target) if isinstance(target, int) else (target, None)
    fd = os.open(at[0], _SEARCH, dir_fd=at[1])
    try:
        yield fd
    finally:
        os.close(fd)


class _Listed(NamedTuple):
    """An entry to copy: its topmost path and ``lstat``, and the directories that have the name."""

    name: bytes
    path: bytes
    status: os.stat_result
    holders: list[bytes]


class _Level(NamedTuple):
    """A directory being filled: its descriptor, its directories on disk, the entries to copy."""

    fd: int
    sources: tuple[bytes, ...]
    left: list[_Listed]


class _Flattener:
    def __init__(self, merged: LayerLookup, options: _CopyOptions) -> None:
        self._merged = merged
        self._options = options
        self._inodes: dict[tuple[int, int], bytes] = {}
        self._inside = b""

    def fill(self, root: int) -> None:
        """Walk the tree with an explicit stack: it may be deeper than Python's recursion limit."""
        self._root = root
        sources = self._merged.sources(b"")
        levels = [_Level(os.dup(root), sources, self._listed(sources))]
        try:
            while levels:
                level = levels[-1]
                if level.left:
                    self._make(levels, level.left.pop())
                else:
                    self._leave(levels.pop())
        finally:
            for level in levels:
                os.close(level.fd)

    def _leave(self, level: _Level) -> None:
        try:
            self._carry(level.sources[0], os.lstat(level.sources[0]), level.fd)
        finally:
            os.close(level.fd)
        self._inside = self._inside.rpartition(b"/")[0]

    def _make(self, levels: list[_Level], entry: _Listed) -> None:
        level, (name, path, status, holders) = levels[-1], entry
        if not stat.S_ISDIR(status.st_mode):
            self._make_leaf(level.fd, name, path, status)
            return
        os.mkdir(name, 0o700, dir_fd=level.fd)
        fd = os.open(name, _SEARCH, dir_fd=level.fd)
        sources = self._merged.below(holders, name)
        levels.append(_Level(fd, sources, self._listed(sources)))
        self._inside = self._inside + b"/" + name

    def _make_leaf(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> None:
        if self._options.link and _linked(path, name, parent):
            return
        inode = status.st_dev, status.st_ino
        if status.st_nlink > 1 and (first := self._inodes.get(inode)) is not None:
            os.link(first, name, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
            return
        copy_leaf(path, status, parent, name, rename=self._options.rename)
        if status.st_nlink > 1:
            self._inodes[inode] = (self._inside + b"/" + name)[1:]

    def _carry(self, path: bytes, status: os.stat_result, target: int | bytes) -> None:
        copy_attributes(path, status, target, rename=self._options.rename)

    def _listed(self, sources: Sequence[bytes]) -> list[_Listed]:
        """Return the entries of a directory, in the order to pop them."""
        listed: dict[bytes, _Listed] = {}
        for source in sources:
            with os.scandir(source) as entries:
                for entry in entries:
                    name = entry.name
                    if known := listed.get(name):
                        known.holders.append(source)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    listed[name] = _Listed(name, entry.path, status, [source])
        visible = [
            entry
            for entry in listed.values()
            if self._options.whiteouts or not is_whiteout(entry.status)
        ]
        return sorted(visible, key=lambda entry: entry.name, reverse=True)


def copy_leaf(
    path: bytes, status: os.stat_result, parent: int, name: bytes, *, rename: Rename
) -> None:
    """Copy a file, a symlink, a device or a fifo with its attributes.

    :param status: the ``lstat`` of ``path``.
    :param parent: descriptor of the directory that the copy is made in.
    :param rename: maps xattr names.
    """
    if stat.S_ISREG(status.st_mode):
        target = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            _copy_contents(path, status.st_size, target)
            copy_attributes(path, status, target, rename=rename)
        finally:
            os.close(target)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(path), name, dir_fd=parent)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=parent)
    copy_attributes(path, status, b"/proc/self/fd/%d/%s" % (parent, name), rename=rename)


def _copy_contents(path: bytes, size: int, target: int) -> None:
    source = opath.open_for_reading(path, 0)
    try:
        if size and not reflink(source, target):
            copy_range(source, target, size)
    finally:
        os.close(source)


def _linked(path: bytes, name: bytes, parent: int) -> bool:
    """Make a hard link; return False if the file is on another filesystem."""
    try:
        os.link(path, name, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True
