"""rename(2) and renameat2(2)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conformance.posix.cases import changing, fails, names, opened, touch
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.support.templates import DATA
from tests.support.unprivileged import acting_as


def is_bound(place: CaseDirectory, name: str) -> bool:
    """Return whether a directory cannot be renamed, since a layer has it."""
    return place.deviates(Deviation.RENAME_OF_LOWER_DIRECTORY, name)


@pytest.mark.parametrize("to", ["new", "full/new", "hollow/new", "dirlink/new", "n" * 255])
@pytest.mark.parametrize("name", ["file", "setid", "noted"])
def test_renamed_file_keeps_contents_and_attributes(
    place: CaseDirectory, name: str, to: str
) -> None:
    before, content = os.stat(place / name), (place / name).read_bytes()
    attributes = os.listxattr(place / name)
    os.rename(place / name, place / to)
    after = os.stat(place / to)
    assert (place / to).read_bytes() == content
    for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_ino", "st_nlink"):
        assert getattr(after, field) == getattr(before, field), field
    assert os.listxattr(place / to) == attributes
    assert name not in names(place.path)
    with fails(errno.ENOENT):
        os.lstat(place / name)


@pytest.mark.parametrize("name", ["link", "dirlink", "dangling", "loop", "fifo"])
def test_other_file_types_can_be_renamed(place: CaseDirectory, name: str) -> None:
    before = os.lstat(place / name)
    target = os.readlink(place / name) if stat.S_ISLNK(before.st_mode) else None
    os.rename(place / name, place / "full/new")
    after = os.lstat(place / "full/new")
    assert (after.st_mode, after.st_size) == (before.st_mode, before.st_size)
    assert target is None or os.readlink(place / "full/new") == target
    assert not os.path.lexists(place / name)
    assert (place / "file").read_bytes() == DATA


@pytest.mark.parametrize("over", ["other", "setid", "link", "dangling", "fifo", "linked-a"])
def test_rename_replaces_a_file(place: CaseDirectory, over: str) -> None:
    os.rename(place / "file", place / over)
    assert stat.S_ISREG(os.lstat(place / over).st_mode)
    assert (place / over).read_bytes() == DATA
    assert not os.path.lexists(place / "file")
    assert os.stat(place / over).st_nlink == 1


def test_replaced_file_stays_readable_through_its_descriptor(place: CaseDirectory) -> None:
    with opened(place / "other", os.O_RDWR) as descriptor:
        os.rename(place / "file", place / "other")
        assert os.pread(descriptor, 10, 0) == b"other"
        assert os.fstat(descriptor).st_nlink == 0
        os.pwrite(descriptor, b"written", 0)
    assert (place / "other").read_bytes() == DATA


def test_write_after_a_rename_goes_to_the_renamed_file(place: CaseDirectory) -> None:
    with opened(place / "file", os.O_RDWR) as descriptor:
        os.rename(place / "file", place / "full/sub/new")
        os.pwrite(descriptor, b"changed", 0)
        assert (place / "full/sub/new").read_bytes() == b"changed" + DATA[7:]


@pytest.mark.parametrize("name", ["file", "link", "hollow", "full", "fifo"])
def test_rename_to_the_same_name_changes_nothing(place: CaseDirectory, name: str) -> None:
    before = names(place.path)
    os.rename(place / name, place / name)
    assert names(place.path) == before


def test_rename_between_links_of_a_file_changes_nothing(place: CaseDirectory) -> None:
    os.rename(place / "linked-a", place / "linked-b")
    if place.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a"):
        assert "linked-a" not in names(place.path)
    else:
        assert {"linked-a", "linked-b"} <= names(place.path)
    assert (place / "linked-b").read_bytes() == b"linked"


@pytest.mark.parametrize("to", ["new", "hollow/new", "open/new", "hollow2"])
@pytest.mark.parametrize("name", ["full", "full/sub", "hollow"])
def test_renamed_directory_keeps_its_contents(place: CaseDirectory, name: str, to: str) -> None:
    if to == "hollow/new" and name == "hollow":
        to = "full/new"
    before = {top: sorted(files) for top, _, files in os.walk(place / name)}
    if is_bound(place, name):
        with fails(errno.EXDEV):
            os.rename(place / name, place / to)
        assert {top: sorted(files) for top, _, files in os.walk(place / name)} == before
        return
    os.rename(place / name, place / to)
    after = {top: sorted(files) for top, _, files in os.walk(place / to)}
    assert {
        top.replace(str(place / to), str(place / name)): f for top, f in after.items()
    } == before
    assert not os.path.lexists(place / name)


@pytest.mark.parametrize("over", ["hollow", "full", "file", "dirlink", "fifo", "dangling", "new"])
def test_directory_replaces_only_an_empty_directory(place: CaseDirectory, over: str) -> None:
    os.mkdir(place / "made")
    (place / "made/a").write_bytes(b"a")
    wanted = {"full": errno.ENOTEMPTY, "hollow": 0, "new": 0}.get(over, errno.ENOTDIR)
    if wanted:
        with fails(wanted, *([errno.EEXIST] if wanted == errno.ENOTEMPTY else [])):
            os.rename(place / "made", place / over)
        assert names(place / "made") == {"a"}
        return
    os.rename(place / "made", place / over)
    assert names(place / over) == {"a"}
    assert "made" not in names(place.path)


def test_directory_renamed_over_a_deleted_one_hides_it(place: CaseDirectory) -> None:
    os.mkdir(place / "made")
    for path in ("full/inner", "full/sub/deep"):
        os.unlink(place / path)
    os.rmdir(place / "full/sub")
    os.rename(place / "made", place / "full")
    assert names(place / "full") == set()
    os.mkdir(place / "full/sub")
    assert names(place / "full/sub") == set()


@pytest.mark.parametrize("name", ["file", "link", "fifo"])
@pytest.mark.parametrize("over", ["hollow", "full"])
def test_file_cannot_replace_a_directory(place: CaseDirectory, name: str, over: str) -> None:
    with fails(errno.EISDIR):
        os.rename(place / name, place / over)
    assert os.path.lexists(place / name)


@pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE])
@pytest.mark.parametrize("to", ["full/new", "full/sub/new", "full/sub/new/"])
def test_directory_cannot_be_renamed_into_itself(place: CaseDirectory, to: str, flags: int) -> None:
    with fails(errno.EINVAL):
        renameat2(place / "full", os.fsencode(place.path) + b"/" + to.encode(), flags)


def test_directory_cannot_replace_its_parent(place: CaseDirectory) -> None:
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(place / "full/sub", place / "full")


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("missing", "new", errno.ENOENT),
        ("missing", "file", errno.ENOENT),
        ("file", "missing/new", errno.ENOENT),
        ("file", "other/new", errno.ENOTDIR),
        ("file/x", "new", errno.ENOTDIR),
        ("file", "loop/new", errno.ELOOP),
        ("loop/x", "new", errno.ELOOP),
        ("file/", "new", errno.ENOTDIR),
        ("file", "new/", errno.ENOTDIR),
        ("file", "n" * 256, errno.ENAMETOOLONG),
        ("n" * 256, "new", errno.ENAMETOOLONG),
        ("full/.", "new", errno.EBUSY),
        ("full/sub/..", "new", errno.EBUSY),
    ],
    ids=lambda value: str(value)[:12],
)
def test_rename_of_a_missing_path_fails(
    place: CaseDirectory, old: str, new: str, number: int
) -> None:
    root = os.fsencode(place.path) + b"/"
    with fails(number, *([errno.EINVAL] if number == errno.EBUSY else [])):
        os.rename(root + old.encode(), root + new.encode())
    assert (place / "file").read_bytes() == DATA


@pytest.mark.parametrize("over", ["other", "hollow", "full", "link", "dangling", "file", "fifo"])
def test_rename_noreplace_on_an_existing_name_fails(place: CaseDirectory, over: str) -> None:
    with fails(errno.EEXIST):
        renameat2(place / "file", place / over, RENAME_NOREPLACE)
    assert (place / "file").read_bytes() == DATA


@pytest.mark.parametrize("name", ["file", "link", "fifo"])
def test_rename_noreplace_to_a_free_name_works(place: CaseDirectory, name: str) -> None:
    os.unlink(place / "empty")
    renameat2(place / name, place / "empty", RENAME_NOREPLACE)
    assert os.path.lexists(place / "empty")
    assert not os.path.lexists(place / name)


@pytest.mark.parametrize("other", ["other", "link", "fifo", "full/inner", "setid", "sticky/roots"])
def test_rename_exchange_swaps_two_names(place: CaseDirectory, other: str) -> None:
    mode = stat.S_IFMT(os.lstat(place / other).st_mode)
    renameat2(place / "file", place / other, RENAME_EXCHANGE)
    assert stat.S_IFMT(os.lstat(place / "file").st_mode) == mode
    assert stat.S_ISREG(os.lstat(place / other).st_mode)
    assert (place / other).read_bytes() == DATA


@pytest.mark.parametrize("other", ["file", "made", "full", "hollow"])
def test_rename_exchange_swaps_a_directory_with_any_type(place: CaseDirectory, other: str) -> None:
    os.mkdir(place / "new")
    os.mkdir(place / "made")
    touch(place / "new/a")
    if other in {"full", "hollow"} and is_bound(place, other):
        with fails(errno.EXDEV):
            renameat2(place / "new", place / other, RENAME_EXCHANGE)
        assert names(place / "new") == {"a"}
        return
    before = os.lstat(place / other)
    renameat2(place / "new", place / other, RENAME_EXCHANGE)
    assert names(place / other) == {"a"}
    assert os.lstat(place / "new").st_mode == before.st_mode


@pytest.mark.parametrize(
    ("old", "new", "flags", "number"),
    [
        ("file", "missing", RENAME_EXCHANGE, errno.ENOENT),
        ("missing", "file", RENAME_EXCHANGE, errno.ENOENT),
        ("full", "full/sub", RENAME_EXCHANGE, errno.EINVAL),
        ("full/sub", "full", RENAME_EXCHANGE, errno.EINVAL),
        ("file", "other", RENAME_EXCHANGE | RENAME_NOREPLACE, errno.EINVAL),
        ("file", "other", 1 << 20, errno.EINVAL),
    ],
)
def test_invalid_exchange_fails(
    place: CaseDirectory, old: str, new: str, flags: int, number: int
) -> None:
    wanted = [errno.EINVAL, errno.ENOTEMPTY] if number == errno.EINVAL else [number]
    with fails(*wanted):
        renameat2(place / old, place / new, flags)


def test_rename_updates_times_of_both_parents(place: CaseDirectory) -> None:
    with (
        changing(place / "full", times="mtime ctime"),
        changing(place / "hollow", times="mtime ctime"),
    ):
        os.rename(place / "full/inner", place / "hollow/inner")


def test_renamed_directory_changes_nlink_of_both_parents(place: CaseDirectory) -> None:
    for name in ("made", "goal"):
        os.mkdir(place / name)
    os.mkdir(place / "made/child")
    counts = (1, 1) if place.deviates(Deviation.DIRECTORIES_HAVE_ONE_LINK) else (2, 3)
    assert os.stat(place / "made").st_nlink == counts[1]
    os.rename(place / "made/child", place / "goal/child")
    assert (os.stat(place / "made").st_nlink, os.stat(place / "goal").st_nlink) == counts
    assert os.stat(place / "goal/child/..").st_ino == os.stat(place / "goal").st_ino


def test_old_name_can_be_created_as_another_file(place: CaseDirectory) -> None:
    os.rename(place / "file", place / "new")
    (place / "file").write_bytes(b"again")
    assert (place / "new").read_bytes() == DATA
    os.rename(place / "new", place / "file")
    assert (place / "file").read_bytes() == DATA


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("full/inner", "open/new"),
        ("open/roots", "full/new"),
        ("mine", "open/new"),
        ("open/roots", "closed/new"),
        ("open/dir", "unprivileged/dir"),
    ],
)
def test_unprivileged_user_renames_only_in_writable_directories(
    place: CaseDirectory, old: str, new: str
) -> None:
    with acting_as(), fails(errno.EACCES, *([errno.EXDEV] if is_bound(place, "open/dir") else [])):
        os.rename(place / old, place / new)
    assert os.path.lexists(place / old)


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("sticky/mine", "sticky/new", True),
        ("sticky/mine", "open/new", True),
        ("open/roots", "sticky/new", True),
        ("sticky/roots", "sticky/new", False),
        ("sticky/roots", "open/new", False),
        ("sticky/mine", "sticky/roots", False),
        ("open/roots", "sticky/roots", False),
        ("open/roots", "sticky/mine", True),
    ],
)
def test_only_owners_rename_in_a_sticky_directory(
    place: CaseDirectory, old: str, new: str, allowed: bool
) -> None:
    with acting_as():
        if allowed:
            os.rename(place / old, place / new)
        else:
            with fails(errno.EPERM):
                os.rename(place / old, place / new)
    assert os.path.lexists(place / old) != allowed
