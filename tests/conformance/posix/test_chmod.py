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
def test_all_twelve_mode_bits_are_set(place: CaseDirectory, name: str, bits: int) -> None:
    with changing(place / name, times="ctime"):
        before = os.lstat(place / name)
        os.chmod(place / name, bits)
    after = os.lstat(place / name)
    assert stat.S_IMODE(after.st_mode) == bits
    for field in ("st_uid", "st_gid", "st_mtime_ns", "st_ino", "st_dev"):
        assert getattr(after, field) == getattr(before, field), field
    assert stat.S_ISDIR(after.st_mode) or after.st_size == before.st_size
    assert stat.S_IFMT(after.st_mode) == stat.S_IFMT(before.st_mode)


def test_chmod_keeps_the_contents(place: CaseDirectory) -> None:
    os.chmod(place / "file", 0o600)
    os.chmod(place / "full", 0o700)
    assert (place / "file").read_bytes() == DATA
    assert sorted(os.listdir(place / "full")) == ["inner", "sub"]


@pytest.mark.parametrize(("link", "target"), [("link", "file"), ("dirlink", "full")])
def test_chmod_follows_a_symlink(place: CaseDirectory, link: str, target: str) -> None:
    os.chmod(place / link, 0o711)
    assert mode(place / target) == 0o711
    assert mode(place / link) == 0o777


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_fchmod_changes_the_mode(place: CaseDirectory, flags: int) -> None:
    with opened(place / "file", flags) as descriptor:
        os.fchmod(descriptor, 0o640)
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o640
    assert mode(place / "file") == 0o640


def test_fchmod_changes_the_mode_of_a_directory(place: CaseDirectory) -> None:
    with opened(place / "full", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fchmod(descriptor, 0o700)
    assert mode(place / "full") == 0o700


@missing_paths
def test_chmod_of_a_missing_path_fails(place: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        os.chmod(place / path, 0o644)


@pytest.mark.parametrize("name", ["file", "full", "everybodys", "open", "fifo"])
def test_only_the_owner_may_chmod(place: CaseDirectory, name: str) -> None:
    before = mode(place / name)
    with acting_as(), fails(errno.EPERM):
        os.chmod(place / name, 0o777)
    assert mode(place / name) == before


@pytest.mark.parametrize("name", ["mine", "unprivileged", "sticky/mine", "setid"])
def test_owner_may_chmod(place: CaseDirectory, name: str) -> None:
    with acting_as():
        os.chmod(place / name, 0o400)
    assert mode(place / name) == 0o400


def test_unprivileged_user_cannot_chmod_below_an_unsearchable_directory(
    place: CaseDirectory,
) -> None:
    os.chown(place / "closed/inside", 65534, 65534)
    with acting_as(), fails(errno.EACCES):
        os.chmod(place / "closed/inside", 0o777)


def test_owner_outside_the_group_cannot_set_set_group_id(place: CaseDirectory) -> None:
    os.chown(place / "mine", 65534, 4321)
    with acting_as():
        os.chmod(place / "mine", 0o2755)
    assert mode(place / "mine") == 0o755
    with acting_as(groups=[4321]):
        os.chmod(place / "mine", 0o2755)
    assert mode(place / "mine") == 0o2755


@pytest.mark.parametrize(("bits", "reads", "writes"), [(0, 0, 0), (0o400, 1, 0), (0o200, 0, 1)])
def test_new_mode_applies_at_once(place: CaseDirectory, bits: int, reads: int, writes: int) -> None:
    with acting_as():
        for flags in (os.O_RDONLY, os.O_RDWR):
            os.close(os.open(place / "mine", flags))
        os.chmod(place / "mine", bits)
        for flags, allowed in ((os.O_RDONLY, reads), (os.O_WRONLY, writes)):
            if allowed:
                os.close(os.open(place / "mine", flags))
            else:
                with fails(errno.EACCES):
                    os.open(place / "mine", flags)


def test_new_mode_of_a_directory_applies_at_once(place: CaseDirectory) -> None:
    with acting_as():
        assert os.listdir(place / "full") != []
        os.stat(place / "full/inner")
    os.chmod(place / "full", 0o600)
    with acting_as():
        with fails(errno.EACCES):
            os.stat(place / "full/inner")
        with fails(errno.EACCES):
            os.listdir(place / "full")
