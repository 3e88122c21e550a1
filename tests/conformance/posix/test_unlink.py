"""unlink(2)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conformance.posix.cases import changing, fails, names, opened, touch
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory
from tests.support.templates import DATA
from tests.support.unprivileged import acting_as


@pytest.mark.parametrize(
    "name", ["file", "link", "dirlink", "dangling", "loop", "fifo", "linked-a", "setid"]
)
def test_unlinked_name_does_not_exist(case: CaseDirectory, name: str) -> None:
    before = names(case.path)
    os.unlink(case / name)
    with fails(errno.ENOENT):
        os.lstat(case / name)
    assert names(case.path) == before - {name}
    with fails(errno.ENOENT):
        os.unlink(case / name)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("full", errno.EISDIR),
        ("hollow", errno.EISDIR),
        ("missing", errno.ENOENT),
        ("missing/x", errno.ENOENT),
        ("file/x", errno.ENOTDIR),
        ("file/", errno.ENOTDIR),
        ("loop/x", errno.ELOOP),
        ("n" * 256, errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:12],
)
def test_unlink_of_a_directory_or_missing_name_fails(
    case: CaseDirectory, path: str, number: int
) -> None:
    with fails(number):
        os.unlink(os.fsencode(case.path) + b"/" + path.encode())


def test_unlinked_open_file_lives_until_it_is_closed(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDWR) as descriptor:
        os.unlink(case / "file")
        assert os.fstat(descriptor).st_nlink == 0
        assert os.pread(descriptor, len(DATA) + 1, 0) == DATA
        os.pwrite(descriptor, b"more", len(DATA))
        os.ftruncate(descriptor, len(DATA) + 2)
        os.fchmod(descriptor, 0o640)
        assert os.fstat(descriptor).st_mode & 0o777 == 0o640
        assert os.pread(descriptor, 10, len(DATA)) == b"mo"
    assert "file" not in names(case.path)


def test_unlinked_file_is_read_to_its_end(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDONLY) as descriptor:
        assert os.read(descriptor, 100) == DATA[:100]
        os.unlink(case / "file")
        assert os.read(descriptor, len(DATA)) == DATA[100:]
        assert os.fstat(descriptor).st_size == len(DATA)


def test_recreated_file_has_another_inode(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDWR) as old:
        os.unlink(case / "file")
        (case / "file").write_bytes(b"new")
        assert os.pread(old, 4, 0) == DATA[:4]
        os.pwrite(old, b"old", 0)
        assert (case / "file").read_bytes() == b"new"


def test_unlink_updates_times_of_the_parent(case: CaseDirectory) -> None:
    with changing(case / "full", times="mtime ctime"):
        os.unlink(case / "full/inner")


def test_unlink_of_one_link_decrements_nlink_of_the_other(case: CaseDirectory) -> None:
    assert os.stat(case / "linked-b").st_nlink == 2
    if case.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a"):
        os.unlink(case / "linked-a")
    else:
        with changing(case / "linked-b", times="ctime"):
            os.unlink(case / "linked-a")
        assert os.stat(case / "linked-b").st_nlink == 1
    assert (case / "linked-b").read_bytes() == b"linked"


def test_unlink_of_a_symlink_keeps_its_target(case: CaseDirectory) -> None:
    os.unlink(case / "link")
    os.unlink(case / "dirlink")
    assert (case / "file").read_bytes() == DATA
    assert names(case / "full") == {"inner", "sub"}


@pytest.mark.parametrize("path", ["full/inner", "mine", "unprivileged/../mine", "closed/inside"])
def test_unprivileged_user_cannot_unlink_in_a_read_only_directory(
    case: CaseDirectory, path: str
) -> None:
    with acting_as(), fails(errno.EACCES):
        os.unlink(case / path)
    assert os.path.lexists(case / path)


def test_writable_directory_allows_unlinking_others_files(case: CaseDirectory) -> None:
    with acting_as():
        os.unlink(case / "open/roots")
        os.unlink(case / "unprivileged/roots")
    assert names(case / "unprivileged") == set()


def test_only_the_owner_unlinks_in_a_sticky_directory(case: CaseDirectory) -> None:
    with acting_as():
        with fails(errno.EPERM):
            os.unlink(case / "sticky/roots")
        os.unlink(case / "sticky/mine")
    assert names(case / "sticky") == {"roots", "dir"}


def test_name_can_be_created_and_unlinked_repeatedly(case: CaseDirectory) -> None:
    for _ in range(10):
        os.unlink(case / "file")
        assert "file" not in names(case.path)
        touch(case / "file")
        assert os.stat(case / "file").st_size == 0
    assert "file" in names(case.path)
