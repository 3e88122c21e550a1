"""Let files with equal contents share storage (ioctl_fideduperange(2)).

Two descriptors come in; the number of shared bytes goes out.  The kernel locks both files, compares
their contents, and shares the blocks only if they are equal, so that a concurrent write does no
harm.  XFS and btrfs can do this.  This module does not choose the files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

from stacker.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ioctl = Callable[[int, int, bytearray], object]
    """fcntl.ioctl: a descriptor, a request, and an argument that the kernel may change."""

_FIDEDUPERANGE: Final = 0xC0189436  # _IOWR(0x94, 54, struct file_dedupe_range)
# src_offset, src_length, dest_count, reserved, reserved;
# dest_fd, dest_offset, bytes_deduped, status, reserved
_RANGE: Final = struct.Struct("=QQHHIqQQiI")
_LONGEST: Final = 16 << 20  # btrfs accepts no longer range at once before Linux 4.18
_DIFFERS: Final = 1
_LACKING: Final = {errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS}


def share_contents(source: int, other: int, size: int, *, ioctl: Ioctl = fcntl.ioctl) -> int:
    """Replace the blocks of a file by those of another with the same contents.

    :param source: descriptor of the file that keeps its blocks, open for reading.
    :param other: descriptor of a file of this user.
    :param size: bytes of each file.
    :returns: the bytes that both share now; less than `size` if the contents differ.
    :raises UnsupportedError: the filesystem or the kernel cannot share blocks.
    :raises OSError: another error, such as EPERM for a file that cannot change.
    """
    offset = 0
    while offset < size:
        length = min(size - offset, _LONGEST)
        argument = bytearray(_RANGE.pack(offset, length, 1, 0, 0, other, offset, 0, 0, 0))
        try:
            ioctl(source, _FIDEDUPERANGE, argument)
        except OSError as error:
            raise _failure(error.errno or errno.EIO) from error
        done, status = _RANGE.unpack(argument)[7:9]
        if status < 0:
            raise _failure(-status)
        if status == _DIFFERS or not done:
            break
        offset += done
    return offset


def _failure(number: int) -> OSError | UnsupportedError:
    if number in _LACKING:
        return UnsupportedError("the filesystem or the kernel cannot share blocks between files")
    return OSError(number, os.strerror(number))


def require_sharing(directory: Path) -> None:
    """Try to share the blocks of two new files in a directory.

    :raises UnsupportedError: the filesystem or the kernel cannot share blocks.
    :raises OSError: the files cannot be written.
    """
    paths = directory / "one", directory / "other"
    for path in paths:
        path.write_bytes(bytes(1 << 16))  # a block of any filesystem
    with paths[0].open("rb") as one, paths[1].open("rb") as other:
        share_contents(one.fileno(), other.fileno(), 1 << 16)
