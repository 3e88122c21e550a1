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
def test_unlinked_name_stays_away(place: CaseDirectory, name: str) -> None:
    before = names(place.path)
    os.unlink(place / name)
    with fails(errno.ENOENT):
        os.lstat(place / name)
    assert names(place.path) == before - {name}
    with fails(errno.ENOENT):
        os.unlink(place / name)


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
    place: CaseDirectory, path: str, number: int
) -> None:
    with fails(number):
        os.unlink(os.fsencode(place.path) + b"/" + path.encode())


def test_unlinked_open_file_lives_until_it_is_closed(place: CaseDirectory) -> None:
    with opened(place / "file", os.O_RDWR) as descriptor:
        os.unlink(place / "file")
        assert os.fstat(descriptor).st_nlink == 0
        assert os.pread(descriptor, len(DATA) + 1, 0) == DATA
        os.pwrite(descriptor, b"more", len(DATA))
        os.ftruncate(descriptor, len(DATA) + 2)
        os.fchmod(descriptor, 0o640)
        assert os.fstat(descriptor).st_mode & 0o777 == 0o640
        assert os.pread(descriptor, 10, len(DATA)) == b"mo"
    assert "file" not in names(place.path)


def test_unlinked_file_is_read_to_its_end(place: CaseDirectory) -> None:
    with opened(place / "file", os.O_RDONLY) as descriptor:
        assert os.read(descriptor, 100) == DATA[:100]
        os.unlink(place / "file")
        assert os.read(descriptor, len(DATA)) == DATA[100:]
        assert os.fstat(descriptor).st_size == len(DATA)


def test_recreated_file_has_another_inode(place: CaseDirectory) -> None:
    with opened(place / "file", os.O_RDWR) as old:
        os.unlink(place / "file")
        (place / "file").write_bytes(b"new")
        assert os.pread(old, 4, 0) == DATA[:4]
        os.pwrite(old, b"old", 0)
        assert (place / "file").read_bytes() == b"new"


def test_unlink_updates_times_of_the_parent(place: CaseDirectory) -> None:
    with changing(place / "full", times="mtime ctime"):
        os.unlink(place / "full/inner")


def test_unlink_of_one_link_decrements_nlink_of_the_other(place: CaseDirectory) -> None:
    assert os.stat(place / "linked-b").st_nlink == 2
    if place.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a"):
        os.unlink(place / "linked-a")
    else:
        with changing(place / "linked-b", times="ctime"):
            os.unlink(place / "linked-a")
        assert os.stat(place / "linked-b").st_nlink == 1
    assert (place / "linked-b").read_bytes() == b"linked"


def test_unlink_of_a_symlink_keeps_its_target(place: CaseDirectory) -> None:
    os.unlink(place / "link")
    os.unlink(place / "dirlink")
    assert (place / "file").read_bytes() == DATA
    assert names(place / "full") == {"inner", "sub"}


@pytest.mark.parametrize("path", ["full/inner", "mine", "unprivileged/../mine", "closed/inside"])
def test_unprivileged_user_cannot_unlink_in_a_read_only_directory(
    place: CaseDirectory, path: str
) -> None:
    with acting_as(), fails(errno.EACCES):
        os.unlink(place / path)
    assert os.path.lexists(place / path)


def test_writable_directory_allows_unlinking_others_files(place: CaseDirectory) -> None:
    with acting_as():
        os.unlink(place / "open/roots")
        os.unlink(place / "unprivileged/roots")
    assert names(place / "unprivileged") == set()


def test_only_the_owner_unlinks_in_a_sticky_directory(place: CaseDirectory) -> None:
    with acting_as():
        with fails(errno.EPERM):
            os.unlink(place / "sticky/roots")
        os.unlink(place / "sticky/mine")
    assert names(place / "sticky") == {"roots", "dir"}


def test_name_can_be_created_and_unlinked_repeatedly(place: CaseDirectory) -> None:
    for _ in range(10):
        os.unlink(place / "file")
        assert "file" not in names(place.path)
        touch(place / "file")
        assert os.stat(place / "file").st_size == 0
    assert "file" in names(place.path)
