"""fs-verity: the kernel checks a file's contents at each read.

A descriptor of a regular file, open for reading only, comes in.  The kernel builds a Merkle tree of
the contents, makes them immutable, and compares each page that it reads from disk.  A changed page
reads as EIO.  This module does not use layers.  Source: Documentation/filesystems/fsverity.rst.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import TYPE_CHECKING, Final

from stacker.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    Ioctl = Callable[[int, int, bytearray], object]
    """fcntl.ioctl: a descriptor, a request, and an argument that the kernel may change."""

_IOC_ENABLE_VERITY: Final = 0x40806685  # _IOW('f', 133, struct fsverity_enable_arg)
_IOC_MEASURE_VERITY: Final = 0xC0046686  # _IOWR('f', 134, struct fsverity_digest)
# version, hash_algorithm, block_size, salt_size, salt_ptr, sig_size, reserved, sig_ptr, reserved
_ENABLE: Final = struct.Struct("=IIIIQIIQ88x")
_DIGEST: Final = struct.Struct("=HH32s")  # digest_algorithm, digest_size, digest
_VERSION: Final = 1
_SHA256: Final = 1
_SHA256_SIZE: Final = 32
_BLOCK: Final = 4096  # every kernel with fs-verity has it
_LACKING: Final = {errno.ENOTTY, errno.EOPNOTSUPP}


def enable(fd: int, path: str, *, ioctl: Ioctl = fcntl.ioctl) -> None:
    """Make the contents of a file immutable, and let the kernel check each read.

    A file with fs-verity stays as it is.

    :param path: the name of the file in errors.
    :raises UnsupportedError: the filesystem or the kernel has no fs-verity.
    :raises OSError: another error, such as ETXTBSY if a process has the file open for writing.
    """
    argument = _ENABLE.pack(_VERSION, _SHA256, _BLOCK, 0, 0, 0, 0, 0)
    try:
        ioctl(fd, _IOC_ENABLE_VERITY, bytearray(argument))
    except OSError as error:
        if error.errno in _LACKING:
            raise UnsupportedError(
                f"cannot seal: {path}: got a filesystem or a kernel without fs-verity, want "
                "CONFIG_FS_VERITY, and ext4 or f2fs with the feature `verity`, or btrfs"
            ) from error
        if error.errno != errno.EEXIST:
            raise OSError(error.errno, error.strerror, path) from error


def is_supported(fd: int, *, ioctl: Ioctl = fcntl.ioctl) -> bool:
    """Return whether a file without fs-verity could get it; nothing changes.

    :raises OSError: another error of the ioctl than those that answer the question.
    """
    try:
        ioctl(fd, _IOC_MEASURE_VERITY, bytearray(_DIGEST.pack(0, _SHA256_SIZE, b"")))
    except OSError as error:
        if error.errno not in _LACKING | {errno.ENODATA}:
            raise
        return error.errno == errno.ENODATA
    return True


def measure(fd: int, path: str, *, ioctl: Ioctl = fcntl.ioctl) -> bytes | None:
    """Return the digest that the kernel enforces for a file, without reading its contents.

    :param path: the name of the file in errors.
    :returns: the SHA-256 of the fs-verity descriptor; ``None`` if the file has no fs-verity.
    :raises OSError: another error.
    """
    answer = bytearray(_DIGEST.pack(0, _SHA256_SIZE, b""))
    try:
        ioctl(fd, _IOC_MEASURE_VERITY, answer)
    except OSError as error:
        if error.errno in _LACKING | {errno.ENODATA, errno.EOVERFLOW}:  # EOVERFLOW: SHA-512
            return None
        raise OSError(error.errno, error.strerror, path) from error
    algorithm, size, digest = _DIGEST.unpack(answer)
    return bytes(digest) if (algorithm, size) == (_SHA256, _SHA256_SIZE) else None
