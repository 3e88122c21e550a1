"""Loop devices: a file as a block device.

An open file comes in; the path of a read-only block device goes out.  The kernel removes the
device when nothing uses it any more.  This module does not mount.  Sources: loop(4),
``include/uapi/linux/loop.h``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTROL: Final = "/dev/loop-control"
_GET_FREE: Final = 0x4C82
_CONFIGURE: Final = 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
# struct loop_config: fd, block_size, struct loop_info64, reserved.  Of loop_info64 only lo_flags,
# after 5 numbers of 8 bytes, lo_number and two numbers of the old encryption, is not zero.
_CONFIG: Final = struct.Struct("=II40x4x4x4xI176x64x")
_ATTEMPTS: Final = 64


@contextmanager
def loop_device(file: int) -> Iterator[Path]:
    """Attach a file to a free loop device during the block, or as long as the device is mounted.

    :param file: a descriptor; it may be closed after the call.
    :raises OSError: no device is free, or the caller lacks privileges.
    """
    device, path = _attached(file)
    try:
        yield path
    finally:
        os.close(device)  # with LO_FLAGS_AUTOCLEAR, the last user detaches the file


def _attached(file: int) -> tuple[int, Path]:
    config = _CONFIG.pack(file, 0, _READ_ONLY | _AUTOCLEAR)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # another process was faster
                    raise OSError(error.errno, error.strerror, path) from error
            else:
                return device, Path(path)
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), _CONTROL)


def backing_inode(device: str) -> tuple[int, int] | None:
    """Return the device and inode number of the file of a loop device, which a rename keeps.

    :param device: a path such as ``/dev/loop0``.
    :returns: ``None`` if it is no such device, or has no file, or the file was removed.
    """
    name = device.removeprefix("/dev/")
    if not name.startswith("loop"):
        return None
    try:
        text = Path(f"/sys/block/{name}/loop/backing_file").read_bytes()
        status = os.stat(text.removesuffix(b"\n"))
    except OSError:
        return None
    return status.st_dev, status.st_ino
