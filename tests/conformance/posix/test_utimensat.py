"""utimensat(2) and futimens(3)."""

from __future__ import annotations

import errno
import os
import time

import pytest

from tests.conformance.posix.cases import changing, fails, missing_paths, next_tick, opened
from tests.support.subjects import CaseDirectory
from tests.support.syscalls import UTIME_NOW, UTIME_OMIT, utimensat
from tests.support.templates import DATA, MTIME
from tests.support.unprivileged import acting_as

NOW = (0, UTIME_NOW)
OMIT = (0, UTIME_OMIT)
OLD = MTIME * 10**9


@pytest.mark.parametrize(
    ("atime", "mtime"),
    [
        ((1, 2), (3, 4)),
        ((0, 0), (0, 999_999_999)),
        ((-5, 7), (-1, 1)),
        ((1 << 31, 1), (1 << 33, 2)),
    ],
)
@pytest.mark.parametrize("name", ["file", "full", "fifo", "link", "dangling"])
def test_times_are_kept_to_the_nanosecond(
    case: CaseDirectory, name: str, atime: tuple[int, int], mtime: tuple[int, int]
) -> None:
    utimensat(case / name, atime, mtime, follow_symlinks=False)
    status = os.lstat(case / name)
    assert status.st_mtime_ns == mtime[0] * 10**9 + mtime[1]
    assert status.st_atime_ns == atime[0] * 10**9 + atime[1]


@pytest.mark.parametrize("name", ["file", "full", "link"])
def test_utime_now_sets_the_current_time(case: CaseDirectory, name: str) -> None:
    next_tick()
    before = time.time_ns()
    next_tick()
    utimensat(case / name, NOW, NOW, follow_symlinks=False)
    status = os.lstat(case / name)
    for got in (status.st_atime_ns, status.st_mtime_ns):
        assert before <= got <= time.time_ns()


@pytest.mark.parametrize("name", ["file", "full", "link"])
def test_utime_omit_keeps_that_time(case: CaseDirectory, name: str) -> None:
    utimensat(case / name, (1, 1), OMIT, follow_symlinks=False)
    assert os.lstat(case / name).st_mtime_ns == OLD
    utimensat(case / name, OMIT, (2, 2), follow_symlinks=False)
    status = os.lstat(case / name)
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 2_000_000_002)


@pytest.mark.parametrize("name", ["file", "full"])
def test_utime_omit_for_both_changes_nothing(case: CaseDirectory, name: str) -> None:
    with changing(case / name, times=""):
        utimensat(case / name, OMIT, OMIT)


def test_setting_the_same_time_updates_ctime(case: CaseDirectory) -> None:
    with changing(case / "file", times="ctime"):
        utimensat(case / "file", OMIT, (MTIME, 0))
    assert (case / "file").read_bytes() == DATA


@pytest.mark.parametrize(("link", "target"), [("link", "file"), ("dirlink", "full")])
def test_utimensat_follows_symlinks_or_not(case: CaseDirectory, link: str, target: str) -> None:
    utimensat(case / link, (1, 0), (1, 0))
    assert os.lstat(case / target).st_mtime == 1
    assert os.lstat(case / link).st_mtime_ns == OLD
    utimensat(case / link, (2, 0), (2, 0), follow_symlinks=False)
    assert (os.lstat(case / target).st_mtime, os.lstat(case / link).st_mtime) == (1, 2)


@pytest.mark.parametrize("name", ["file", "full"])
def test_futimens_needs_no_write_access(case: CaseDirectory, name: str) -> None:
    with opened(case / name, os.O_RDONLY) as descriptor:
        utimensat(descriptor, (1, 2), (3, 4))
        assert os.fstat(descriptor).st_mtime_ns == 3_000_000_004
    assert os.stat(case / name).st_mtime_ns == 3_000_000_004


@pytest.mark.parametrize("nanoseconds", [10**9, -1, (1 << 30) - 3])
def test_invalid_nanosecond_is_refused(case: CaseDirectory, nanoseconds: int) -> None:
    with changing(case / "file", times=""), fails(errno.EINVAL):
        utimensat(case / "file", (0, 0), (0, nanoseconds))


@missing_paths
def test_utimensat_of_a_missing_path_fails(case: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        utimensat(case / path, NOW, NOW)


@pytest.mark.parametrize("name", ["file", "everybodys", "full", "open"])
def test_only_the_owner_sets_an_explicit_time(case: CaseDirectory, name: str) -> None:
    with acting_as(), fails(errno.EPERM):
        utimensat(case / name, (1, 1), (1, 1))
    with acting_as(), fails(errno.EPERM):
        utimensat(case / name, NOW, OMIT)
    assert os.stat(case / name).st_mtime_ns == OLD


@pytest.mark.parametrize(
    ("name", "allowed"), [("file", 0), ("full", 0), ("everybodys", 1), ("open", 1)]
)
def test_writer_may_set_the_current_time(case: CaseDirectory, name: str, allowed: int) -> None:
    with acting_as():
        if allowed:
            utimensat(case / name, NOW, NOW)
        else:
            with fails(errno.EACCES):
                utimensat(case / name, NOW, NOW)
    assert (os.stat(case / name).st_mtime_ns > OLD) == bool(allowed)


@pytest.mark.parametrize("name", ["mine", "unprivileged"])
def test_owner_sets_times_of_a_read_only_file(case: CaseDirectory, name: str) -> None:
    os.chmod(case / name, 0o500)
    with acting_as():
        utimensat(case / name, (1, 1), (1, 1))
        utimensat(case / name, OMIT, NOW)
    assert os.stat(case / name).st_mtime_ns > OLD


def test_write_after_utimensat_updates_the_time(case: CaseDirectory) -> None:
    utimensat(case / "file", (1, 1), (1, 1))
    with changing(case / "file", times="mtime ctime"), opened(case / "file", os.O_WRONLY) as file:
        os.write(file, b"x")
