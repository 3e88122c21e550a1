"""rmdir(2)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conformance.posix.cases import changing, fails, names, opened, touch
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory, Mounted
from tests.support.unprivileged import acting_as


def test_rmdir_removes_an_empty_directory(case: CaseDirectory) -> None:
    os.rmdir(case / "hollow")
    with fails(errno.ENOENT):
        os.lstat(case / "hollow")
    assert "hollow" not in names(case.path)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("full", errno.ENOTEMPTY),
        ("full/sub/..", errno.ENOTEMPTY),
        ("file", errno.ENOTDIR),
        ("dirlink", errno.ENOTDIR),
        ("dangling", errno.ENOTDIR),
        ("fifo", errno.ENOTDIR),
        ("missing", errno.ENOENT),
        ("missing/x", errno.ENOENT),
        ("file/x", errno.ENOTDIR),
        ("loop/x", errno.ELOOP),
        ("hollow/.", errno.EINVAL),
        ("n" * 256, errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:12],
)
def test_rmdir_of_anything_else_fails(case: CaseDirectory, path: str, number: int) -> None:
    with fails(number, *([errno.EEXIST] if number == errno.ENOTEMPTY else [])):
        os.rmdir(os.fsencode(case.path) + b"/" + path.encode())
    assert names(case / "full") == {"inner", "sub"}


def test_directory_with_deleted_files_is_empty(case: CaseDirectory) -> None:
    os.unlink(case / "full/sub/deep")
    os.rmdir(case / "full/sub")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(case / "full")
    os.unlink(case / "full/inner")
    os.rmdir(case / "full")
    assert "full" not in names(case.path)


def test_directory_with_moved_files_is_empty(case: CaseDirectory) -> None:
    os.rename(case / "full/sub/deep", case / "deep")
    os.rmdir(case / "full/sub")
    assert names(case / "full") == {"inner"}


def test_rmdir_updates_nlink_and_times_of_the_parent(case: CaseDirectory) -> None:
    links = case.path.stat().st_nlink
    with changing(case.path, times="mtime ctime"):
        os.rmdir(case / "hollow")
    now = case.path.stat().st_nlink
    if case.deviates(Deviation.DIRECTORIES_HAVE_ONE_LINK):
        assert now == 1
    elif Deviation.MERGED_DIRECTORY_HAS_ONE_LINK in case.subject.deviations:
        assert now in {1, links - 1}
    else:
        assert now == links - 1


def test_removed_open_directory_stays_empty(case: CaseDirectory) -> None:
    with opened(case / "hollow", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.rmdir(case / "hollow")
        assert os.listdir(descriptor) == []
        with fails(errno.ENOENT):
            os.mkdir("new", dir_fd=descriptor)
        with fails(errno.ENOENT):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)


@pytest.mark.parametrize("path", ["unprivileged/../hollow", "full/sub", "open/../hollow", "hollow"])
def test_unprivileged_user_cannot_rmdir_in_a_read_only_parent(
    case: CaseDirectory, path: str
) -> None:
    with acting_as(), fails(errno.EACCES, errno.ENOTEMPTY):
        os.rmdir(case / path)
    assert os.path.isdir(case / path)


def test_only_the_owner_removes_in_a_sticky_directory(case: CaseDirectory) -> None:
    with acting_as(), fails(errno.EPERM):
        os.rmdir(case / "sticky/dir")
    os.chown(case / "sticky/dir", 65534, -1)
    with acting_as():
        os.rmdir(case / "sticky/dir")


def test_unprivileged_user_removes_from_a_writable_parent(case: CaseDirectory) -> None:
    with acting_as():
        os.rmdir(case / "open/dir")
    assert names(case / "open") == {"roots"}


@pytest.mark.parametrize("again", ["directory", "file", "symlink"])
def test_removed_name_can_be_created_again(case: CaseDirectory, again: str) -> None:
    os.rmdir(case / "hollow")
    if again == "directory":
        os.mkdir(case / "hollow")
        assert names(case / "hollow") == set()
    elif again == "file":
        touch(case / "hollow")
        assert (case / "hollow").read_bytes() == b""
    else:
        os.symlink("full", case / "hollow")
        assert names(case / "hollow") == {"inner", "sub"}


@pytest.mark.about_mounts
def test_root_of_a_mount_is_busy(mounted: Mounted) -> None:
    with fails(errno.EBUSY):
        os.rmdir(mounted.root)
