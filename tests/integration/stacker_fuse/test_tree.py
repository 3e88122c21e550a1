"""The tree that `stacker-fuse` serves equals those of overlayfs and fuse-overlayfs."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stacker.linux import mountapi, mountinfo
from tests.support.acls import ACCESS, DEFAULT, for_user
from tests.support.snapshot import Node, snapshot
from tests.support.stacker_fuse import (
    StackerFuse,
    joined,
    layers,
    lowerdir,
    owner,
    unmount,
    writing,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


def rest(found: dict[bytes, Node]) -> dict[bytes, Node]:
    """Return a snapshot without the root, whose times and owner differ between programs."""
    return {path: node for path, node in found.items() if path}


@contextmanager
def overlay(workspace: Path, options: str) -> Iterator[Path]:
    """Mount the kernel's overlay of the same directories."""
    mountapi.mount("overlay", workspace / "other", "overlay", 0, options.encode())
    try:
        yield workspace / "other"
    finally:
        mountapi.umount2(workspace / "other")


def mark_for_the_kernel(workspace: Path, namespace: str) -> None:
    """Write every mark of overlayfs, in one xattr namespace."""
    low, up = workspace / "low", workspace / "up"
    for name in ("opaque", "files"):
        (low / name / "inner").mkdir(parents=True)
        (low / name / "old").touch()
        (up / name).mkdir()
        (up / name / "new").touch()
    os.setxattr(up / "opaque", f"{namespace}.overlay.opaque", b"y")
    os.setxattr(up / "files", f"{namespace}.overlay.opaque", b"x")
    for name in ("inner", "old"):
        (up / "files" / name).touch()
        os.setxattr(up / "files" / name, f"{namespace}.overlay.whiteout", b"y")


@pytest.mark.parametrize("namespace", ["trusted", "user"])
def test_tree_equals_that_of_the_kernels_overlay(
    fuse: StackerFuse, workspace: Path, namespace: str
) -> None:
    mark_for_the_kernel(workspace, namespace)
    option = ",userxattr" if namespace == "user" else ""
    fuse(*joined(layers(workspace) + option), workspace / "target")
    found = rest(snapshot(workspace / "target"))
    assert b"files/new" in found
    assert not {b"files/old", b"files/inner", b"opaque/old", b"d/gone"} & set(found)
    with overlay(workspace, layers(workspace) + option) as other:
        wanted = rest(snapshot(other))
    assert found == wanted


@pytest.mark.skipif(not shutil.which("fuse-overlayfs"), reason="no fuse-overlayfs")
@pytest.mark.parametrize("mark", ["", "user.fuseoverlayfs", "user.overlay", "trusted.overlay"])
def test_tree_equals_that_of_fuse_overlayfs(fuse: StackerFuse, workspace: Path, mark: str) -> None:
    low, up = workspace / "low", workspace / "up"
    (low / "emptied/inner").mkdir(parents=True)
    (up / "emptied").mkdir()
    (up / "emptied/new").touch()
    if mark:
        os.setxattr(up / "emptied", f"{mark}.opaque", b"y")
    else:
        (up / "emptied/.wh..wh..opq").touch()
    (up / ".wh.link").touch()
    (up / "d/.wh.e").touch()
    fuse(*joined(layers(workspace)), workspace / "target")
    subprocess.run(["fuse-overlayfs", *joined(layers(workspace)), workspace / "other"], check=True)
    try:
        wanted = rest(snapshot(workspace / "other"))
    finally:
        mountapi.umount2(workspace / "other")
    found = rest(snapshot(workspace / "target"))
    assert b"emptied/new" in found
    assert not {b"link", b"d/e", b"emptied/inner"} & set(found)
    assert found == wanted


def test_kernels_overlay_reads_the_written_upper(fuse: StackerFuse, workspace: Path) -> None:
    mark_for_the_kernel(workspace, "trusted")
    fuse(*joined(writing(workspace)), workspace / "target")
    target = workspace / "target"
    (target / "made/inner").mkdir(parents=True)
    (target / "made/inner/file").write_bytes(b"new")
    (target / "kept").write_bytes(b"changed")
    (target / "link").unlink()
    shutil.rmtree(target / "d")
    (target / "d").mkdir()
    os.chown(target / "files/new", 5, 6)
    found = rest(snapshot(target))
    unmount(fuse, target)
    assert stat.S_ISCHR((workspace / "upper/link").lstat().st_mode)
    assert os.getxattr(workspace / "upper/d", "trusted.overlay.opaque") == b"y"
    assert rest(snapshot(workspace / "low"))[b"kept"].content == b"lower"
    with overlay(workspace, writing(workspace)) as other:
        assert rest(snapshot(other)) == found
    fuse(*joined(writing(workspace)), target)
    assert rest(snapshot(target)) == found


