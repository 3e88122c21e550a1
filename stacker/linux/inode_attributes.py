"""Attributes of inodes that stat(2) lacks: the birth time (statx(2)) and flags (chattr(1)).

A descriptor comes in; a number goes out.  This module must not change a file.
"""

from __future__ import annotations

import fcntl
import struct
from typing import Final

from stacker.linux.syscall import checked, libc

GET_FLAGS: Final = 0x80086601
"""FS_IOC_GETFLAGS on a 64-bit machine, include/uapi/linux/fs.h."""
STATX_BASIC, STATX_BIRTH = 0x7FF, 0x800
_SIZE: Final = 256  # struct statx
_BIRTH_OFFSET: Final = 80
_NO_FOLLOW, _EMPTY_PATH = 0x100, 0x1000
_SECOND: Final = 1_000_000_000


def birth_time(directory: int, name: bytes = b"") -> int | None:
    """Return when a file was made, in nanoseconds; ``None`` if the filesystem does not know it.

    :param directory: a descriptor of the directory, or of the file itself without a `name`.
    :raises OSError: the kernel's error.
    """
    import ctypes

    buffer = ctypes.create_string_buffer(_SIZE)
    flags = _NO_FOLLOW | (0 if name else _EMPTY_PATH)
    checked(libc().statx(directory, name, flags, STATX_BIRTH, buffer), name or None)
    (mask,) = struct.unpack_from("=I", buffer.raw)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer.raw, _BIRTH_OFFSET)
    return int(seconds * _SECOND + nanoseconds) if mask & STATX_BIRTH else None


def file_flags(file: int) -> int:
    """Return the flags of a file or directory, as lsattr(1) shows them.

    :param file: a descriptor, not ``O_PATH``.
    :raises OSError: ``ENOTTY`` if the filesystem has none.
    """
    answer = bytearray(8)
    fcntl.ioctl(file, GET_FLAGS, answer)
    return int(struct.unpack_from("=I", answer)[0])
