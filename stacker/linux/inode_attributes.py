"""What stat(2) does not report about a file: birth time, flags, file handle, filesystem UUID.

A descriptor comes in; a number or bytes go out.  The module calls statx(2), name_to_handle_at(2)
and ioctls.  It opens no file by its handle, which needs CAP_DAC_READ_SEARCH, and changes no file.
"""

from __future__ import annotations

import fcntl
import struct
from typing import Final, NamedTuple

from stacker.linux.syscall import checked, libc

GET_FLAGS: Final = 0x80086601
"""FS_IOC_GETFLAGS on a 64-bit machine, include/uapi/linux/fs.h."""
STATX_BASIC, STATX_BIRTH = 0x7FF, 0x800
_SIZE: Final = 256  # struct statx
_BIRTH_OFFSET: Final = 80
_NO_FOLLOW, _EMPTY_PATH = 0x100, 0x1000
_SECOND: Final = 1_000_000_000
UUID_SIZE: Final = 16
NO_UUID: Final = bytes(UUID_SIZE)
"""The UUID of a filesystem that has none."""
_MAX_HANDLE: Final = 128  # MAX_HANDLE_SZ
_HEAD: Final = struct.Struct("=Ii")  # struct file_handle: handle_bytes, handle_type
_GET_UUID: Final = 0x80111500  # FS_IOC_GETFSUUID, include/uapi/linux/fs.h
# enum fid_type, include/linux/exportfs.h
INO32_GEN, INO32_GEN_PARENT, BTRFS_WITHOUT_PARENT = 1, 2, 0x4D
INO64_GEN, INO64_GEN_PARENT = 0x81, 0x82
_SHORT: Final = {(INO32_GEN, 8), (INO32_GEN_PARENT, 16)}
"""Types and sizes of handles that begin with a number of 32 bits."""
_LONG: Final = {INO64_GEN, INO64_GEN_PARENT, BTRFS_WITHOUT_PARENT}
"""Types of handles that begin with a number of 64 bits."""


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


class FileHandle(NamedTuple):
    """A file handle: its type, a number of `enum fid_type`, and its bytes."""

    kind: int
    data: bytes

    @property
    def inode_number(self) -> int | None:
        """The inode number in a handle of ext4, XFS, btrfs or tmpfs; ``None`` for other types."""
        kind, size = self.kind, len(self.data)
        if kind == INO32_GEN and size == 12:  # shmem_encode_fh: generation, halves of the number
            _, low, high = struct.unpack("=III", self.data)
            return int(low | high << 32)
        if (kind, size) in _SHORT:
            return int(struct.unpack_from("=I", self.data)[0])
        if kind in _LONG and size >= struct.calcsize("=QI"):
            return int(struct.unpack_from("=Q", self.data)[0])
        return None


def handle_of(name: bytes, directory: int) -> FileHandle:
    """Return the handle of a name in a directory; a symlink is not followed.

    :param directory: a descriptor of the directory.
    :raises OSError: ``EOPNOTSUPP`` if the filesystem has no handles; otherwise the kernel's error.
    """
    import ctypes

    buffer = ctypes.create_string_buffer(_HEAD.pack(_MAX_HANDLE, 0), _HEAD.size + _MAX_HANDLE)
    mount = ctypes.c_int()
    checked(libc().name_to_handle_at(directory, name, buffer, ctypes.byref(mount), 0), name)
    size, kind = _HEAD.unpack_from(buffer.raw)
    return FileHandle(kind, buffer.raw[_HEAD.size : _HEAD.size + size])


def filesystem_uuid(file: int) -> bytes:
    """Return the UUID of a filesystem; `NO_UUID` before Linux 6.9, or if the filesystem has none.

    :param file: a descriptor of any of its files, not ``O_PATH``.
    """
    answer = bytearray(1 + UUID_SIZE)  # struct fsuuid2: len, uuid
    try:
        fcntl.ioctl(file, _GET_UUID, answer)
    except OSError:
        return NO_UUID
    return bytes(answer[1:]) if answer[0] == UUID_SIZE else NO_UUID
