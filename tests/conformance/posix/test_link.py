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
def test_second_name_is_the_same_file(case: CaseDirectory, name: str, to: str) -> None:
    os.link(case / name, case / to)
    one, two = os.lstat(case / name), os.lstat(case / to)
    assert (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
    assert one.st_nlink == two.st_nlink == 2
    assert one.st_mode == two.st_mode
    os.unlink(case / name)
    assert os.lstat(case / to).st_nlink == 1


@pytest.mark.parametrize("name", ["link", "dirlink", "dangling", "loop"])
def test_link_does_not_follow_a_symlink(case: CaseDirectory, name: str) -> None:
    os.link(case / name, case / "new", follow_symlinks=False)
    assert os.readlink(case / "new") == os.readlink(case / name)
    assert os.lstat(case / "new").st_nlink == 2


def test_linkat_follows_a_symlink_on_request(case: CaseDirectory) -> None:
    with opened(case.path, os.O_RDONLY | os.O_DIRECTORY) as here:
        os.link("link", "new", src_dir_fd=here, dst_dir_fd=here, follow_symlinks=True)
    assert stat.S_ISREG(os.lstat(case / "new").st_mode)
    assert os.stat(case / "file").st_nlink == 2


@pytest.mark.parametrize("writing", ["linked-a", "linked-b"])
def test_write_through_one_name_is_read_through_the_other(
    case: CaseDirectory, writing: str
) -> None:
    reading = {"linked-a": "linked-b", "linked-b": "linked-a"}[writing]
    assert os.stat(case / reading).st_nlink == 2
    with opened(case / writing, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"+")
    broken = case.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a")
    assert (case / writing).read_bytes() == b"linked+"
    assert (case / reading).read_bytes() == (b"linked" if broken else b"linked+")


@pytest.mark.parametrize("call", ["chmod", "chown", "setxattr", "utime", "truncate"])
def test_attributes_are_shared_by_all_names(case: CaseDirectory, call: str) -> None:
    one, two = case / "linked-a", case / "linked-b"
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
    assert (seen[0] == seen[1]) != case.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a")


def test_third_name_increments_nlink(case: CaseDirectory) -> None:
    os.link(case / "linked-a", case / "full/third")
    wanted = 2 if case.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a") else 3
    for name in ("full/third", "linked-a"):
        assert os.stat(case / name).st_nlink == wanted
    assert (case / "full/third").read_bytes() == b"linked"


def test_open_file_has_the_new_nlink(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDWR) as descriptor:
        os.link(case / "file", case / "new")
        os.pwrite(descriptor, b"written", 0)
        assert (case / "new").read_bytes() == b"written" + DATA[7:]
        assert os.fstat(descriptor).st_nlink == 2


@pytest.mark.parametrize("over", ["other", "hollow", "link", "dangling", "fifo", "file"])
def test_link_to_an_existing_name_fails(case: CaseDirectory, over: str) -> None:
    with fails(errno.EEXIST):
        os.link(case / "file", case / over)
    assert os.stat(case / "file").st_nlink == 1


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
    case: CaseDirectory, old: str, new: str, number: int
) -> None:
    with fails(number):
        os.link(case / old, case / new)


def test_unlinked_file_cannot_be_linked_again(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDWR) as descriptor, opened(case.path, os.O_PATH) as here:
        os.unlink(case / "file")
        with fails(errno.ENOENT):
            os.link(f"/proc/self/fd/{descriptor}", case / "new", src_dir_fd=here)


def test_file_gets_a_new_ctime_and_the_parent_both_times(case: CaseDirectory) -> None:
    with changing(case / "file", times="ctime"), changing(case / "full", times="mtime ctime"):
        os.link(case / "file", case / "full/new")


@pytest.mark.parametrize("to", ["full/new", "new", "closed/new"])
def test_unprivileged_user_links_only_in_writable_directories(case: CaseDirectory, to: str) -> None:
    with acting_as(), fails(errno.EACCES):
        os.link(case / "mine", case / to)
    with acting_as():
        os.link(case / "mine", case / "open/new")
    assert os.stat(case / "mine").st_nlink == 2


def test_file_can_have_a_hundred_names(case: CaseDirectory) -> None:
    for number in range(99):
        os.link(case / "file", case / f"hollow/{number}")
    assert os.stat(case / "file").st_nlink == 100
    for number in range(99):
        os.unlink(case / f"hollow/{number}")
    assert os.stat(case / "file").st_nlink == 1
    assert names(case / "hollow") == set()
