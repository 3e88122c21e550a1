"""Filesystems and what they do beyond POSIX: their type, clones and holes.

In come paths and descriptors; errors are `OSError` with the path.  Knows no layer and no store.
Sources: statfs(2), ioctl_ficlone(2), copy_file_range(2), lseek(2), syncfs(2).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from stacker.linux import xattr
from stacker.linux.removal import remove_contents, remove_tree
from stacker.linux.syscall import checked, libc

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "copy_range",
    "is_overlay",
    "is_tmpfs",
    "magic",
    "make_neutral",
    "reflink",
    "remove_contents",
    "remove_tree",
    "sync_filesystem",
    "syncfs",
    "write_stream",
    "write_whole",
]

OVERLAY_MAGIC = 0x794C7630  # include/uapi/linux/magic.h, as are the next
TMPFS_MAGIC = 0x01021994
_FICLONE = 0x40049409
_CHUNK = 1 << 20
# What copy_file_range says when this pair of files is not for it; other errors are real ones.
_NOT_FOR_THESE = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ETXTBSY,
    errno.EPERM,
}
_NO_CLONE = _NOT_FOR_THESE | {errno.ENOTTY, errno.EISDIR}


def magic(target: int | Path) -> int:
    """Return the magic number of the filesystem that a descriptor or path lies on.

    :raises OSError: when it cannot be asked.
    """
    import ctypes

    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes and begins with f_type
    if isinstance(target, int):
        checked(libc().fstatfs(target, buffer))
    else:
        checked(libc().statfs(os.fsencode(target), buffer), target)
    # Some magics have the top bit set, and f_type is signed.
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def is_overlay(target: int | Path) -> bool:
    """Whether a descriptor or path lies on an overlayfs.

    :raises OSError: when it cannot be asked.
    """
    return magic(target) == OVERLAY_MAGIC


def is_tmpfs(target: int | Path) -> bool:
    """Whether a descriptor or path lies on a tmpfs.

    :raises OSError: when it cannot be asked.
    """
    return magic(target) == TMPFS_MAGIC


def write_whole(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file so that it is there whole or, if that fails, as it was before.

    :param sync: hold that through a power cut, too: the content is on disk before the name.
    :raises OSError: when it cannot be written, with its path.
    """
    try:
        write_stream(path, (content,), sync=sync)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_stream(path: Path, chunks: Iterable[bytes], *, sync: bool = False) -> None:
    """Write a file in pieces that has its name when it is whole, and not before.

    :param sync: have it on disk before that.
    :raises OSError: it cannot be written; what else `chunks` raises comes through.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.writelines(chunks)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def syncfs(descriptor: int) -> None:
    """Write the whole filesystem that a descriptor lies on to its disk.

    :raises OSError: when something could not be written.
    """
    checked(libc().syncfs(descriptor))


def sync_filesystem(directory: Path) -> None:
    """Write everything to disk that is dirty in the filesystem a directory lies on.

    :raises OSError: when that fails.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def reflink(source: int, destination: int) -> bool:
    """Let a file share all blocks of another; ``False`` where the filesystem cannot.

    :raises OSError: when it can, and something else is wrong (a full disk, an I/O error).
    """
    import fcntl

    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def make_neutral(directory: int | bytes) -> None:
    """Make a directory ours alone, and undo what the one above handed down.

    It would be handed on to every file: a default ACL takes the place of the umask and changes
    modes, a set-group-ID bit changes groups (acl(5), inode(7)).

    :param directory: a descriptor (not ``O_PATH``), or a path.
    :raises OSError: as the kernel refuses it.
    """
    xattr.remove(directory, b"system.posix_acl_default")
    xattr.remove(directory, b"system.posix_acl_access")
    status, ours = os.stat(directory), (os.geteuid(), os.getegid())
    if (status.st_uid, status.st_gid) != ours:
        os.chown(directory, *ours)
    os.chmod(directory, 0o700)


def copy_range(source: int, destination: int, size: int) -> None:
    """Copy a file's first bytes to the same offsets of an empty file, keeping holes as holes.

    :param size: bytes; the destination is this long afterwards.
    :raises OSError: ENODATA when the source ends before `size`; otherwise as the kernel says.
    """
    os.ftruncate(destination, size)
    offset = 0
    while offset < size:
        start, end = _next_data(source, offset, size)
        _copy_data(source, destination, start, end)
        offset = end


def _next_data(source: int, offset: int, size: int) -> tuple[int, int]:
    """Return the next stretch of data; empty and at `size` when only a hole is left."""
    try:
        start = os.lseek(source, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            if os.fstat(source).st_size < size:
                raise OSError(errno.ENODATA, f"the file ends before byte {size}") from None
            return size, size
        if error.errno == errno.EINVAL:  # a filesystem that does not tell holes from data
            return offset, size
        raise
    return min(start, size), min(os.lseek(source, start, os.SEEK_HOLE), size)


def _copy_data(source: int, destination: int, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(source, destination, end - start, start, start)
        except OSError as error:
            if error.errno not in _NOT_FOR_THESE:
                raise
            _copy_by_reading(source, destination, start, end)
            return
        if not count:  # pseudo filesystems answer 0 for files that can be read (Linux 5.3 to 5.18)
            _copy_by_reading(source, destination, start, end)
            return
        start += count


def _copy_by_reading(source: int, destination: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(source, min(_CHUNK, end - start), start)
        if not data:
            raise OSError(errno.ENODATA, f"the file ends at byte {start}, want {end}")
        start += os.pwrite(destination, data, start)
