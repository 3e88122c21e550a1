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


def is_bound(case: CaseDirectory, name: str) -> bool:
    """Return whether a directory cannot be renamed, since a layer has it."""
    return case.deviates(Deviation.RENAME_OF_LOWER_DIRECTORY, name)


@pytest.mark.parametrize("to", ["new", "full/new", "hollow/new", "dirlink/new", "n" * 255])
@pytest.mark.parametrize("name", ["file", "setid", "noted"])
def test_renamed_file_keeps_contents_and_attributes(
    case: CaseDirectory, name: str, to: str
) -> None:
    before, content = os.stat(case / name), (case / name).read_bytes()
    attributes = os.listxattr(case / name)
    os.rename(case / name, case / to)
    after = os.stat(case / to)
    assert (case / to).read_bytes() == content
    for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_ino", "st_nlink"):
        assert getattr(after, field) == getattr(before, field), field
    assert os.listxattr(case / to) == attributes
    assert name not in names(case.path)
    with fails(errno.ENOENT):
        os.lstat(case / name)


@pytest.mark.parametrize("name", ["link", "dirlink", "dangling", "loop", "fifo"])
def test_other_file_types_can_be_renamed(case: CaseDirectory, name: str) -> None:
    before = os.lstat(case / name)
    target = os.readlink(case / name) if stat.S_ISLNK(before.st_mode) else None
    os.rename(case / name, case / "full/new")
    after = os.lstat(case / "full/new")
    assert (after.st_mode, after.st_size) == (before.st_mode, before.st_size)
    assert target is None or os.readlink(case / "full/new") == target
    assert not os.path.lexists(case / name)
    assert (case / "file").read_bytes() == DATA


@pytest.mark.parametrize("over", ["other", "setid", "link", "dangling", "fifo", "linked-a"])
def test_rename_replaces_a_file(case: CaseDirectory, over: str) -> None:
    os.rename(case / "file", case / over)
    assert stat.S_ISREG(os.lstat(case / over).st_mode)
    assert (case / over).read_bytes() == DATA
    assert not os.path.lexists(case / "file")
    assert os.stat(case / over).st_nlink == 1


def test_replaced_file_stays_readable_through_its_descriptor(case: CaseDirectory) -> None:
    with opened(case / "other", os.O_RDWR) as descriptor:
        os.rename(case / "file", case / "other")
        assert os.pread(descriptor, 10, 0) == b"other"
        assert os.fstat(descriptor).st_nlink == 0
        os.pwrite(descriptor, b"written", 0)
    assert (case / "other").read_bytes() == DATA


def test_write_after_a_rename_goes_to_the_renamed_file(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDWR) as descriptor:
        os.rename(case / "file", case / "full/sub/new")
        os.pwrite(descriptor, b"changed", 0)
        assert (case / "full/sub/new").read_bytes() == b"changed" + DATA[7:]


@pytest.mark.parametrize("name", ["file", "link", "hollow", "full", "fifo"])
def test_rename_to_the_same_name_changes_nothing(case: CaseDirectory, name: str) -> None:
    before = names(case.path)
    os.rename(case / name, case / name)
    assert names(case.path) == before


def test_rename_between_links_of_a_file_changes_nothing(case: CaseDirectory) -> None:
    os.rename(case / "linked-a", case / "linked-b")
    if case.deviates(Deviation.LINKS_BROKEN_BY_COPY_UP, "linked-a"):
        assert "linked-a" not in names(case.path)
    else:
        assert {"linked-a", "linked-b"} <= names(case.path)
    assert (case / "linked-b").read_bytes() == b"linked"


@pytest.mark.parametrize("to", ["new", "hollow/new", "open/new", "hollow2"])
@pytest.mark.parametrize("name", ["full", "full/sub", "hollow"])
def test_renamed_directory_keeps_its_contents(case: CaseDirectory, name: str, to: str) -> None:
    if to == "hollow/new" and name == "hollow":
        to = "full/new"
    before = {top: sorted(files) for top, _, files in os.walk(case / name)}
    if is_bound(case, name):
        with fails(errno.EXDEV):
            os.rename(case / name, case / to)
        assert {top: sorted(files) for top, _, files in os.walk(case / name)} == before
        return
    os.rename(case / name, case / to)
    after = {top: sorted(files) for top, _, files in os.walk(case / to)}
    assert {top.replace(str(case / to), str(case / name)): f for top, f in after.items()} == before
    assert not os.path.lexists(case / name)


@pytest.mark.parametrize("over", ["hollow", "full", "file", "dirlink", "fifo", "dangling", "new"])
def test_directory_replaces_only_an_empty_directory(case: CaseDirectory, over: str) -> None:
    os.mkdir(case / "made")
    (case / "made/a").write_bytes(b"a")
    wanted = {"full": errno.ENOTEMPTY, "hollow": 0, "new": 0}.get(over, errno.ENOTDIR)
    if wanted:
        with fails(wanted, *([errno.EEXIST] if wanted == errno.ENOTEMPTY else [])):
            os.rename(case / "made", case / over)
        assert names(case / "made") == {"a"}
        return
    os.rename(case / "made", case / over)
    assert names(case / over) == {"a"}
    assert "made" not in names(case.path)


def test_directory_renamed_over_a_deleted_one_hides_it(case: CaseDirectory) -> None:
    os.mkdir(case / "made")
    for path in ("full/inner", "full/sub/deep"):
        os.unlink(case / path)
    os.rmdir(case / "full/sub")
    os.rename(case / "made", case / "full")
    assert names(case / "full") == set()
    os.mkdir(case / "full/sub")
    assert names(case / "full/sub") == set()


