"""Persistent upper directories: attributes, locking, and cleanup after failures."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stacker.errors import LockedError, MountError, UnsupportedError
from stacker.linux import lock, mountapi, mountinfo
from stacker.mount.attach import attach
from stacker.mount.detach import clear_stale, detach
from stacker.mount.plan import work_beside
from stacker.mount.table import Table
from tests.support.bench import image_of

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.mount.plan import MountRequest, StackedImage
    from tests.support.bench import Bench

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def image(bench: Bench) -> StackedImage:
    if not (bench.store / "layers").exists():
        bench.layer("a", f="a")
    return image_of(bench.store / "layers/a")


def request(bench: Bench, upper: Path | None) -> MountRequest:
    return bench.request(read_only=False, upper=upper)


def mount(
    bench: Bench, upper: Path | None, *, read_only: bool = False, driver: str = "overlay"
) -> None:
    request = bench.request(driver=driver, read_only=read_only, upper=upper)
    attach(bench.table, request, image(bench), forbidden=bench.store)


def siblings(bench: Bench) -> list[str]:
    return sorted(set(os.listdir(bench.path)) - {"store", "target"})


def test_persistent_writes_appear_in_the_next_mount(bench: Bench) -> None:
    upper = bench.path / "changes"
    mount(bench, upper)
    (bench.target / "new").write_text("x")
    (bench.target / "f").unlink()
    detach(bench.table, bench.target)
    assert siblings(bench) == ["changes"]
    mount(bench, upper)
    assert os.listdir(bench.target) == ["new"]


def test_persistent_writes_can_be_mounted_read_only(bench: Bench) -> None:
    upper = bench.path / "changes"
    mount(bench, upper)
    (bench.target / "new").write_text("x")
    detach(bench.table, bench.target)
    mount(bench, upper, read_only=True)
    assert sorted(os.listdir(bench.target)) == ["f", "new"]
    with pytest.raises(OSError, match="Read-only"):
        (bench.target / "newer").write_text("x")


def test_writes_without_upper_are_discarded_at_umount(bench: Bench) -> None:
    mount(bench, None)
    (bench.target / "new").write_text("x")
    assert os.listdir(bench.table.directory) != []
    detach(bench.table, bench.target)
    assert bench.left() == []


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_root_has_the_attributes_of_the_topmost_layer(
    bench: Bench, *, kept: bool, exists: bool
) -> None:
    layer = bench.layer("a", f="a")
    layer.chmod(0o1751)
    os.chown(layer, 7, 8)
    os.setxattr(layer, "user.kind", b"root")
    os.setxattr(layer, "trusted.overlay.opaque", b"y")
    os.utime(layer, (1_000_000_000, 1_000_000_001))
    upper = bench.path / "changes"
    if exists:
        upper.mkdir(mode=0o700)
    mount(bench, upper if kept else None)
    status = bench.target.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o1751, 7, 8)
    assert status.st_mtime == 1_000_000_001
    assert os.getxattr(bench.target, "user.kind") == b"root"
    assert (bench.target / "f").read_text() == "a"  # the opaque mark was not for the upper


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_new_upper_keeps_the_roots_own_xattrs_and_no_mark(
    bench: Bench, driver: str, *, persistent: bool
) -> None:
    if driver == "fuse" and not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    layer = bench.layer("a", f="a")
    os.setxattr(layer, "user.app.overlay.mode", b"fast")
    os.setxattr(layer, "trusted.overlay.overlay.redirect", b"escaped")
    os.setxattr(layer, "trusted.overlay.opaque", b"y")
    mount(bench, bench.path / "changes" if persistent else None, driver=driver)
    assert os.getxattr(bench.target, "user.app.overlay.mode") == b"fast"
    assert os.getxattr(bench.target, "trusted.overlay.redirect") == b"escaped"
    assert "trusted.overlay.opaque" not in os.listxattr(bench.target)
    assert (bench.target / "f").read_text() == "a"


def test_upper_with_files_keeps_its_attributes(bench: Bench) -> None:
    upper = bench.path / "changes"
    upper.mkdir(mode=0o750)
    (upper / "old").write_text("x")
    mount(bench, upper)
    assert bench.target.stat().st_mode & 0o7777 == 0o750


def test_upper_of_a_live_mount_is_refused(bench: Bench) -> None:
    upper, second = bench.path / "changes", bench.path / "second"
    mount(bench, upper)
    second.mkdir()
    other = replace(request(bench, upper), target=second)
    for table in (bench.table, Table(bench.path / "store" / "another")):
        with pytest.raises(LockedError, match=f"by the mount at {bench.target}") as caught:
            attach(table, other, image(bench))
        assert caught.value.hint == f"stacker umount {bench.target}"
    assert mountinfo.at(second) is None
    assert len(os.listdir(bench.table.directory)) == 1
    (bench.target / "still").write_text("works")


def test_upper_in_use_is_refused_through_a_symlink(bench: Bench) -> None:
    upper, second = bench.path / "changes", bench.path / "second"
    mount(bench, upper)
    second.mkdir()
    (bench.path / "link").symlink_to(upper)
    with pytest.raises(LockedError):
        attach(
            bench.table,
            replace(request(bench, bench.path / "link"), target=second),
            image(bench),
        )


def test_locked_upper_is_refused(bench: Bench) -> None:
    upper = bench.path / "changes"
    upper.mkdir()
    with (
        lock.exclusive(upper, create=False),
        pytest.raises(LockedError, match="another process is mounting it"),
    ):
        mount(bench, upper)
    assert bench.left() == []


def test_work_directory_of_a_crash_is_replaced(bench: Bench) -> None:
    upper = bench.path / "changes"
    mount(bench, upper)
    (bench.target / "new").write_text("x")
    mountapi.umount2(bench.target)  # as after a reboot, the record and the work directory stay
    assert siblings(bench) == [".changes.stacker-work", "changes"]
    mount(bench, upper)
    assert sorted(os.listdir(bench.target)) == ["f", "new"]


def test_work_directory_whose_owner_a_power_cut_lost_is_replaced(bench: Bench) -> None:
    upper = bench.path / "changes"
    mount(bench, upper)
    mountapi.umount2(bench.target)
    os.truncate(bench.path / ".changes.stacker-work" / "owner", 0)
    mount(bench, upper)
    assert os.listdir(bench.target) == ["f"]


def test_clearing_a_stale_mount_removes_work_and_keeps_upper(
    bench: Bench,
) -> None:
    upper = bench.path / "changes"
    mount(bench, upper)
    (bench.target / "new").write_text("x")
    mountapi.umount2(bench.target)
    assert [record.upper for record in clear_stale(bench.table)] == [upper]
    assert siblings(bench) == ["changes"]
    assert os.listdir(upper) == ["new"]


def test_clearing_a_stale_mount_keeps_the_next_work_directory(bench: Bench) -> None:
    upper = bench.path / "changes"
    mount(bench, upper)
    mountapi.umount2(bench.target)
    mount(bench, upper)
    assert len(clear_stale(bench.table)) == 1
    (bench.target / "new").write_text("still works")
    detach(bench.table, bench.target)
    assert siblings(bench) == ["changes"]


def test_foreign_work_directory_is_refused_and_kept(bench: Bench) -> None:
    stranger = bench.path / ".changes.stacker-work"
    (stranger / "precious").mkdir(parents=True)
    with pytest.raises(MountError, match="no owner file"):
        mount(bench, bench.path / "changes")
    assert os.listdir(stranger) == ["precious"]
    assert siblings(bench) == [".changes.stacker-work"]
    assert bench.left() == []


def test_upper_that_is_a_mount_point_is_refused(bench: Bench) -> None:
    upper = bench.path / "changes"
    upper.mkdir()
    mountapi.mount("tmpfs", upper, "tmpfs", 0)
    with pytest.raises(MountError, match="is a mount point") as caught:
        mount(bench, upper)
    assert caught.value.hint == "choose a directory inside it"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("target", "is inside the mount target"),
        ("target/below", "is inside the mount target"),
        ("store/below", "is inside the store"),
        (".", "is around the mount target"),
        ("missing/below", "has no parent"),
        ("file", "is not a directory"),
    ],
)
def test_overlapping_or_missing_upper_is_refused(bench: Bench, name: str, reason: str) -> None:
    (bench.path / "file").write_bytes(b"x")
    with pytest.raises(MountError, match=reason):
        mount(bench, bench.path / name)
    assert bench.left() == []
    assert siblings(bench) == ["file"]


def test_upper_on_an_overlay_is_refused_and_unchanged(bench: Bench) -> None:
    mount(bench, None)
    second = bench.path / "second"
    second.mkdir()
    (bench.target / "changes").mkdir(mode=0o701)
    for name in ("changes", "fresh"):
        wanted = replace(request(bench, bench.target / name), target=second)
        with pytest.raises(MountError) as caught:
            attach(bench.table, wanted, image(bench))
        assert "the copy driver does not support --upper" in caught.value.message
        assert caught.value.hint is not None
        assert "must be on a filesystem" in caught.value.hint
    assert sorted(os.listdir(bench.target)) == ["changes", "f"]
    assert (bench.target / "changes").stat().st_mode & 0o777 == 0o701
    assert mountinfo.at(second) is None
    assert len(os.listdir(bench.table.directory)) == 1


def test_refused_copy_with_upper_leaves_no_files(bench: Bench) -> None:
    with pytest.raises(UnsupportedError):
        mount(bench, bench.path / "changes", driver="copy")
    assert siblings(bench) == []
    assert bench.left() == []


def test_existing_upper_of_another_user_is_refused(bench: Bench) -> None:
    upper = bench.path / "changes"
    upper.mkdir()
    os.chown(upper, 12, 34)
    with pytest.raises(MountError, match=r"of another user: .*: got the owner 12, want 0"):
        mount(bench, upper)
    assert siblings(bench) == ["changes"]
    assert upper.stat().st_uid == 12


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o1777])
def test_upper_of_the_owner_of_the_root_is_used_if_only_the_caller_can_have_put_it_there(
    bench: Bench, mode: int
) -> None:
    os.chown(bench.layer("a", f="a"), 12, 34)
    upper = bench.path / "changes"
    mount(bench, upper)
    detach(bench.table, bench.target)
    assert upper.stat().st_uid == 12
    bench.path.chmod(mode)
    if mode == 0o755:
        mount(bench, upper)
    else:
        with pytest.raises(MountError, match="of another user"):
            mount(bench, upper)


def test_work_directory_of_another_user_is_refused(bench: Bench) -> None:
    upper = bench.path / "changes"
    upper.mkdir()
    work = work_beside(upper)
    work.mkdir()
    os.chown(work, 12, 34)
    with pytest.raises(MountError, match="work directory of another user"):
        mount(bench, upper)
    assert work.stat().st_uid == 12
