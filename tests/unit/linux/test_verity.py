"""fs-verity with a fake ioctl: few machines have a kernel and a filesystem with it."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from stacker.errors import UnsupportedError
from stacker.linux import verity


class FakeKernel:
    """Answers the ioctls for one descriptor; fails with ``error`` if it is given."""

    def __init__(self, error: int | None = None, answer: bytes = b"") -> None:
        self.calls: list[tuple[int, int, bytes]] = []
        self._error = error
        self._answer = answer

    def __call__(self, fd: int, request: int, argument: bytearray) -> int:
        self.calls.append((fd, request, bytes(argument)))
        if self._error is not None:
            raise OSError(self._error, os.strerror(self._error))
        argument[: len(self._answer)] = self._answer
        return 0


def request(direction: int, number: int, size: int) -> int:
    """Return an ioctl number as _IOC of include/uapi/asm-generic/ioctl.h computes it."""
    return direction << 30 | size << 16 | ord("f") << 8 | number


def test_enable_passes_the_structure_of_the_kernel() -> None:
    kernel = FakeKernel()
    verity.enable(7, "a", ioctl=kernel)
    ((fd, number, argument),) = kernel.calls
    assert (fd, number) == (7, request(1, 133, 128))
    # version 1, SHA-256, blocks of 4096 bytes, and neither a salt nor a signature
    assert argument == struct.pack("<III", 1, 1, 4096).ljust(128, b"\0")


def test_enable_accepts_a_file_that_has_fs_verity() -> None:
    verity.enable(7, "a", ioctl=FakeKernel(errno.EEXIST))


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EOPNOTSUPP])
def test_enable_names_the_feature_that_is_missing(number: int) -> None:
    with pytest.raises(UnsupportedError) as caught:
        verity.enable(7, "/layers/a", ioctl=FakeKernel(number))
    assert caught.value.message == (
        "cannot seal: /layers/a: got a filesystem or a kernel without fs-verity, want "
        "CONFIG_FS_VERITY, and ext4 or f2fs with the feature `verity`, or btrfs"
    )


@pytest.mark.parametrize("number", [errno.ETXTBSY, errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_enable_reports_other_errors_with_the_path(number: int) -> None:
    with pytest.raises(OSError, match="/layers/a") as caught:
        verity.enable(7, "/layers/a", ioctl=FakeKernel(number))
    assert (caught.value.errno, caught.value.filename) == (number, "/layers/a")


def test_measure_returns_the_digest_that_the_kernel_enforces() -> None:
    digest = bytes(range(32))
    kernel = FakeKernel(answer=struct.pack("<HH", 1, 32) + digest)
    assert verity.measure(7, "a", ioctl=kernel) == digest
    ((fd, number, argument),) = kernel.calls
    assert (fd, number) == (7, request(3, 134, 4))
    assert argument == struct.pack("<HH", 0, 32) + bytes(32)


@pytest.mark.parametrize("number", [errno.ENODATA, errno.ENOTTY, errno.EOPNOTSUPP, errno.EOVERFLOW])
def test_measure_returns_none_for_a_file_without_fs_verity(number: int) -> None:
    assert verity.measure(7, "a", ioctl=FakeKernel(number)) is None


def test_measure_returns_none_for_another_hash() -> None:
    assert verity.measure(7, "a", ioctl=FakeKernel(answer=struct.pack("<HH", 2, 32))) is None


def test_measure_reports_other_errors_with_the_path() -> None:
    with pytest.raises(OSError, match="/layers/a"):
        verity.measure(7, "/layers/a", ioctl=FakeKernel(errno.EIO))


def test_kernel_without_fs_verity_refuses_with_the_same_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"contents")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        verity.enable(fd, "file")
    except UnsupportedError:
        assert verity.measure(fd, "file") is None
    else:
        assert len(verity.measure(fd, "file") or b"") == 32
    finally:
        os.close(fd)
