"""symlink(2) and readlink(2)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conformance.posix.cases import changing, fails, names
from tests.support.subjects import CaseDirectory
from tests.support.templates import DATA
from tests.support.unprivileged import acting_as


@pytest.mark.parametrize(
    "target",
    [b"file", b"../..", b"/etc/passwd", b"a b\n\xff\x01", b"missing", b"x" * 255, b"y/" * 2047],
    ids=lambda value: str(value[:10]),
)
def test_any_symlink_target_is_kept(case: CaseDirectory, target: bytes) -> None:
    path = os.fsencode(case / "new")
    os.symlink(target, path)
    status = os.lstat(path)
    assert stat.S_ISLNK(status.st_mode)
    assert os.readlink(path) == target
    assert status.st_size == len(target)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 0, 0o777)


@pytest.mark.parametrize(
    "name", ["file", "hollow", "full", "link", "dirlink", "dangling", "loop", "fifo"]
)
def test_symlink_on_an_existing_name_fails(case: CaseDirectory, name: str) -> None:
    with fails(errno.EEXIST):
        os.symlink("file", case / name)


@pytest.mark.parametrize(
    ("target", "path", "number"),
    [
        ("", "new", errno.ENOENT),
        ("x" * 4096, "new", errno.ENAMETOOLONG),
        ("file", "missing/new", errno.ENOENT),
        ("file", "file/new", errno.ENOTDIR),
        ("file", "loop/new", errno.ELOOP),
        ("file", "n" * 256, errno.ENAMETOOLONG),
        ("file", "new/", errno.ENOENT),
    ],
    ids=lambda value: str(value)[:12],
)
def test_invalid_symlink_fails(case: CaseDirectory, target: str, path: str, number: int) -> None:
    with fails(number):
        os.symlink(target, os.fsencode(case.path) + b"/" + path.encode())


@pytest.mark.parametrize("name", ["file", "hollow", "fifo"])
def test_readlink_of_another_type_fails(case: CaseDirectory, name: str) -> None:
    with fails(errno.EINVAL):
        os.readlink(case / name)


@pytest.mark.parametrize(
    ("name", "target"),
    [("link", "file"), ("dirlink", "full"), ("dangling", "missing"), ("loop", "loop")],
)
def test_lower_symlink_is_read_and_kept(case: CaseDirectory, name: str, target: str) -> None:
    assert os.readlink(case / name) == target
    os.lchown(case / name, 7, 8)
    assert os.readlink(case / name) == target
    assert os.lstat(case / name).st_uid == 7


def test_symlink_updates_times_of_the_parent(case: CaseDirectory) -> None:
    with changing(case / "full", times="mtime ctime"):
        os.symlink("x", case / "full/new")


def test_symlink_resolves_through_lower_and_new_directories(case: CaseDirectory) -> None:
    os.symlink("../file", case / "full/back")
    os.symlink("dirlink/back", case / "new")
    assert (case / "new").read_bytes() == DATA
    (case / "new").write_bytes(b"through")
    assert (case / "file").read_bytes() == b"through"
    assert names(case / "dirlink") == {"inner", "sub", "back"}


def test_chain_of_41_symlinks_fails_with_eloop(case: CaseDirectory) -> None:
    os.symlink("file", case / "s0")
    for number in range(1, 60):
        os.symlink(f"s{number - 1}", case / f"s{number}")
    assert (case / "s39").read_bytes() == DATA
    with fails(errno.ELOOP):
        os.stat(case / "s40")


def test_new_symlink_belongs_to_the_caller(case: CaseDirectory) -> None:
    with acting_as(1234, 5678):
        os.symlink("x", case / "open/new")
        with fails(errno.EACCES):
            os.symlink("x", case / "full/new")
    status = os.lstat(case / "open/new")
    assert (status.st_uid, status.st_gid) == (1234, 5678)


def test_deleted_symlink_can_become_a_file_and_vice_versa(case: CaseDirectory) -> None:
    os.unlink(case / "link")
    os.unlink(case / "other")
    (case / "link").write_bytes(b"a file")
    os.symlink("link", case / "other")
    assert (case / "other").read_bytes() == b"a file"
