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
    place: CaseDirectory, name: str, atime: tuple[int, int], mtime: tuple[int, int]
) -> None:
    utimensat(place / name, atime, mtime, follow_symlinks=False)
    status = os.lstat(place / name)
    assert status.st_mtime_ns == mtime[0] * 10**9 + mtime[1]
    assert status.st_atime_ns == atime[0] * 10**9 + atime[1]


@pytest.mark.parametrize("name", ["file", "full", "link"])
def test_utime_now_sets_the_current_time(place: CaseDirectory, name: str) -> None:
    next_tick()
    before = time.time_ns()
    next_tick()
    utimensat(place / name, NOW, NOW, follow_symlinks=False)
    status = os.lstat(place / name)
    for got in (status.st_atime_ns, status.st_mtime_ns):
        assert before <= got <= time.time_ns()


@pytest.mark.parametrize("name", ["file", "full", "link"])
def test_utime_omit_keeps_that_time(place: CaseDirectory, name: str) -> None:
    utimensat(place / name, (1, 1), OMIT, follow_symlinks=False)
    assert os.lstat(place / name).st_mtime_ns == OLD
    utimensat(place / name, OMIT, (2, 2), follow_symlinks=False)
    status = os.lstat(place / name)
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 2_000_000_002)


@pytest.mark.parametrize("name", ["file", "full"])
def test_utime_omit_for_both_changes_nothing(place: CaseDirectory, name: str) -> None:
    with changing(place / name, times=""):
        utimensat(place / name, OMIT, OMIT)


def test_setting_the_same_time_updates_ctime(place: CaseDirectory) -> None:
    with changing(place / "file", times="ctime"):
        utimensat(place / "file", OMIT, (MTIME, 0))
    assert (place / "file").read_bytes() == DATA


@pytest.mark.parametrize(("link", "target"), [("link", "file"), ("dirlink", "full")])
def test_utimensat_follows_symlinks_or_not(place: CaseDirectory, link: str, target: str) -> None:
    utimensat(place / link, (1, 0), (1, 0))
    assert os.lstat(place / target).st_mtime == 1
    assert os.lstat(place / link).st_mtime_ns == OLD
    utimensat(place / link, (2, 0), (2, 0), follow_symlinks=False)
    assert (os.lstat(place / target).st_mtime, os.lstat(place / link).st_mtime) == (1, 2)


@pytest.mark.parametrize("name", ["file", "full"])
def test_futimens_needs_no_write_access(place: CaseDirectory, name: str) -> None:
    with opened(place / name, os.O_RDONLY) as descriptor:
        utimensat(descriptor, (1, 2), (3, 4))
        assert os.fstat(descriptor).st_mtime_ns == 3_000_000_004
    assert os.stat(place / name).st_mtime_ns == 3_000_000_004


@pytest.mark.parametrize("nanoseconds", [10**9, -1, (1 << 30) - 3])
def test_invalid_nanosecond_is_refused(place: CaseDirectory, nanoseconds: int) -> None:
    with changing(place / "file", times=""), fails(errno.EINVAL):
        utimensat(place / "file", (0, 0), (0, nanoseconds))


@missing_paths
def test_utimensat_of_a_missing_path_fails(place: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        utimensat(place / path, NOW, NOW)


@pytest.mark.parametrize("name", ["file", "everybodys", "full", "open"])
def test_only_the_owner_sets_an_explicit_time(place: CaseDirectory, name: str) -> None:
    with acting_as(), fails(errno.EPERM):
        utimensat(place / name, (1, 1), (1, 1))
    with acting_as(), fails(errno.EPERM):
        utimensat(place / name, NOW, OMIT)
    assert os.stat(place / name).st_mtime_ns == OLD


@pytest.mark.parametrize(
    ("name", "allowed"), [("file", 0), ("full", 0), ("everybodys", 1), ("open", 1)]
)
def test_writer_may_set_the_current_time(place: CaseDirectory, name: str, allowed: int) -> None:
    with acting_as():
        if allowed:
            utimensat(place / name, NOW, NOW)
        else:
            with fails(errno.EACCES):
                utimensat(place / name, NOW, NOW)
    assert (os.stat(place / name).st_mtime_ns > OLD) == bool(allowed)


@pytest.mark.parametrize("name", ["mine", "unprivileged"])
def test_owner_sets_times_of_a_read_only_file(place: CaseDirectory, name: str) -> None:
    os.chmod(place / name, 0o500)
    with acting_as():
        utimensat(place / name, (1, 1), (1, 1))
        utimensat(place / name, OMIT, NOW)
    assert os.stat(place / name).st_mtime_ns > OLD


def test_write_after_utimensat_updates_the_time(place: CaseDirectory) -> None:
    utimensat(place / "file", (1, 1), (1, 1))
    with changing(place / "file", times="mtime ctime"), opened(place / "file", os.O_WRONLY) as file:
        os.write(file, b"x")
