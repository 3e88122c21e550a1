"""chmod(2) and fchmod(2)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conformance.posix.cases import changing, fails, missing_paths, opened
from tests.support.subjects import CaseDirectory
from tests.support.templates import DATA
from tests.support.unprivileged import acting_as


def mode(path: os.PathLike[str]) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("bits", [0, 0o400, 0o644, 0o755, 0o777, 0o1777, 0o2755, 0o4711, 0o7777])
@pytest.mark.parametrize("name", ["file", "full", "fifo"])
def test_all_twelve_mode_bits_are_set(case: CaseDirectory, name: str, bits: int) -> None:
    with changing(case / name, times="ctime"):
        before = os.lstat(case / name)
        os.chmod(case / name, bits)
    after = os.lstat(case / name)
    assert stat.S_IMODE(after.st_mode) == bits
    for field in ("st_uid", "st_gid", "st_mtime_ns", "st_ino", "st_dev"):
        assert getattr(after, field) == getattr(before, field), field
    assert stat.S_ISDIR(after.st_mode) or after.st_size == before.st_size
    assert stat.S_IFMT(after.st_mode) == stat.S_IFMT(before.st_mode)


def test_chmod_keeps_the_contents(case: CaseDirectory) -> None:
    os.chmod(case / "file", 0o600)
    os.chmod(case / "full", 0o700)
    assert (case / "file").read_bytes() == DATA
    assert sorted(os.listdir(case / "full")) == ["inner", "sub"]


@pytest.mark.parametrize(("link", "target"), [("link", "file"), ("dirlink", "full")])
def test_chmod_follows_a_symlink(case: CaseDirectory, link: str, target: str) -> None:
    os.chmod(case / link, 0o711)
    assert mode(case / target) == 0o711
    assert mode(case / link) == 0o777


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_fchmod_changes_the_mode(case: CaseDirectory, flags: int) -> None:
    with opened(case / "file", flags) as descriptor:
        os.fchmod(descriptor, 0o640)
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o640
    assert mode(case / "file") == 0o640


def test_fchmod_changes_the_mode_of_a_directory(case: CaseDirectory) -> None:
    with opened(case / "full", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fchmod(descriptor, 0o700)
    assert mode(case / "full") == 0o700


@missing_paths
def test_chmod_of_a_missing_path_fails(case: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        os.chmod(case / path, 0o644)


@pytest.mark.parametrize("name", ["file", "full", "everybodys", "open", "fifo"])
def test_only_the_owner_may_chmod(case: CaseDirectory, name: str) -> None:
    before = mode(case / name)
    with acting_as(), fails(errno.EPERM):
        os.chmod(case / name, 0o777)
    assert mode(case / name) == before


@pytest.mark.parametrize("name", ["mine", "unprivileged", "sticky/mine", "setid"])
def test_owner_may_chmod(case: CaseDirectory, name: str) -> None:
    with acting_as():
        os.chmod(case / name, 0o400)
    assert mode(case / name) == 0o400


def test_unprivileged_user_cannot_chmod_below_an_unsearchable_directory(
    case: CaseDirectory,
) -> None:
    os.chown(case / "closed/inside", 65534, 65534)
    with acting_as(), fails(errno.EACCES):
        os.chmod(case / "closed/inside", 0o777)


def test_owner_outside_the_group_cannot_set_set_group_id(case: CaseDirectory) -> None:
    os.chown(case / "mine", 65534, 4321)
    with acting_as():
        os.chmod(case / "mine", 0o2755)
    assert mode(case / "mine") == 0o755
    with acting_as(groups=[4321]):
        os.chmod(case / "mine", 0o2755)
    assert mode(case / "mine") == 0o2755


@pytest.mark.parametrize(("bits", "reads", "writes"), [(0, 0, 0), (0o400, 1, 0), (0o200, 0, 1)])
def test_new_mode_applies_at_once(case: CaseDirectory, bits: int, reads: int, writes: int) -> None:
    with acting_as():
        for flags in (os.O_RDONLY, os.O_RDWR):
            os.close(os.open(case / "mine", flags))
        os.chmod(case / "mine", bits)
        for flags, allowed in ((os.O_RDONLY, reads), (os.O_WRONLY, writes)):
            if allowed:
                os.close(os.open(case / "mine", flags))
            else:
                with fails(errno.EACCES):
                    os.open(case / "mine", flags)


def test_new_mode_of_a_directory_applies_at_once(case: CaseDirectory) -> None:
    with acting_as():
        assert os.listdir(case / "full") != []
        os.stat(case / "full/inner")
    os.chmod(case / "full", 0o600)
    with acting_as():
        with fails(errno.EACCES):
            os.stat(case / "full/inner")
        with fails(errno.EACCES):
            os.listdir(case / "full")
