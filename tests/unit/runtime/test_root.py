"""Hostile root filesystems: links out, FIFOs, devices, huge files, links at mount points."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stacker.errors import IntegrityError
from stacker.runtime.root import FILE_LIMIT, Root
from stacker.runtime.user import find_user


def test_a_file_behind_a_symlink_in_the_root_is_read(root: Root, directory: Path) -> None:
    (directory / "nix").mkdir()
    (directory / "etc/passwd").rename(directory / "nix/passwd")
    (directory / "etc/passwd").symlink_to("/nix/passwd")
    assert find_user("app", root).uid == 1000


def test_a_symlink_out_of_the_root_does_not_read_the_hosts_passwd(
    root: Root, directory: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("evil:x:666:666::/:/bin/sh\n")
    (directory / "etc/passwd").unlink()
    for target in ("../../outside", str(outside), "/proc/self/root" + str(outside)):
        (directory / "etc/passwd").symlink_to(target)
        assert root.read("/etc/passwd") is None, target
        (directory / "etc/passwd").unlink()


def test_a_directory_link_out_of_the_root_does_not_read_the_hosts_passwd(
    root: Root, directory: Path
) -> None:
    (directory / "etc").rename(directory / "moved")
    (directory / "etc").symlink_to("/proc/self/cwd")
    assert root.read("/etc/passwd") is None


def test_a_fifo_in_place_of_passwd_is_refused_without_waiting(root: Root, directory: Path) -> None:
    (directory / "etc/passwd").unlink()
    os.mkfifo(directory / "etc/passwd")
    with pytest.raises(IntegrityError, match="got a FIFO, want a regular file"):
        find_user("app", root)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device node")
def test_a_device_in_place_of_passwd_is_refused(root: Root, directory: Path) -> None:
    (directory / "etc/passwd").unlink()
    os.mknod(directory / "etc/passwd", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with pytest.raises(IntegrityError, match="got a device, want a regular file"):
        find_user("app", root)


def test_a_passwd_of_a_gigabyte_is_refused(root: Root, directory: Path) -> None:
    os.truncate(directory / "etc/passwd", 1 << 30)
    with pytest.raises(IntegrityError, match=f"got {1 << 30} bytes, want at most {FILE_LIMIT}"):
        find_user("app", root)


def test_a_loop_of_symlinks_is_refused(root: Root, directory: Path) -> None:
    (directory / "a").symlink_to("b")
    (directory / "b").symlink_to("a")
    for call in (root.read, root.resolve):
        with pytest.raises(IntegrityError, match=r"unsafe root filesystem: ./?a"):
            call("/a")


def test_paths_resolve_inside_the_root(root: Root, directory: Path) -> None:
    (directory / "srv").symlink_to("../../var/./data")
    (directory / "abs").symlink_to("/etc/../srv/x")
    assert root.resolve("/srv/new") == "/var/data/new"
    assert root.resolve("/abs//y/..") == "/var/data/x"
    assert root.resolve("/../..") == "/"


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_a_symlink_at_a_mount_point_is_refused(root: Root, directory: Path, name: str) -> None:
    root.require_mount_points()
    (directory / name).symlink_to("etc")
    with pytest.raises(IntegrityError, match=f"'/{name}' in the image: got a symlink"):
        root.require_mount_points()
