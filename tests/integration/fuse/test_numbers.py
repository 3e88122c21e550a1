"""Inode numbers of FUSE mounts: the same in every mount, and before and after a copy-up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.tree.numbers import read_origin
from tests.support.command import Stacker
from tests.support.fuse_mounts import pulled
from tests.support.snapshot import inode_numbers
from tests.support.tars import dir, file, hardlink, symlink, tar  # noqa: A004 - the word for it

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts by the driver: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
LAYERS = [
    tar(
        dir("etc/"),
        dir("etc/deep/"),
        file("etc/deep/file", b"1"),
        file("etc/moved", b"2"),
        file("one", b"3"),
        hardlink("two", "one"),
        symlink("link", "one"),
    ),
    tar(dir("etc/"), file("etc/upper", b"4"), file("etc/kept", b"5")),
]
FORMS = ("tree", "erofs")
BY_SERVER = ("mount", "--driver", "fuse", "--fuse-writer", "server")


@pytest.fixture(params=FORMS)
def stacker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stacker]:
    with pulled(tmp_path, LAYERS, request.param) as stacker:
        yield stacker


def numbers(target: Path) -> dict[str, int]:
    """Return the inode number of each path, which must be the one that readdir(3) returns."""
    found, alone = {".": target.stat().st_ino}, list[int]()
    for above, _, _ in os.walk(target):
        for entry in os.scandir(above):
            name = os.path.relpath(entry.path, target)
            status = entry.stat(follow_symlinks=False)
            found[name] = status.st_ino
            alone += [status.st_ino] if status.st_nlink == 1 else []
            assert entry.inode() == found[name], name
    assert found["one"] == found["two"]
    assert len(set(alone)) == len(alone)  # only links share a number
    return found


def change_everything(target: Path) -> None:
    """Copy up each file and directory, by a change that keeps its name."""
    for above, directories, files in os.walk(target):
        for name in (*directories, *files):
            os.chown(Path(above, name), 7, 8, follow_symlinks=False)
    os.utime(target, (1, 1))


def test_inode_numbers_are_equal_in_all_mounts(stacker: Stacker, target: Path) -> None:
    seen = []
    for options in ((), (), ("--rw",)):
        stacker(*BY_SERVER, *options, "app:1.0", target)
        seen.append(numbers(target))
        stacker("umount", target)
    assert seen[0] == seen[1] == seen[2]


def test_inode_numbers_survive_copy_up_and_later_mounts(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    mount = (*BY_SERVER, "--upper", tmp_path / "upper", "app:1.0", target)
    stacker(*mount)
    before = numbers(target)
    change_everything(target)
    (target / "new").mkdir()
    (target / "new/file").touch()
    assert {name: numbers(target)[name] for name in before} == before
    with_new = numbers(target)
    stacker("umount", target)
    for _ in range(2):
        stacker(*mount)
        assert numbers(target) == with_new
        stacker("umount", target)


def test_inode_number_of_a_moved_copy_survives_a_new_mount(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    mount = (*BY_SERVER, "--upper", tmp_path / "upper", "app:1.0", target)
    stacker(*mount)
    number = (target / "etc/moved").stat().st_ino
    (target / "new").mkdir()
    (target / "etc/moved").rename(target / "new/name")
    os.link(target / "one", target / "new/link")
    (target / "etc/moved").write_bytes(b"another file")
    before = numbers(target)
    assert before["new/name"] == number != before["etc/moved"]
    assert before["new/link"] == before["one"]
    stacker("umount", target)
    stacker(*mount)
    assert inode_numbers(target) == {name: number for name, number in before.items() if name != "."}


@pytest.mark.parametrize("stacker", ["tree"], indirect=True)
def test_overlayfs_has_the_same_inode_numbers_before_and_after(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    upper = ("--upper", tmp_path / "upper", "app:1.0", target)
    stacker(*BY_SERVER, *upper)
    files = ("etc/deep/file", "etc/upper", "etc/kept", "link", "new/name")
    number = (target / "etc/moved").stat().st_ino
    change_everything(target)
    (target / "new").mkdir()
    (target / "etc/moved").rename(target / "new/name")
    before = numbers(target)
    stacker("umount", target)
    stacker("mount", "--driver", "overlay", *upper)
    assert {name: (target / name).lstat().st_ino for name in files} == {
        name: before[name] for name in files
    }
    assert {entry.name: entry.inode() for entry in os.scandir(target / "new")} == {"name": number}
    (target / "etc/deep/file").write_bytes(b"by the kernel")
    stacker("umount", target)
    stacker(*BY_SERVER, *upper)
    assert numbers(target) == before


def test_overlayfs_mounts_an_upper_directory_with_origins(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    upper = ("--upper", tmp_path / "upper", "app:1.0", target)
    stacker(*BY_SERVER, *upper)
    change_everything(target)
    stacker("umount", target)
    origin = os.getxattr(tmp_path / "upper/etc/kept", "trusted.overlay.origin")
    assert read_origin(origin) is not None
    stacker("mount", "--driver", "overlay", *upper)
    assert (target / "etc/kept").read_bytes() == b"5"
    assert (target / "etc/kept").stat().st_uid == 7
    (target / "etc/kept").write_bytes(b"by the kernel")
    stacker("umount", target)
    stacker(*BY_SERVER, *upper)
    assert (target / "etc/kept").read_bytes() == b"by the kernel"


def test_copy_of_the_kernel_keeps_its_inode_number(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    """Mount an upper directory that overlayfs wrote."""
    if stacker("mount", "--driver", "overlay", "app:1.0", target).code:
        pytest.skip("the kernel mounts no such layer")
    stacker("umount", target)
    stacker("mount", "--driver", "fuse", "app:1.0", target)
    before = numbers(target)
    stacker("umount", target)
    upper = ("--upper", tmp_path / "upper", "app:1.0", target)
    stacker("mount", "--driver", "overlay", *upper)
    (target / "etc/kept").write_bytes(b"by the kernel")
    stacker("umount", target)
    stacker(*BY_SERVER, *upper)
    assert (target / "etc/kept").stat().st_ino == before["etc/kept"]
