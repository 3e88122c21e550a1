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
def test_new_directory_is_empty_with_mode_and_umask_applied(case: CaseDirectory, mode: int) -> None:
    os.mkdir(case / "new", mode)
    status = os.lstat(case / "new")
    assert stat.S_ISDIR(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == mode & ~0o022
    assert (status.st_uid, status.st_gid) == (0, 0)
    assert names(case / "new") == set()


@pytest.mark.parametrize("name", EVERYTHING)
def test_mkdir_on_any_existing_name_fails(case: CaseDirectory, name: str) -> None:
    with fails(errno.EEXIST):
        os.mkdir(case / name)


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
def test_mkdir_below_a_missing_path_fails(case: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        os.mkdir(case / path)


@pytest.mark.parametrize("parent", [".", "full", "hollow", "full/sub", "dirlink"])
def test_mkdir_updates_nlink_and_times_of_the_parent(case: CaseDirectory, parent: str) -> None:
    directory = (case / parent).resolve()
    links = directory.stat().st_nlink
    with changing(directory, times="mtime ctime"):
        os.mkdir(directory / "new")
    if case.deviates(Deviation.DIRECTORIES_HAVE_ONE_LINK):
        assert directory.stat().st_nlink == 1
    elif case.kind != "upper" and Deviation.MERGED_DIRECTORY_HAS_ONE_LINK in (
        case.subject.deviations
    ):
        assert directory.stat().st_nlink in {1, links + 1}
    else:
        assert directory.stat().st_nlink == links + 1
    assert "new" in names(directory)


def test_new_directory_inherits_set_group_id(case: CaseDirectory) -> None:
    os.mkdir(case / "setgid/new")
    status = os.stat(case / "setgid/new")
    assert status.st_mode & stat.S_ISGID
    assert (status.st_uid, status.st_gid) == (0, UNPRIVILEGED)


def test_new_directory_belongs_to_the_caller(case: CaseDirectory) -> None:
    with acting_as(1234, 5678):
        os.mkdir(case / "open/new")
    status = os.stat(case / "open/new")
    assert (status.st_uid, status.st_gid) == (1234, 5678)


@pytest.mark.parametrize("path", ["full/new", "closed/new", "new", "unlisted/new", "setgid/../new"])
def test_unprivileged_user_cannot_mkdir_in_a_read_only_directory(
    case: CaseDirectory, path: str
) -> None:
    with acting_as(), fails(errno.EACCES):
        os.mkdir(case / path)


def test_recreated_directory_is_empty(case: CaseDirectory) -> None:
    os.unlink(case / "full/inner")
    os.unlink(case / "full/sub/deep")
    os.rmdir(case / "full/sub")
    os.rmdir(case / "full")
    os.mkdir(case / "full")
    assert names(case / "full") == set()
    with fails(errno.ENOENT):
        os.stat(case / "full/inner")
    os.mkdir(case / "full/sub")
    assert names(case / "full/sub") == set()


def test_name_of_a_deleted_file_can_become_a_directory(case: CaseDirectory) -> None:
    os.unlink(case / "file")
    os.mkdir(case / "file")
    assert stat.S_ISDIR(os.lstat(case / "link").st_mode) is False
    assert stat.S_ISDIR(os.stat(case / "link").st_mode)


def test_name_may_end_in_slashes_and_have_255_bytes(case: CaseDirectory) -> None:
    os.mkdir(os.fsencode(case.path) + b"/new//")
    os.mkdir(case / ("n" * 255))
    assert {"new", "n" * 255} <= names(case.path)


def test_nested_directories_can_be_made_and_removed(case: CaseDirectory) -> None:
    path = case / "full/sub" / "/".join("abcdefghijklmnopqrstuvwxyz")
    os.makedirs(path)
    (path / "end").write_bytes(b"end")
    assert (path / "end").read_bytes() == b"end"
    os.unlink(path / "end")
    os.removedirs(path)
    assert names(case / "full/sub") == {"deep"}
