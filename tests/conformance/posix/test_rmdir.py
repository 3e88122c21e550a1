"""rmdir(2)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conformance.posix.cases import changing, fails, names, opened, touch
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory, Mounted
from tests.support.unprivileged import acting_as


def test_rmdir_removes_an_empty_directory(place: CaseDirectory) -> None:
    os.rmdir(place / "hollow")
    with fails(errno.ENOENT):
        os.lstat(place / "hollow")
    assert "hollow" not in names(place.path)


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
def test_rmdir_of_anything_else_fails(place: CaseDirectory, path: str, number: int) -> None:
    with fails(number, *([errno.EEXIST] if number == errno.ENOTEMPTY else [])):
        os.rmdir(os.fsencode(place.path) + b"/" + path.encode())
    assert names(place / "full") == {"inner", "sub"}


def test_directory_with_deleted_files_is_empty(place: CaseDirectory) -> None:
    os.unlink(place / "full/sub/deep")
    os.rmdir(place / "full/sub")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(place / "full")
    os.unlink(place / "full/inner")
    os.rmdir(place / "full")
    assert "full" not in names(place.path)


def test_directory_with_moved_files_is_empty(place: CaseDirectory) -> None:
    os.rename(place / "full/sub/deep", place / "deep")
    os.rmdir(place / "full/sub")
    assert names(place / "full") == {"inner"}


def test_rmdir_updates_nlink_and_times_of_the_parent(place: CaseDirectory) -> None:
    links = place.path.stat().st_nlink
    with changing(place.path, times="mtime ctime"):
        os.rmdir(place / "hollow")
    now = place.path.stat().st_nlink
    if place.deviates(Deviation.DIRECTORIES_HAVE_ONE_LINK):
        assert now == 1
    elif Deviation.MERGED_DIRECTORY_HAS_ONE_LINK in place.subject.deviations:
        assert now in {1, links - 1}
    else:
        assert now == links - 1


def test_removed_open_directory_stays_empty(place: CaseDirectory) -> None:
    with opened(place / "hollow", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.rmdir(place / "hollow")
        assert os.listdir(descriptor) == []
        with fails(errno.ENOENT):
            os.mkdir("new", dir_fd=descriptor)
        with fails(errno.ENOENT):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)


@pytest.mark.parametrize("path", ["unprivileged/../hollow", "full/sub", "open/../hollow", "hollow"])
def test_unprivileged_user_cannot_rmdir_in_a_read_only_parent(
    place: CaseDirectory, path: str
) -> None:
    with acting_as(), fails(errno.EACCES, errno.ENOTEMPTY):
        os.rmdir(place / path)
    assert os.path.isdir(place / path)


def test_only_the_owner_removes_in_a_sticky_directory(place: CaseDirectory) -> None:
    with acting_as(), fails(errno.EPERM):
        os.rmdir(place / "sticky/dir")
    os.chown(place / "sticky/dir", 65534, -1)
    with acting_as():
        os.rmdir(place / "sticky/dir")


def test_unprivileged_user_removes_from_a_writable_parent(place: CaseDirectory) -> None:
    with acting_as():
        os.rmdir(place / "open/dir")
    assert names(place / "open") == {"roots"}


@pytest.mark.parametrize("again", ["directory", "file", "symlink"])
def test_removed_name_can_be_created_again(place: CaseDirectory, again: str) -> None:
    os.rmdir(place / "hollow")
    if again == "directory":
        os.mkdir(place / "hollow")
        assert names(place / "hollow") == set()
    elif again == "file":
        touch(place / "hollow")
        assert (place / "hollow").read_bytes() == b""
    else:
        os.symlink("full", place / "hollow")
        assert names(place / "hollow") == {"inner", "sub"}


@pytest.mark.about_mounts
def test_root_of_a_mount_is_busy(mounted: Mounted) -> None:
    with fails(errno.EBUSY):
        os.rmdir(mounted.root)
