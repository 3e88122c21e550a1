"""The merged tree as a plain directory.

In: layers' directories, the topmost first.  Out: a directory with everything a mount of them
would show and none of overlayfs's marks.  File contents are shared where the filesystem can
(reflink), or, within a store, by hard links.  The target may belong to somebody else: all work
in it is relative to descriptors that were opened without following links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.layer.apply import zero_umask
from stacker.layer.metadata import Rename, carry, without_marks
from stacker.layer.whiteout_format import WhiteoutFormat, is_whiteout
from stacker.linux import opath
from stacker.linux.filesystem import copy_range, make_private, reflink
from stacker.stack.lookup import LayerLookup

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEARCH: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def flatten(layers: Sequence[Path], target: Path, whiteout_format: WhiteoutFormat) -> None:
    """Fill the empty directory ``target`` with the merged tree of ``layers``.

    An image's own ``overlay.*`` xattrs get their plain names, as a mount would show them.  What
    the target would hand down to its files (an ACL, a group) it loses.

    :param whiteout_format: how deletions are written in the layers.
    :raises OSError: as the filesystem says, e.g. a full disk.
    """
    _fill(layers, target, whiteout_format, _Manner(rename=whiteout_format.unescape))


def merge_layers(layers: Sequence[Path], target: Path, whiteout_format: WhiteoutFormat) -> None:
    """Make one layer of the lowest layers of a stack; files are shared by hard links."""
    _fill(
        layers, target, whiteout_format, _Manner(rename=without_marks(whiteout_format), link=True)
    )


def copy_layer(layer: Path, target: Path, whiteout_format: WhiteoutFormat) -> None:
    """Copy one layer with its whiteouts and marks, to share no inode with it."""
    _fill([layer], target, whiteout_format, _Manner(rename=lambda name: name, whiteouts=True))


@dataclass(frozen=True, slots=True)
class _Manner:
    """How to copy: xattr names, whether to link files, whether whiteouts are files like others."""

    rename: Rename
    link: bool = False
    whiteouts: bool = False


def _fill(
    layers: Sequence[Path], target: Path, whiteout_format: WhiteoutFormat, manner: _Manner
) -> None:
    with zero_umask(), _opened(target) as fd:
        make_private(fd)  # so that whoever it belonged to exchanges nothing in it meanwhile
        _Flattener(LayerLookup(layers, whiteout_format), manner).fill(fd)


@contextmanager
def _opened(target: Path) -> Iterator[int]:
    fd = os.open(target, _SEARCH)
    try:
        yield fd
    finally:
        os.close(fd)


class _Level(NamedTuple):
    """A directory being filled: its descriptor, what makes it up, what is still to be done."""

    fd: int
    sources: tuple[bytes, ...]
    left: list[tuple[bytes, bytes, os.stat_result]]


class _Flattener:
    def __init__(self, merged: LayerLookup, manner: _Manner) -> None:
        self._merged = merged
        self._manner = manner
        self._inodes: dict[tuple[int, int], bytes] = {}
        self._inside = b""

    def fill(self, root: int) -> None:
        """Walk down and up again with a list, since a tree may be deeper than Python's stack."""
        self._root = root
        sources = self._merged.sources(b"")
        levels = [_Level(os.dup(root), sources, self._listed(sources))]
        try:
            while levels:
                level = levels[-1]
                if level.left:
                    self._make(levels, *level.left.pop())
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

    def _make(
        self, levels: list[_Level], name: bytes, place: bytes, status: os.stat_result
    ) -> None:
        level = levels[-1]
        if not stat.S_ISDIR(status.st_mode):
            self._make_leaf(level.fd, name, place, status)
            return
        os.mkdir(name, 0o700, dir_fd=level.fd)
        fd = os.open(name, _SEARCH, dir_fd=level.fd)
        sources = self._merged.below(level.sources, name)
        levels.append(_Level(fd, sources, self._listed(sources)))
        self._inside = self._inside + b"/" + name

    def _make_leaf(self, parent: int, name: bytes, place: bytes, status: os.stat_result) -> None:
        if self._manner.link:
            os.link(place, name, dst_dir_fd=parent, follow_symlinks=False)
            return
        inode = status.st_dev, status.st_ino
        if status.st_nlink > 1 and (first := self._inodes.get(inode)) is not None:
            os.link(first, name, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
            return
        if stat.S_ISREG(status.st_mode):
            self._copy(parent, name, place, status)
        else:
            self._make_node(parent, name, place, status)
        if status.st_nlink > 1:
            self._inodes[inode] = (self._inside + b"/" + name)[1:]

    def _copy(self, parent: int, name: bytes, place: bytes, status: os.stat_result) -> None:
        target = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            source = opath.open_for_reading(place, 0)
            try:
                if status.st_size and not reflink(source, target):
                    copy_range(source, target, status.st_size)
            finally:
                os.close(source)
            self._carry(place, status, target)
        finally:
            os.close(target)

    def _make_node(self, parent: int, name: bytes, place: bytes, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(place), name, dir_fd=parent)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=parent)
        self._carry(place, status, b"/proc/self/fd/%d/%s" % (parent, name))

    def _carry(self, place: bytes, status: os.stat_result, target: int | bytes) -> None:
        carry(place, status, target, rename=self._manner.rename)

    def _listed(self, sources: Sequence[bytes]) -> list[tuple[bytes, bytes, os.stat_result]]:
        """Give name, place and ``lstat`` of what a directory shows, in the order to be popped."""
        names: dict[bytes, tuple[bytes, os.stat_result]] = {}
        for source in sources:
            with os.scandir(source) as entries:
                for entry in entries:
                    if entry.name not in names:
                        names[entry.name] = entry.path, entry.stat(follow_symlinks=False)
        shown = [
            (name, place, status)
            for name, (place, status) in names.items()
            if self._manner.whiteouts or not is_whiteout(status)
        ]
        return sorted(shown, key=lambda item: item[0], reverse=True)
