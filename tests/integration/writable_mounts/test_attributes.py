"""Attributes of files in a writable mount."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from stacker.linux import inode_attributes
from tests.support.syscalls import error_of
from tests.support.writable_mounts import LONG_AGO, Stack, as_user

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


NO_DUMP = 0x40
"""FS_NODUMP_FL, which chattr(1) calls ``d``."""


def birth_time(path: Path) -> int | None:
    """Return the birth time that statx(2) reports."""
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return inode_attributes.birth_time(held)
    finally:
        os.close(held)


def file_flags(path: Path) -> int:
    held = os.open(path, os.O_RDONLY)
    try:
        return inode_attributes.file_flags(held)
    finally:
        os.close(held)


def test_statx_reports_the_birth_time(stack: Stack, root: Path) -> None:
    start = time.time_ns() - 1_000_000_000
    (root / "new").touch()
    birth = birth_time(root / "new")
    assert birth is not None
    assert start <= birth <= time.time_ns()
    for name in ("a", "link", "d/e"):
        assert birth_time(root / name) == birth_time(stack.two / name) is not None
        assert (root / name).lstat().st_mtime == LONG_AGO


@pytest.mark.parametrize("name", ["a", "d/e", "d", "new", "copied"])
def test_flags_are_those_of_the_file_on_disk(stack: Stack, fuse_root: Path, name: str) -> None:
    (fuse_root / "new").touch()
    (fuse_root / "copied").write_bytes(b"x")
    on_disk = {"new": stack.upper, "copied": stack.upper, "d": stack.upper}.get(name, stack.two)
    os.chown(fuse_root / "d", 1, 1)
    subprocess.run(["chattr", "+d", on_disk / name], check=True)
    assert file_flags(fuse_root / name) == file_flags(on_disk / name)
    assert file_flags(fuse_root / name) & NO_DUMP


@pytest.mark.parametrize("request_number", [0x80087601, 0x40086602], ids=["version", "set_flags"])
def test_other_ioctl_is_enotty(fuse_root: Path, request_number: int) -> None:
    """Call FS_IOC_GETVERSION and FS_IOC_SETFLAGS."""
    with (fuse_root / "a").open("rb") as file:
        assert error_of(lambda: fcntl.ioctl(file, request_number, bytes(8))) == errno.ENOTTY


def test_changing_attributes_keeps_the_others(root: Path) -> None:
    os.chmod(root / "d/file", 0o4700)
    status = (root / "d/file").stat()
    assert (status.st_uid, status.st_gid, status.st_mtime) == (21, 22, LONG_AGO)
    assert stat.S_IMODE(status.st_mode) == 0o4700
    assert os.getxattr(root / "d/file", "user.kind") == b"\0\xff"
    assert (root / "d").stat().st_mtime == LONG_AGO
    os.chown(root / "d/file", 1, -1)
    status = (root / "d/file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1, 22, 0o700)
    os.chown(root / "link", 3, 4, follow_symlinks=False)
    assert (root / "link").lstat().st_uid == 3
    assert (root / "a").stat().st_uid == 0


def test_utimensat_sets_and_omits_times(root: Path) -> None:
    os.utime(root / "a", ns=(5_000_000_001, 6_000_000_002))
    status = (root / "a").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (5_000_000_001, 6_000_000_002)
    subprocess.run(["touch", "-m", "-d", "@77", root / "a"], check=True)
    status = (root / "a").stat()
    assert (status.st_atime_ns, status.st_mtime) == (5_000_000_001, 77)
    begun = time.time()
    os.utime(root / "a")
    assert (root / "a").stat().st_mtime >= begun - 1


def test_new_entry_updates_the_directorys_mtime(root: Path) -> None:
    assert (root / "d").stat().st_mtime == LONG_AGO
    (root / "d/e/deep").write_bytes(b"changed")  # copied up: nothing changed in d
    assert (root / "d").stat().st_mtime == LONG_AGO
    assert (root / "d/e").stat().st_mtime == LONG_AGO
    (root / "d/new").touch()
    assert (root / "d").stat().st_mtime > LONG_AGO


def test_write_by_another_user_clears_set_id_bits(root: Path) -> None:
    (root / "program").write_bytes(b"x")
    os.chmod(root / "program", 0o6777)
    assert as_user(root, "echo y >> program").returncode == 0
    assert stat.S_IMODE((root / "program").stat().st_mode) == 0o777
    os.chmod(root / "program", 0o6777)
    assert as_user(root, ": > program").returncode == 0
    assert stat.S_IMODE((root / "program").stat().st_mode) == 0o777


def test_write_clears_capabilities(root: Path) -> None:
    (root / "program").write_bytes(b"x")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(root / "program", "security.capability", capability)
    with (root / "program").open("ab") as file:
        file.write(b"y")
    assert "security.capability" not in os.listxattr(root / "program")


def test_xattrs_can_be_set_and_removed(root: Path) -> None:
    path = root / "d/file"
    os.setxattr(path, "user.new", b"1", os.XATTR_CREATE)
    again = lambda: os.setxattr(path, "user.new", b"2", os.XATTR_CREATE)  # noqa: E731
    assert error_of(again) == errno.EEXIST
    os.setxattr(path, "user.new", b"3", os.XATTR_REPLACE)
    assert sorted(os.listxattr(path)) == ["user.kind", "user.new"]
    os.removexattr(path, "user.kind")
    assert error_of(lambda: os.getxattr(path, "user.kind")) == errno.ENODATA
    assert error_of(lambda: os.removexattr(path, "user.none")) == errno.ENODATA
    os.setxattr(root / "d", "trusted.t", b"t")
    assert os.listxattr(root / "d") == ["trusted.t"]


def test_overlay_xattrs_are_ordinary_inside_a_mount(stack: Stack, fuse_root: Path) -> None:
    os.setxattr(fuse_root / "d", "trusted.overlay.opaque", b"y")
    assert os.getxattr(fuse_root / "d", "trusted.overlay.opaque") == b"y"
    assert os.listxattr(fuse_root / "d") == ["trusted.overlay.opaque"]
    assert os.listxattr(stack.upper / "d") == ["trusted.overlay.overlay.opaque"]
    assert "e" in os.listdir(fuse_root / "d")
