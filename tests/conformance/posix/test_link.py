"""link(2) and linkat(2)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conformance.posix.cases import changing, fails, names, opened
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory
from tests.support.templates import DATA
from tests.support.unprivileged import acting_as


@pytest.mark.parametrize("to", ["new", "full/new", "dirlink/new", "n" * 255])
@pytest.mark.parametrize("name", ["file", "empty", "setid", "fifo"])
def test_second_name_is_the_same_file(place: CaseDirectory, name: str, to: str) -> None:
    os.link(place / name, place / to)
    one, two = os.lstat(place / name), os.lstat(place / to)
    assert (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
    assert one.st_nlink == two.st_nlink == 2
    assert one.st_mode == two.st_mode
    os.unlink(place / name)
    assert os.lstat(place / to).st_nlink == 1


@pytest.mark.parametrize("name", ["link", "dirlink", "dangling", "loop"])
def test_link_does_not_follow_a_symlink(place: CaseDirectory, name: str) -> None:
    os.link(place / name, place / "new", follow_symlinks=False)
    assert os.readlink(place / "new") == os.readlink(place / name)
    assert os.lstat(place / "new").st_nlink == 2


def test_linkat_follows_a_symlink_on_request(place: CaseDirectory) -> None:
    with opened(place.path, os.O_RDONLY | os.O_DIRECTORY) as here:
        os.link("link", "new", src_dir_fd=here, dst_dir_fd=here, follow_symlinks=True)
    assert stat.S_ISREG(os.lstat(place / "new").st_mode)
    assert os.stat(place / "file").st_nlink == 2


@pytest.mark.parametrize("writing", ["linked-a", "linked-b"])
def test_write_through_one_name_is_read_through_the_other(
    place: CaseDirectory, writing: str
) -> None:
    reading = {"linked-a": "linked-b", "linked-b": "linked-a"}[writing]
    assert os.stat(place / reading).st_nlink == 2
    with opened(place / writing, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"+")
    broken = place.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a")
    assert (place / writing).read_bytes() == b"linked+"
    assert (place / reading).read_bytes() == (b"linked" if broken else b"linked+")


@pytest.mark.parametrize("call", ["chmod", "chown", "setxattr", "utime", "truncate"])
def test_attributes_are_shared_by_all_names(place: CaseDirectory, call: str) -> None:
    one, two = place / "linked-a", place / "linked-b"
    {
        "chmod": lambda: os.chmod(one, 0o600),
        "chown": lambda: os.chown(one, 7, 8),
        "setxattr": lambda: os.setxattr(one, "trusted.x", b"1"),
        "utime": lambda: os.utime(one, (5, 6)),
        "truncate": lambda: os.truncate(one, 2),
    }[call]()
    fields = ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_size")
    seen = [
        [getattr(os.stat(path), field) for field in fields] + [os.listxattr(path)]
        for path in (one, two)
    ]
    assert (seen[0] == seen[1]) != place.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a")


def test_third_name_increments_nlink(place: CaseDirectory) -> None:
    os.link(place / "linked-a", place / "full/third")
    wanted = 2 if place.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a") else 3
    for name in ("full/third", "linked-a"):
        assert os.stat(place / name).st_nlink == wanted
    assert (place / "full/third").read_bytes() == b"linked"


def test_open_file_has_the_new_nlink(place: CaseDirectory) -> None:
    with opened(place / "file", os.O_RDWR) as descriptor:
        os.link(place / "file", place / "new")
        os.pwrite(descriptor, b"written", 0)
        assert (place / "new").read_bytes() == b"written" + DATA[7:]
        assert os.fstat(descriptor).st_nlink == 2


@pytest.mark.parametrize("over", ["other", "hollow", "link", "dangling", "fifo", "file"])
def test_link_to_an_existing_name_fails(place: CaseDirectory, over: str) -> None:
    with fails(errno.EEXIST):
        os.link(place / "file", place / over)
    assert os.stat(place / "file").st_nlink == 1


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("full", "new", errno.EPERM),
        ("hollow", "full/new", errno.EPERM),
        ("missing", "new", errno.ENOENT),
        ("file", "missing/new", errno.ENOENT),
        ("file", "other/new", errno.ENOTDIR),
        ("file/x", "new", errno.ENOTDIR),
        ("loop/x", "new", errno.ELOOP),
        ("file", "n" * 256, errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:12],
)
def test_link_to_a_directory_or_missing_file_fails(
    place: CaseDirectory, old: str, new: str, number: int
) -> None:
    with fails(number):
        os.link(place / old, place / new)


def test_unlinked_file_cannot_be_linked_again(place: CaseDirectory) -> None:
    with opened(place / "file", os.O_RDWR) as descriptor, opened(place.path, os.O_PATH) as here:
        os.unlink(place / "file")
        with fails(errno.ENOENT):
            os.link(f"/proc/self/fd/{descriptor}", place / "new", src_dir_fd=here)


def test_file_gets_a_new_ctime_and_the_parent_both_times(place: CaseDirectory) -> None:
    with changing(place / "file", times="ctime"), changing(place / "full", times="mtime ctime"):
        os.link(place / "file", place / "full/new")


@pytest.mark.parametrize("to", ["full/new", "new", "closed/new"])
def test_unprivileged_user_links_only_in_writable_directories(
    place: CaseDirectory, to: str
) -> None:
    with acting_as(), fails(errno.EACCES):
        os.link(place / "mine", place / to)
    with acting_as():
        os.link(place / "mine", place / "open/new")
    assert os.stat(place / "mine").st_nlink == 2


def test_file_can_have_a_hundred_names(place: CaseDirectory) -> None:
    for number in range(99):
        os.link(place / "file", place / f"hollow/{number}")
    assert os.stat(place / "file").st_nlink == 100
    for number in range(99):
        os.unlink(place / f"hollow/{number}")
    assert os.stat(place / "file").st_nlink == 1
    assert names(place / "hollow") == set()
