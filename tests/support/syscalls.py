"""System calls that the standard library lacks, for tests of the FUSE server."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2
FALLOC_FL_ZERO_RANGE: Final = 16
_SYS_GETDENTS64: Final = 217 if os.uname().machine == "x86_64" else 61

Name = str | bytes | os.PathLike[str]
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_libc.futimens.argtypes = (ctypes.c_int, ctypes.c_char_p)
_libc.getxattr.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_libc.getxattr.restype = ctypes.c_ssize_t
_libc.renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)


def _checked(result: int, *names: Name) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *map(os.fsdecode, names[:1]))
    return result


def renameat2(old: Name, new: Name, flags: int) -> None:
    """Rename with RENAME_NOREPLACE or RENAME_EXCHANGE (renameat2(2))."""
    names = os.fsencode(old), os.fsencode(new)
    _checked(_libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], flags), old, new)


def utimensat(
    path: Name | int,
    atime: tuple[int, int],
    mtime: tuple[int, int],
    *,
    follow_symlinks: bool = True,
) -> None:
    """Set times (utimensat(2)).

    :param atime: seconds, and nanoseconds or UTIME_NOW or UTIME_OMIT; ``mtime`` likewise.
    """
    times = struct.pack("4q", *atime, *mtime)
    flags = 0 if follow_symlinks else AT_SYMLINK_NOFOLLOW
    if isinstance(path, int):
        _checked(_libc.futimens(path, times))
    else:
        _checked(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags), path)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Allocate or free the space of a range (fallocate(2))."""
    _checked(_libc.fallocate(descriptor, mode, offset, length))


def getxattr(path: Name, name: str, size: int) -> int:
    """Read an extended attribute into a buffer, and return its size in bytes."""
    buffer = ctypes.create_string_buffer(size) if size else None
    return _checked(_libc.getxattr(os.fsencode(path), name.encode(), buffer, size), path)


@dataclass(frozen=True, slots=True)
class Dirent:
    """A directory entry of getdents64(2).

    :param offset: position of the next entry.
    """

    inode: int
    offset: int
    kind: int
    name: bytes


def getdents(directory: int, size: int = 32768) -> list[Dirent]:
    """Return the next entries of an open directory, with ``.`` and ``..``; none at its end."""
    buffer = ctypes.create_string_buffer(size)
    filled = _checked(_libc.syscall(_SYS_GETDENTS64, directory, buffer, size))
    return list(_parsed(buffer.raw[:filled]))


def _parsed(data: bytes) -> Iterator[Dirent]:
    at = 0
    while at < len(data):
        inode, offset, length, kind = struct.unpack_from("=QqHB", data, at)
        name = data[at + 19 : at + length].split(b"\0", 1)[0]
        yield Dirent(inode, offset, kind, name)
        at += length


def error_of(call: Callable[..., object], *arguments: object) -> int | None:
    """Return the errno of a call; ``None`` if it succeeds."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return None
