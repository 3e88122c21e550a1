"""The times of a file and of its parent that each call updates."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from tests.conformance.posix.cases import changing, touch
from tests.support.deviations import Deviation
from tests.support.subjects import LOWER, MERGED, CaseDirectory

Operation = Callable[[CaseDirectory], object]
BOTH = "mtime ctime"


def write(case: CaseDirectory) -> None:
    (case / "full/inner").open("r+b").close()
    with (case / "full/inner").open("r+b", buffering=0) as file:
        file.write(b"x")


def extend(case: CaseDirectory) -> None:
    with (case / "full/inner").open("ab", buffering=0) as file:
        file.write(b"x")


def read(case: CaseDirectory) -> None:
    assert (case / "full/inner").read_bytes() == b"inner"


OF_THE_FILE: dict[str, tuple[Operation, str]] = {
    "read": (read, ""),
    "write": (write, BOTH),
    "extend": (extend, BOTH),
    "truncate": (lambda at: os.truncate(at / "full/inner", 1), BOTH),
    "chmod": (lambda at: os.chmod(at / "full/inner", 0o600), "ctime"),
    "chown": (lambda at: os.chown(at / "full/inner", 1, 1), "ctime"),
    "setxattr": (lambda at: os.setxattr(at / "full/inner", "trusted.x", b"1"), "ctime"),
    "link": (lambda at: os.link(at / "full/inner", at / "new"), "ctime"),
    "access": (lambda at: os.access(at / "full/inner", os.W_OK), ""),
    "stat": (lambda at: os.stat(at / "full/inner"), ""),
    "a name beside it": (lambda at: touch(at / "full/new"), ""),
}
OF_THE_PARENT: dict[str, tuple[Operation, str]] = {
    "create": (lambda at: touch(at / "full/new"), BOTH),
    "mkdir": (lambda at: os.mkdir(at / "full/new"), BOTH),
    "symlink": (lambda at: os.symlink("x", at / "full/new"), BOTH),
    "mkfifo": (lambda at: os.mkfifo(at / "full/new"), BOTH),
    "mknod": (lambda at: os.mknod(at / "full/new", stat.S_IFREG | 0o600), BOTH),
    "link": (lambda at: os.link(at / "other", at / "full/new"), BOTH),
    "unlink": (lambda at: os.unlink(at / "full/inner"), BOTH),
    "rename within": (lambda at: os.rename(at / "full/inner", at / "full/new"), BOTH),
    "rename into": (lambda at: os.rename(at / "other", at / "full/new"), BOTH),
    "rename over": (lambda at: os.rename(at / "other", at / "full/inner"), BOTH),
    "rename out of": (lambda at: os.rename(at / "full/inner", at / "new"), BOTH),
    "chmod of itself": (lambda at: os.chmod(at / "full", 0o700), "ctime"),
    "a listing": (lambda at: os.listdir(at / "full"), ""),
    "a lookup of nothing": (lambda at: os.path.lexists(at / "full/none"), ""),
    "a name further down": (lambda at: touch(at / "full/sub/new"), ""),
    "a write to a file": (write, ""),
    "chmod of a file": (lambda at: os.chmod(at / "full/inner", 0o600), ""),
}
COPIES_UP = {
    "a name further down": (LOWER, MERGED),
    "a write to a file": (LOWER,),
    "chmod of a file": (LOWER,),
}
"""Return whether the case copies up the directory, or one in it."""


@pytest.mark.parametrize("operation", OF_THE_FILE)
def test_times_that_change_with_a_file(case: CaseDirectory, operation: str) -> None:
    run, times = OF_THE_FILE[operation]
    with changing(case / "full/inner", times=times):
        run(case)


@pytest.mark.parametrize("operation", OF_THE_PARENT)
def test_times_that_change_with_a_directory(case: CaseDirectory, operation: str) -> None:
    run, times = OF_THE_PARENT[operation]
    if case.kind in COPIES_UP.get(operation, ()) and case.deviates(
        Deviation.COPY_UP_IS_SEEN_IN_CTIME
    ):
        times = "ctime"
    with changing(case / "full", times=times):
        run(case)
