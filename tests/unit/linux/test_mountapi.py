"""The mount calls, against the running kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stacker.linux import mountapi, mountinfo
from stacker.linux.syscall import syscall

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mountpoint"
    path.mkdir()
    yield path
    while mountinfo.at(path):
        mountapi.umount2(path, mountapi.MNT_DETACH)


@pytest.fixture
def context() -> Iterator[int]:
    descriptor = mountapi.fsopen("tmpfs")
    yield descriptor
    os.close(descriptor)


def test_filesystem_is_configured_created_and_attached(mountpoint: Path, context: int) -> None:
    mountapi.fsconfig_string(context, "source", "some source")
    mountapi.fsconfig_string(context, "size", "64k")
    mountapi.fsconfig_create(context)
    mount = mountapi.fsmount(context, attributes=mountapi.MOUNT_ATTR_RDONLY)
    target = os.open(mountpoint, os.O_PATH)
    mountapi.move_mount(mount, target, path=mountpoint)
    os.close(mount)
    os.close(target)
    found = mountinfo.at(mountpoint)
    assert found is not None
    assert (found.fstype, found.source, found.read_only) == ("tmpfs", "some source", True)
    assert "size=64k" in found.super_options
    mountapi.umount2(mountpoint)
    assert mountinfo.at(mountpoint) is None


def test_error_contains_the_kernels_message(context: int) -> None:
    with pytest.raises(OSError, match=r"tmpfs: Unknown parameter 'colour'") as caught:
        mountapi.fsconfig_string(context, "colour", "blue")
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == "blue"
    with pytest.raises(OSError, match=r"tmpfs: "):
        mountapi.fsconfig_flag(context, "size")


def test_string_limit_is_255_bytes(context: int) -> None:
    mountapi.fsconfig_string(context, "source", "s" * mountapi.FSCONFIG_STRING_LIMIT)
    with pytest.raises(OSError, match="Invalid argument"):
        mountapi.fsconfig_string(context, "source", "s" * (mountapi.FSCONFIG_STRING_LIMIT + 1))


def test_unknown_filesystem_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nosuchfs") as caught:
        mountapi.fsopen("nosuchfs")
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        mountapi.mount("none", tmp_path, "nosuchfs", 0)
    assert caught.value.errno == errno.ENODEV


def test_bind_mount_becomes_read_only(mountpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    tree = mountapi.open_tree(tmp_path / "tree")
    mountapi.mount_setattr(
        tree, set_flags=mountapi.MOUNT_ATTR_RDONLY, propagation=mountapi.MS_PRIVATE
    )
    target = os.open(mountpoint, os.O_PATH)
    mountapi.move_mount(tree, target, path=mountpoint)
    os.close(tree)
    os.close(target)
    assert mountpoint.stat().st_ino == (tmp_path / "tree").stat().st_ino
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "file").write_bytes(b"")


def test_layer_is_passed_as_a_descriptor(tmp_path: Path) -> None:
    context = mountapi.fsopen("overlay")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        mountapi.fsconfig_fd(context, "lowerdir+", directory)
    except OSError as error:
        if error.errno == errno.EINVAL:
            pytest.skip("before Linux 6.13")
        raise
    finally:
        os.close(directory)
        os.close(context)


def test_mount_2_mounts(mountpoint: Path) -> None:
    mountapi.mount("old way", mountpoint, "tmpfs", mountapi.MS_RDONLY, b"size=64k,mode=0711")
    found = mountinfo.at(mountpoint)
    assert found is not None
    assert (found.source, "mode=711" in found.super_options) == ("old way", True)


def test_unmount_does_not_follow_symlinks(mountpoint: Path, tmp_path: Path) -> None:
    mountapi.mount("tmpfs", mountpoint, "tmpfs", 0)
    (tmp_path / "link").symlink_to(mountpoint)
    with pytest.raises(OSError, match="Invalid argument") as caught:
        mountapi.umount2(tmp_path / "link")
    assert caught.value.filename == str(tmp_path / "link")
    assert mountinfo.at(mountpoint) is not None


def test_unknown_system_call_is_an_error_without_a_path() -> None:
    with pytest.raises(OSError, match="Function not implemented") as caught:
        syscall(99_999, 1, b"x", None)
    assert caught.value.filename is None


def test_path_in_an_error_may_be_bytes_or_path() -> None:
    for path in (Path("/nowhere"), b"/nowhere", "/nowhere"):
        with pytest.raises(FileNotFoundError) as caught:
            mountapi.open_tree(path)
        assert os.fsencode(caught.value.filename) == b"/nowhere"