def test_userxattr_selects_the_namespace_of_the_marks(fuse: StackerFuse, workspace: Path) -> None:
    fuse(*joined(writing(workspace), "userxattr", "volatile"), workspace / "target")
    shutil.rmtree(workspace / "target/d")
    (workspace / "target/d").mkdir()
    assert os.listxattr(workspace / "upper/d") == ["user.overlay.opaque"]


def test_ro_mounts_the_upper_read_only(fuse: StackerFuse, workspace: Path) -> None:
    (workspace / "upper/above").touch()
    fuse(*joined(writing(workspace), "ro"), workspace / "target")
    assert "above" in os.listdir(workspace / "target")
    with pytest.raises(OSError) as caught:
        (workspace / "target/new").touch()
    assert caught.value.errno == errno.EROFS


def test_upper_directory_is_locked_by_one_mount(fuse: StackerFuse, workspace: Path) -> None:
    fuse(*joined(writing(workspace)), workspace / "target")
    done = fuse.run(*joined(writing(workspace)), workspace / "other")
    assert (done.code, mountinfo.at(workspace / "other")) == (1, None)
    assert "upper directory is in use" in done.err
    mountapi.umount2(workspace / "target")
    fuse(*joined(writing(workspace)), workspace / "target")  # at once


def test_mount_can_cover_its_lower_directory(fuse: StackerFuse, workspace: Path) -> None:
    low = workspace / "low"
    options = (
        f"{lowerdir(workspace / 'up', low)},upperdir={workspace}/upper,workdir={workspace}/work"
    )
    fuse(*joined(options), low)
    assert (low / "d/e/deep").read_bytes() == b"deep" * 5000
    (low / "kept").write_bytes(b"changed")
    assert (workspace / "upper/kept").read_bytes() == b"changed"


def test_lower_mounts_can_be_unmounted_afterwards(fuse: StackerFuse, workspace: Path) -> None:
    mountapi.mount(workspace / "low", workspace / "other", None, mountapi.MS_BIND)
    fuse(*joined(lowerdir(workspace / "other")), workspace / "target")
    mountapi.umount2(workspace / "other", mountapi.MNT_DETACH)
    assert (workspace / "target/d/e/deep").read_bytes() == b"deep" * 5000


def test_squash_to_root_changes_all_owners(fuse: StackerFuse, workspace: Path) -> None:
    fuse(*joined(layers(workspace), "squash_to_root"), workspace / "target")
    owners = {node.owner for node in snapshot(workspace / "target").values()}
    assert owners == {(0, 0)}


@pytest.mark.parametrize(
    "option", ["noacl", "squash_to_root", "uidmapping=0:1000:1:1:110000:65536"]
)
def test_acls_are_refused_where_their_owners_would_be_wrong(
    fuse: StackerFuse, workspace: Path, option: str
) -> None:
    os.setxattr(workspace / "upper", DEFAULT, for_user(1234, 7))
    fuse(*joined(writing(workspace), option), workspace / "target")
    for name in (ACCESS, DEFAULT):
        with pytest.raises(OSError, match="not supported") as caught:
            os.setxattr(workspace / "target", name, for_user(1234, 7))
        assert caught.value.errno == errno.EOPNOTSUPP
        assert name not in os.listxattr(workspace / "target")
    before = os.umask(0o027)
    try:
        (workspace / "target/new").touch(0o666)
    finally:
        os.umask(before)
    assert stat.S_IMODE((workspace / "upper/new").stat().st_mode) == 0o640
    assert not os.listxattr(workspace / "upper/new")


@pytest.mark.skipif(not shutil.which("fuse-overlayfs"), reason="no fuse-overlayfs")
@pytest.mark.parametrize(
    "option",
    [
        "squash_to_uid=7,squash_to_gid=8",
        "squash_to_root,squash_to_uid=7",
        "uidmapping=0:1000:1:1:110000:65536,gidmapping=0:1000:1:1:110000:65536",
        "uidmapping=11:0:1",
        "squash_to_uid=7,gidmapping=0:500:100",
    ],
)
def test_owners_equal_those_of_fuse_overlayfs(
    fuse: StackerFuse, workspace: Path, option: str
) -> None:
    seen = []
    others = workspace / "upper2", workspace / "work2"
    for directory in others:
        directory.mkdir()
    theirs = f"{layers(workspace)},upperdir={others[0]},workdir={others[1]}"
    fuse(*joined(writing(workspace), option), workspace / "target")
    subprocess.run(["fuse-overlayfs", *joined(theirs, option), workspace / "other"], check=True)
    for target, upper in (
        (workspace / "target", workspace / "upper"),
        (workspace / "other", others[0]),
    ):
        (target / "new").touch()
        (target / "given").touch()
        os.chown(target / "given", 1000, 1000)
        os.chown(target / "kept", 110005, 110006)
        names = ("new", "given", "kept", "d/e/deep")
        seen.append(
            (
                [owner(target / name) for name in names],
                [owner(upper / name) for name in names[:3]],
            )
        )
    mountapi.umount2(workspace / "other")
    assert seen[0] == seen[1]
