"""mkdir(2)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conformance.posix.cases import changing, fails, names
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory
from tests.support.templates import UNPRIVILEGED
from tests.support.unprivileged import acting_as

EVERYTHING = ("file", "hollow", "full", "link", "dirlink", "dangling", "loop", "fifo")


@pytest.mark.parametrize("mode", [0o777, 0o700, 0o1755, 0])
def test_new_directory_is_empty_with_mode_and_umask_applied(
    place: CaseDirectory, mode: int
) -> None:
    os.mkdir(place / "new", mode)
    status = os.lstat(place / "new")
    assert stat.S_ISDIR(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == mode & ~0o022
    assert (status.st_uid, status.st_gid) == (0, 0)
    assert names(place / "new") == set()


@pytest.mark.parametrize("name", EVERYTHING)
def test_mkdir_on_any_existing_name_fails(place: CaseDirectory, name: str) -> None:
    with fails(errno.EEXIST):
        os.mkdir(place / name)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("missing/new", errno.ENOENT),
        ("dangling/new", errno.ENOENT),
        ("file/new", errno.ENOTDIR),
        ("link/new", errno.ENOTDIR),
        ("fifo/new", errno.ENOTDIR),
        ("loop/new", errno.ELOOP),
        ("n" * 256, errno.ENAMETOOLONG),
        ("n/" * 2100 + "n", errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:12],
)
def test_mkdir_below_a_missing_path_fails(place: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        os.mkdir(place / path)


@pytest.mark.parametrize("parent", [".", "full", "hollow", "full/sub", "dirlink"])
def test_mkdir_updates_nlink_and_times_of_the_parent(place: CaseDirectory, parent: str) -> None:
    directory = (place / parent).resolve()
    links = directory.stat().st_nlink
    with changing(directory, times="mtime ctime"):
        os.mkdir(directory / "new")
    if place.deviates(Deviation.DIRECTORIES_HAVE_ONE_LINK):
        assert directory.stat().st_nlink == 1
    elif place.kind != "upper" and Deviation.MERGED_DIRECTORY_HAS_ONE_LINK in (
        place.subject.deviations
    ):
        assert directory.stat().st_nlink in {1, links + 1}
    else:
        assert directory.stat().st_nlink == links + 1
    assert "new" in names(directory)


def test_new_directory_inherits_set_group_id(place: CaseDirectory) -> None:
    os.mkdir(place / "setgid/new")
    status = os.stat(place / "setgid/new")
    assert status.st_mode & stat.S_ISGID
    assert (status.st_uid, status.st_gid) == (0, UNPRIVILEGED)


def test_new_directory_belongs_to_the_caller(place: CaseDirectory) -> None:
    with acting_as(1234, 5678):
        os.mkdir(place / "open/new")
    status = os.stat(place / "open/new")
    assert (status.st_uid, status.st_gid) == (1234, 5678)


@pytest.mark.parametrize("path", ["full/new", "closed/new", "new", "unlisted/new", "setgid/../new"])
def test_unprivileged_user_cannot_mkdir_in_a_read_only_directory(
    place: CaseDirectory, path: str
) -> None:
    with acting_as(), fails(errno.EACCES):
        os.mkdir(place / path)


def test_recreated_directory_is_empty(place: CaseDirectory) -> None:
    os.unlink(place / "full/inner")
    os.unlink(place / "full/sub/deep")
    os.rmdir(place / "full/sub")
    os.rmdir(place / "full")
    os.mkdir(place / "full")
    assert names(place / "full") == set()
    with fails(errno.ENOENT):
        os.stat(place / "full/inner")
    os.mkdir(place / "full/sub")
    assert names(place / "full/sub") == set()


def test_name_of_a_deleted_file_can_become_a_directory(place: CaseDirectory) -> None:
    os.unlink(place / "file")
    os.mkdir(place / "file")
    assert stat.S_ISDIR(os.lstat(place / "link").st_mode) is False
    assert stat.S_ISDIR(os.stat(place / "link").st_mode)


def test_name_may_end_in_slashes_and_have_255_bytes(place: CaseDirectory) -> None:
    os.mkdir(os.fsencode(place.path) + b"/new//")
    os.mkdir(place / ("n" * 255))
    assert {"new", "n" * 255} <= names(place.path)


def test_nested_directories_can_be_made_and_removed(place: CaseDirectory) -> None:
    path = place / "full/sub" / "/".join("abcdefghijklmnopqrstuvwxyz")
    os.makedirs(path)
    (path / "end").write_bytes(b"end")
    assert (path / "end").read_bytes() == b"end"
    os.unlink(path / "end")
    os.removedirs(path)
    assert names(place / "full/sub") == {"deep"}
