"""Reflinks, sparse copies, atomic writes and filesystem types."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stacker.linux import filesystem
from stacker.linux.mountinfo import mount_number
from tests.torture.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.fixture
def two_files(tmp_path: Path) -> Iterator[tuple[int, int]]:
    flags = os.O_RDWR | os.O_CREAT
    source = os.open(tmp_path / "source", flags)
    destination = os.open(tmp_path / "destination", flags)
    yield source, destination
    os.close(source)
    os.close(destination)


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def test_file_that_the_kernel_cannot_reach_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert filesystem.file_identity(tmp_path / "loop") is not None
    assert filesystem.file_identity(tmp_path / "missing") is None
    with pytest.raises(OSError, match="symbolic links"):
        filesystem.file_identity(tmp_path / "loop" / "file")


def test_copy_has_the_content_of_the_source(two_files: tuple[int, int]) -> None:
    source, destination = two_files
    data = os.urandom(3 * MIB + 17)
    os.write(source, data)
    filesystem.copy_range(source, destination, len(data))
    assert content(destination) == data


def test_copy_stops_at_the_given_size(two_files: tuple[int, int]) -> None:
    source, destination = two_files
    os.write(source, b"0123456789")
    filesystem.copy_range(source, destination, 4)
    assert content(destination) == b"0123"


def test_copy_keeps_holes(two_files: tuple[int, int]) -> None:
    source, destination = two_files
    os.truncate(source, 64 * MIB)
    os.pwrite(source, b"middle", 32 * MIB)
    filesystem.copy_range(source, destination, 64 * MIB)
    status = os.fstat(destination)
    assert status.st_size == 64 * MIB
    assert status.st_blocks * 512 <= MIB
    assert os.pread(destination, 6, 32 * MIB) == b"middle"


def test_empty_and_sparse_files_are_copied(two_files: tuple[int, int]) -> None:
    source, destination = two_files
    filesystem.copy_range(source, destination, 0)
    assert os.fstat(destination).st_size == 0
    os.truncate(source, MIB)
    filesystem.copy_range(source, destination, MIB)
    assert content(destination) == bytes(MIB)


@pytest.mark.parametrize("hole", [False, True])
def test_short_source_is_an_error(two_files: tuple[int, int], *, hole: bool) -> None:
    source, destination = two_files
    os.truncate(source, 5) if hole else os.write(source, b"short")
    with pytest.raises(OSError, match="the file ends"):
        filesystem.copy_range(source, destination, 10_000_000)


def test_pseudo_file_is_copied_by_read(two_files: tuple[int, int]) -> None:
    _, destination = two_files
    source = os.open("/proc/self/status", os.O_RDONLY)
    try:
        filesystem.copy_range(source, destination, 5)
    finally:
        os.close(source)
    assert content(destination) == b"Name:"


def test_copy_between_filesystems(two_files: tuple[int, int]) -> None:
    source, _ = two_files
    os.write(source, b"across")
    destination = os.memfd_create("destination")  # another filesystem
    try:
        filesystem.copy_range(source, destination, 6)
        assert content(destination) == b"across"
        assert not filesystem.reflink(source, destination)
    finally:
        os.close(destination)


@needs_root
def test_reflink_shares_blocks_or_returns_false(tmp_path: Path) -> None:
    image, disk = tmp_path / "image", tmp_path / "xfs"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(320 * MIB)
    made = subprocess.run(
        ["mkfs.xfs", "-q", "-m", "reflink=1", image], check=False, capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("no mkfs.xfs that makes small filesystems")
    if subprocess.run(["mount", "-o", "loop", image, disk], check=False).returncode != 0:
        pytest.skip("no loop device, or no xfs in this kernel")
    try:
        (disk / "source").write_bytes(os.urandom(8 * MIB))
        with (disk / "source").open("rb") as source, (disk / "clone").open("wb") as clone:
            assert filesystem.reflink(source.fileno(), clone.fileno())
        assert (disk / "clone").read_bytes() == (disk / "source").read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_reflink_of_a_closed_descriptor_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        descriptor = os.open("/dev/null", os.O_RDONLY)
        os.close(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            filesystem.reflink(descriptor, file.fileno())


def test_filesystem_type_of_a_path_and_a_descriptor(tmp_path: Path) -> None:
    proc_magic = 0x9FA0
    assert filesystem.filesystem_type(Path("/proc")) == proc_magic
    memory = os.memfd_create("memory")
    try:
        assert filesystem.is_tmpfs(memory)
        assert not filesystem.is_overlay(memory)
    finally:
        os.close(memory)
    assert not filesystem.is_overlay(Path("/proc"))
    with pytest.raises(FileNotFoundError) as caught:
        filesystem.filesystem_type(tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")


def test_syncfs_flushes_a_filesystem(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    filesystem.syncfs(descriptor)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        filesystem.syncfs(descriptor)


def test_atomic_write_syncs_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "list", []
    path.write_bytes(b"old")

    def syncing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_file():
            seen.append((path.read_bytes(), content_of(descriptor)))

    monkeypatch.setattr(os, "fsync", syncing)
    filesystem.write_atomically(path, b"not waited for")
    assert seen == []
    filesystem.write_atomically(path, b"new", durable=True)
    assert seen == [(b"not waited for", b"new")]
    assert path.read_bytes() == b"new"


def content_of(descriptor: int) -> bytes:
    return Path(f"/proc/self/fd/{descriptor}").read_bytes()


@needs_root
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="mkfs.ext4 is not installed")
@pytest.mark.usefixtures("alone_among_mounts")
def test_mount_number_changes_with_each_mount_of_a_filesystem(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "image", tmp_path / "disk", "ext4")
    disk.format()
    numbers = []
    try:
        for _ in range(3):
            disk.mount()
            numbers.append(mount_number(disk.path))
            assert mount_number(disk.path) == numbers[-1]
            disk.unmount()
    finally:
        disk.remove()
    assert None not in numbers
    assert len(set(numbers)) == 3


def test_tmpfs_has_no_mount_number() -> None:
    assert mount_number(Path("/dev/shm")) is None