@pytest.mark.parametrize("name", ["file", "link", "fifo"])
@pytest.mark.parametrize("over", ["hollow", "full"])
def test_file_cannot_replace_a_directory(case: CaseDirectory, name: str, over: str) -> None:
    with fails(errno.EISDIR):
        os.rename(case / name, case / over)
    assert os.path.lexists(case / name)


@pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE])
@pytest.mark.parametrize("to", ["full/new", "full/sub/new", "full/sub/new/"])
def test_directory_cannot_be_renamed_into_itself(case: CaseDirectory, to: str, flags: int) -> None:
    with fails(errno.EINVAL):
        renameat2(case / "full", os.fsencode(case.path) + b"/" + to.encode(), flags)


def test_directory_cannot_replace_its_parent(case: CaseDirectory) -> None:
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(case / "full/sub", case / "full")


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
    case: CaseDirectory, old: str, new: str, number: int
) -> None:
    root = os.fsencode(case.path) + b"/"
    with fails(number, *([errno.EINVAL] if number == errno.EBUSY else [])):
        os.rename(root + old.encode(), root + new.encode())
    assert (case / "file").read_bytes() == DATA


@pytest.mark.parametrize("over", ["other", "hollow", "full", "link", "dangling", "file", "fifo"])
def test_rename_noreplace_on_an_existing_name_fails(case: CaseDirectory, over: str) -> None:
    with fails(errno.EEXIST):
        renameat2(case / "file", case / over, RENAME_NOREPLACE)
    assert (case / "file").read_bytes() == DATA


@pytest.mark.parametrize("name", ["file", "link", "fifo"])
def test_rename_noreplace_to_a_free_name_works(case: CaseDirectory, name: str) -> None:
    os.unlink(case / "empty")
    renameat2(case / name, case / "empty", RENAME_NOREPLACE)
    assert os.path.lexists(case / "empty")
    assert not os.path.lexists(case / name)


@pytest.mark.parametrize("other", ["other", "link", "fifo", "full/inner", "setid", "sticky/roots"])
def test_rename_exchange_swaps_two_names(case: CaseDirectory, other: str) -> None:
    mode = stat.S_IFMT(os.lstat(case / other).st_mode)
    renameat2(case / "file", case / other, RENAME_EXCHANGE)
    assert stat.S_IFMT(os.lstat(case / "file").st_mode) == mode
    assert stat.S_ISREG(os.lstat(case / other).st_mode)
    assert (case / other).read_bytes() == DATA


@pytest.mark.parametrize("other", ["file", "made", "full", "hollow"])
def test_rename_exchange_swaps_a_directory_with_any_type(case: CaseDirectory, other: str) -> None:
    os.mkdir(case / "new")
    os.mkdir(case / "made")
    touch(case / "new/a")
    if other in {"full", "hollow"} and is_bound(case, other):
        with fails(errno.EXDEV):
            renameat2(case / "new", case / other, RENAME_EXCHANGE)
        assert names(case / "new") == {"a"}
        return
    before = os.lstat(case / other)
    renameat2(case / "new", case / other, RENAME_EXCHANGE)
    assert names(case / other) == {"a"}
    assert os.lstat(case / "new").st_mode == before.st_mode


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
    case: CaseDirectory, old: str, new: str, flags: int, number: int
) -> None:
    wanted = [errno.EINVAL, errno.ENOTEMPTY] if number == errno.EINVAL else [number]
    with fails(*wanted):
        renameat2(case / old, case / new, flags)


def test_rename_updates_times_of_both_parents(case: CaseDirectory) -> None:
    with (
        changing(case / "full", times="mtime ctime"),
        changing(case / "hollow", times="mtime ctime"),
    ):
        os.rename(case / "full/inner", case / "hollow/inner")


def test_renamed_directory_changes_nlink_of_both_parents(case: CaseDirectory) -> None:
    for name in ("made", "goal"):
        os.mkdir(case / name)
    os.mkdir(case / "made/child")
    counts = (1, 1) if case.deviates(Deviation.DIRECTORIES_HAVE_ONE_LINK) else (2, 3)
    assert os.stat(case / "made").st_nlink == counts[1]
    os.rename(case / "made/child", case / "goal/child")
    assert (os.stat(case / "made").st_nlink, os.stat(case / "goal").st_nlink) == counts
    assert os.stat(case / "goal/child/..").st_ino == os.stat(case / "goal").st_ino


def test_old_name_can_be_created_as_another_file(case: CaseDirectory) -> None:
    os.rename(case / "file", case / "new")
    (case / "file").write_bytes(b"again")
    assert (case / "new").read_bytes() == DATA
    os.rename(case / "new", case / "file")
    assert (case / "file").read_bytes() == DATA


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
    case: CaseDirectory, old: str, new: str
) -> None:
    with acting_as(), fails(errno.EACCES, *([errno.EXDEV] if is_bound(case, "open/dir") else [])):
        os.rename(case / old, case / new)
    assert os.path.lexists(case / old)


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
    case: CaseDirectory, old: str, new: str, allowed: bool
) -> None:
    with acting_as():
        if allowed:
            os.rename(case / old, case / new)
        else:
            with fails(errno.EPERM):
                os.rename(case / old, case / new)
    assert os.path.lexists(case / old) != allowed
