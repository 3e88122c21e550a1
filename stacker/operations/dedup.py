"""Let equal files of different layers share storage.

A store and the layers that a pull unpacked come in; the shared bytes go out.  Files are candidates
if their size, mode, owner, time and xattrs are equal, and then their first and last bytes.  The
kernel compares the contents, so this module need not lock anything, and must not trust a checksum.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.linux import xattr
from stacker.linux.dedupe import require_sharing, share_contents
from stacker.linux.opath import open_below
from stacker.linux.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stacker.image.digest import DiffID
    from stacker.store.store import Store

    Key = tuple[int, int, int, int, int]

_SMALLEST: Final = 4096  # bytes: a smaller file takes a block at most
_SAMPLE: Final = 4096  # bytes that are read at each end of a file
_MOST: Final = 4  # files with equal samples but other contents that one file is compared with
_BLOCK: Final = 512  # bytes of a block in st_blocks, whatever the filesystem
_SKIPPED: Final = {
    errno.ENOENT,  # another process removed the layer
    errno.ENOTDIR,
    errno.EPERM,  # the file is immutable
    errno.EACCES,
    errno.EINVAL,  # the filesystem cannot share this file
    errno.ETXTBSY,
}


@dataclass(frozen=True, slots=True)
class Shared:
    """How many files share storage with others, and the bytes that they had on disk before."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    tree: bytes
    path: bytes
    size: int
    allocated: int
    is_new: bool

    @contextmanager
    def opened(self) -> Iterator[int]:
        descriptor = open_below(self.tree, self.path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def share_storage(store: Store, diff_ids: Sequence[DiffID]) -> Shared:
    """Let the files of new layers share storage with equal files of all layers in the store.

    :param diff_ids: the new layers, whose files share storage with no others yet.
    :raises UnsupportedError: the filesystem or the kernel cannot share blocks.
    :raises OSError: an I/O error.  What was shared until then stays shared.
    """
    with store.staging.directory("dedup") as directory:
        require_sharing(directory)
    groups: dict[Key, list[_File]] = {}
    for diff_id in diff_ids:
        for key, file in _files(store.layers.paths(diff_id).diff, is_new=True):
            groups.setdefault(key, []).append(file)
    for diff_id in set(store.layers.all()) - set(diff_ids):
        for key, file in _files(store.layers.paths(diff_id).diff, is_new=False):
            if key in groups:
                groups[key].insert(0, file)
    shared = [file.allocated for group in groups.values() for file in _share(group)]
    return Shared(len(shared), sum(shared))


def _files(tree: Path, *, is_new: bool) -> Iterator[tuple[Key, _File]]:
    """Yield each file of a tree that is large enough, once for all its names."""
    seen: set[int] = set()
    for path, status in walk(tree):
        allocated = status.st_blocks * _BLOCK
        if not stat.S_ISREG(status.st_mode) or min(status.st_size, allocated) < _SMALLEST:
            continue
        if status.st_nlink > 1 and status.st_ino in seen:
            continue
        seen.add(status.st_ino)
        owner = status.st_uid, status.st_gid
        key = (status.st_size, status.st_mode, *owner, status.st_mtime_ns)
        yield key, _File(os.fsencode(tree), path, status.st_size, allocated, is_new)


def _share(group: Sequence[_File]) -> Iterator[_File]:
    """Share the storage of equal files, and yield the new ones that share it now.

    :param group: files with equal attributes, those of older layers first.
    """
    if len(group) < 2:
        return
    kept: dict[object, list[_File]] = {}
    for file in group:
        with _skipping_failures(), file.opened() as other:
            equal = kept.setdefault(_sample(other, file.size), [])
            if file.is_new and any(_is_shared(source, file, other) for source in equal):
                yield file
            elif len(equal) < _MOST:
                equal.append(file)


def _sample(descriptor: int, size: int) -> object:
    ends = os.pread(descriptor, _SAMPLE, 0), os.pread(descriptor, _SAMPLE, max(0, size - _SAMPLE))
    return tuple(map(zlib.crc32, ends)), frozenset(xattr.items(descriptor))


def _is_shared(source: _File, file: _File, other: int) -> bool:
    with _skipping_failures(), source.opened() as descriptor:
        return share_contents(descriptor, other, file.size) == file.size
    return False


@contextmanager
def _skipping_failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _SKIPPED:
            raise
