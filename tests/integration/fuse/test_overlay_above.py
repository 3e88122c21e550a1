"""Writable FUSE mounts: overlayfs takes the writes, above a read-only mount of the server."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import RefusedError
from stacker.fuse.options import FuseOptions
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi, mountinfo
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.plan import Plan
from tests.support.command import Stacker
from tests.support.fuse_mounts import eventually, pulled, servers
from tests.support.indexes import merged_stack
from tests.support.mounts import unmount_below
from tests.support.syscalls import error_of
from tests.support.tars import dir, file, hardlink, symlink, tar, whiteout  # noqa: A004 - the word for it

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts by the driver: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
ABOVE = ("mount", "--driver", "fuse", "--fuse-writer", "overlay")
BIG = os.urandom(3 << 20)
MARKS = {"trusted.overlay.opaque": "y", "user.overlay.opaque": "y", "trusted.overlay.redirect": "/"}
LAYERS = [
    tar(
        dir("etc/", mode=0o750, uid=1, gid=2),
        file("etc/gone", b"old"),
        file("etc/kept", b"kept", xattrs={"user.note": b"1"}),
        file("big", BIG, uid=3, gid=4),
        dir("marked/", xattrs={name: value.encode() for name, value in MARKS.items()}),
        file("marked/file", b"m"),
        symlink("link", "etc/kept"),
    ),
    tar(file("etc/kept", b"changed"), whiteout("etc/gone"), hardlink("more", "big")),
]


@pytest.fixture(params=["tree", "erofs"])
def stacker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stacker]:
    with pulled(tmp_path, LAYERS, request.param) as stacker:
        yield stacker


def served_by(stacker: Stacker) -> list[mountinfo.MountInfo]:
    """Return the mounts of servers below overlays."""
    return [mount for mount in mountinfo.read().below(stacker.store) if "fuse" in mount.fstype]


def test_writes_go_to_overlayfs_and_leave_nothing(stacker: Stacker, target: Path) -> None:
    assert stacker(*ABOVE, "--rw", "app:1.0", target).last == "fuse"
    mount = mountinfo.at(target)
    assert mount is not None
    assert mount.fstype == "overlay"
    assert len(served_by(stacker)) == 1
    (target / "etc/kept").write_bytes(b"written")
    (target / "big").unlink()
    os.rename(target / "etc/kept", target / "etc/moved")
    assert os.listdir(target / "etc") == ["moved"]
    assert (target / "more").read_bytes() == BIG
    (item,) = stacker("mounts", "--json").items
    assert (item["driver"], item["state"], item["read_only"]) == ("fuse", "mounted", False)
    stacker("umount", target)
    assert not servers(target)
    assert served_by(stacker) == []
    assert os.listdir(stacker.store / "mounts") == []


def test_marks_of_overlayfs_in_an_image_are_data(stacker: Stacker, target: Path) -> None:
    stacker(*ABOVE, "--rw", "app:1.0", target)
    assert os.listdir(target / "marked") == ["file"]
    for name, value in MARKS.items():
        assert os.getxattr(target / "marked", name) == value.encode()
    (target / "marked/new").touch()
    assert sorted(os.listdir(target / "marked")) == ["file", "new"]
    assert os.getxattr(target / "marked", "user.overlay.opaque") == b"y"


def test_copied_up_files_keep_their_inode_numbers_in_later_mounts(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    mount = (*ABOVE, "--upper", tmp_path / "upper", "app:1.0", target)
    names = ("etc", "etc/kept", "marked", "marked/file", "link")
    stacker(*mount)
    before = {name: (target / name).lstat().st_ino for name in names}
    for name in names:
        os.chown(target / name, 7, 8, follow_symlinks=False)
    os.rename(target / "marked/file", target / "marked/moved")
    names = ("etc", "etc/kept", "marked", "marked/moved", "link")
    for _ in range(3):
        found = [(target / name).lstat() for name in names]
        assert [status.st_ino for status in found] == list(before.values())
        assert {status.st_uid for status in found} == {7}
        stacker("umount", target)
        stacker(*mount)


def test_deletions_have_the_format_of_overlayfs(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    stacker(*ABOVE, "--upper", tmp_path / "upper", "app:1.0", target)
    (target / "link").unlink()
    (target / "marked/file").unlink()
    (target / "marked").rmdir()
    (target / "marked").mkdir()
    stacker("umount", target)
    whiteout = (tmp_path / "upper/link").lstat()
    assert (stat.S_IFMT(whiteout.st_mode), whiteout.st_rdev) == (stat.S_IFCHR, 0)
    assert os.getxattr(tmp_path / "upper/marked", "trusted.overlay.opaque") == b"y"
    words = ("--driver", "fuse", "--fuse-writer", "server", "--upper", tmp_path / "upper")
    stacker("mount", *words, "app:1.0", target)
    assert sorted(os.listdir(target)) == ["big", "etc", "marked", "more"]
    assert os.listdir(target / "marked") == []


def test_mount_without_a_server_is_found_and_replaced(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    mount = (*ABOVE, "--upper", tmp_path / "upper", "app:1.0", target)
    stacker(*mount)
    (target / "new").write_bytes(b"written")
    for pid in servers(target):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not servers(target))
    assert error_of((target / "big").read_bytes) == errno.ENOTCONN
    assert [item["target"] for item in stacker("mounts", "--json").document["cleared"]] == [
        str(target)
    ]
    assert mountinfo.at(target) is None
    assert served_by(stacker) == []
    stacker(*mount)
    assert (target / "new").read_bytes() == b"written"
    assert (target / "big").read_bytes() == BIG


def test_umount_of_another_program_is_cleared_by_gc(stacker: Stacker, target: Path) -> None:
    stacker(*ABOVE, "--rw", "app:1.0", target)
    mountapi.umount2(target)
    stacker("gc")
    eventually(lambda: not servers(target))
    assert served_by(stacker) == []
    assert os.listdir(stacker.store / "mounts") == []


def test_sigterm_unmounts_the_overlay_too(stacker: Stacker, target: Path) -> None:
    stacker(*ABOVE, "--rw", "app:1.0", target)
    os.kill(servers(target)[0], signal.SIGTERM)
    eventually(lambda: not servers(target))
    assert mountinfo.at(target) is None
    assert served_by(stacker) == []
    assert stacker("mounts", "--json").items == []
    assert os.listdir(stacker.store / "mounts") == []


@pytest.fixture
def plan(tmp_path: Path, target: Path) -> Iterator[Plan]:
    stack = merged_stack(LAYERS, tmp_path, WhiteoutFormat.TRUSTED)
    upper, work, served = (tmp_path / name for name in ("upper", "work", "served"))
    upper.mkdir()
    work.mkdir()
    plan = Plan("above", target, (tmp_path,), stack.whiteout_format, merged=stack.merged)
    yield replace(plan, read_only=False, upper=upper, work=work, served=served)
    unmount_below(tmp_path)


def refuse(driver: OverlayDriver, plan: Plan) -> Mounted:
    del driver
    raise RefusedError(f"cannot mount an overlay: {plan.target}: Operation not permitted")


def test_server_handles_writes_where_the_kernel_refuses_an_overlay(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OverlayDriver, "mount", refuse)
    mounted = FuseDriver().mount(plan)
    assert mounted.note is not None
    assert "the server handles writes: cannot mount an overlay" in mounted.note
    assert mounted.served is None
    mount = mountinfo.at(plan.target)
    assert mount is not None
    assert mount.fstype == "fuse.stacker"
    (plan.target / "etc/kept").write_bytes(b"written")
    assert not (plan.target.parent / "served").exists()


def test_refused_overlay_is_an_error_if_it_was_requested(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OverlayDriver, "mount", refuse)
    with pytest.raises(RefusedError, match="cannot mount an overlay"):
        FuseDriver().mount(replace(plan, fuse=FuseOptions(writer="overlay")))
    assert mountinfo.at(plan.target) is None
    assert not (plan.target.parent / "served").exists()
