"""FIDEDUPERANGE with a fake ioctl: few filesystems can share blocks."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from stacker.errors import UnsupportedError
from stacker.linux.dedupe import require_sharing, share_contents
from stacker.linux.filesystem import is_tmpfs

MIB = 1 << 20


class FakeKernel:
    """Answers each ioctl with the next pair of shared bytes and status, or with an error."""

    def __init__(self, *answers: tuple[int, int], error: int | None = None) -> None:
        self.calls: list[tuple[int, int, bytes]] = []
        self._answers: Sequence[tuple[int, int]] = answers
        self._error = error

    def __call__(self, fd: int, request: int, argument: bytearray) -> int:
        self.calls.append((fd, request, bytes(argument)))
        if self._error is not None:
            raise OSError(self._error, os.strerror(self._error))
        done, status = self._answers[len(self.calls) - 1]
        struct.pack_into("<Qi", argument, 40, done, status)
        return 0


def test_request_has_the_structure_of_the_kernel() -> None:
    kernel = FakeKernel((5000, 0))
    assert share_contents(7, 9, 5000, ioctl=kernel) == 5000
    ((fd, number, argument),) = kernel.calls
    # include/uapi/linux/fs.h: _IOWR(0x94, 54, struct file_dedupe_range), which has 24 bytes
    assert (fd, number) == (7, 3 << 30 | 24 << 16 | 0x94 << 8 | 54)
    head = struct.pack("<QQHHI", 0, 5000, 1, 0, 0)
    assert argument == head + struct.pack("<qQQiI", 9, 0, 0, 0, 0)


def test_long_file_is_shared_in_ranges_from_where_the_kernel_stopped() -> None:
    kernel = FakeKernel((16 * MIB, 0), (MIB, 0), (3 * MIB, 0))
    assert share_contents(7, 9, 20 * MIB, ioctl=kernel) == 20 * MIB
    ranges = [struct.unpack_from("<QQ", argument) for _, _, argument in kernel.calls]
    assert ranges == [(0, 16 * MIB), (16 * MIB, 4 * MIB), (17 * MIB, 3 * MIB)]
    assert [struct.unpack_from("<Q", argument, 32)[0] for _, _, argument in kernel.calls] == [
        start for start, _ in ranges
    ]


def test_files_that_differ_are_not_shared() -> None:
    assert share_contents(7, 9, 5000, ioctl=FakeKernel((0, 1))) == 0
    assert share_contents(7, 9, 20 * MIB, ioctl=FakeKernel((16 * MIB, 0), (0, 1))) == 16 * MIB


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS])
def test_filesystem_without_shared_blocks_is_unsupported(number: int) -> None:
    for kernel in (FakeKernel(error=number), FakeKernel((0, -number))):
        with pytest.raises(UnsupportedError, match="cannot share blocks"):
            share_contents(7, 9, 5000, ioctl=kernel)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.EIO])
def test_other_errors_keep_their_number(number: int) -> None:
    for kernel in (FakeKernel(error=number), FakeKernel((0, -number))):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            share_contents(7, 9, 5000, ioctl=kernel)
        assert caught.value.errno == number


def test_tmpfs_cannot_share_blocks() -> None:
    place = Path("/dev/shm")
    if not place.is_dir() or not is_tmpfs(place):
        pytest.skip("/dev/shm is not a tmpfs")
    directory = place / "stacker-test-dedupe"
    directory.mkdir(exist_ok=True)
    try:
        with pytest.raises(UnsupportedError):
            require_sharing(directory)
    finally:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
