"""Replies to STATX and IOCTL: the birth time and the flags of an inode.

Values of a tree come in; the bodies of replies go out.  The layouts are those of struct
fuse_statx_out and fuse_ioctl_out (include/uapi/linux/fuse.h).
"""

from __future__ import annotations

import errno
import os
from struct import Struct
from typing import TYPE_CHECKING, Final

from stacker.fuse import protocol as fuse
from stacker.fuse.dispatch import HEADER
from stacker.fuse.replies import BLOCK
from stacker.linux.inode_attributes import GET_FLAGS, STATX_BASIC, STATX_BIRTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.tree.protocol import Status

_SECOND: Final = 1_000_000_000
# struct fuse_ioctl_in: fh, flags, cmd, arg, in_size, out_size
_IOCTL_IN: Final = Struct("=QIIQII")
# struct fuse_ioctl_out: result, flags, in_iovs, out_iovs; the flags of the inode follow
_IOCTL_OUT: Final = Struct("=iIIII")
# struct fuse_statx_out: attr_valid, attr_valid_nsec, flags, spare
_STATX_HEAD: Final = Struct("=QII16x")
# struct fuse_statx: mask, blksize, attributes, nlink, uid, gid, mode, spare, ino, size, blocks,
# attributes_mask; times; major and minor numbers of rdev and dev; spare
_STATX: Final = Struct("=IIQIIIHxxQQQQ")
_TIME: Final = Struct("=qI4x")
_DEVICES: Final = Struct("=IIII112x")


def statx_reply(number: int, status: Status, birth: int | None) -> bytes:
    """Return the body of a reply to STATX, which the kernel may cache forever.

    :param number: the inode number.
    :param birth: when the file was made, in nanoseconds.
    """
    mask = STATX_BASIC | (0 if birth is None else STATX_BIRTH)
    times = (status.atime, birth or 0, status.ctime, status.mtime)
    return b"".join(
        (
            _STATX_HEAD.pack(fuse.FOREVER, 0, 0),
            _STATX.pack(
                *(mask, BLOCK, 0, status.nlink, status.uid, status.gid, status.mode),
                *(number, status.size, status.blocks, 0),
            ),
            *(_TIME.pack(*divmod(time, _SECOND)) for time in times),
            _DEVICES.pack(os.major(status.device), os.minor(status.device), 0, 0),
        )
    )


def ioctl_reply(request: bytes, flags: Callable[[], int]) -> bytes:
    """Return the body of a reply to IOCTL, of which only FS_IOC_GETFLAGS is supported.

    :param flags: returns the flags of the inode.
    :raises OSError: ``ENOTTY``, or the error of `flags`.
    """
    _, _, command, _, _, size = _IOCTL_IN.unpack_from(request, HEADER)
    if command != GET_FLAGS or size < 4:  # the kernel passes an int, whatever the number says
        raise OSError(errno.ENOTTY, "not supported")
    return _IOCTL_OUT.pack(0, 0, 0, 0, flags()) + bytes(size - 4)
