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
def test_any_symlink_target_is_kept(place: CaseDirectory, target: bytes) -> None:
    path = os.fsencode(place / "new")
    os.symlink(target, path)
    status = os.lstat(path)
    assert stat.S_ISLNK(status.st_mode)
    assert os.readlink(path) == target
    assert status.st_size == len(target)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 0, 0o777)


@pytest.mark.parametrize(
    "name", ["file", "hollow", "full", "link", "dirlink", "dangling", "loop", "fifo"]
)
def test_symlink_on_an_existing_name_fails(place: CaseDirectory, name: str) -> None:
    with fails(errno.EEXIST):
        os.symlink("file", place / name)


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
def test_invalid_symlink_fails(place: CaseDirectory, target: str, path: str, number: int) -> None:
    with fails(number):
        os.symlink(target, os.fsencode(place.path) + b"/" + path.encode())


@pytest.mark.parametrize("name", ["file", "hollow", "fifo"])
def test_readlink_of_another_type_fails(place: CaseDirectory, name: str) -> None:
    with fails(errno.EINVAL):
        os.readlink(place / name)


@pytest.mark.parametrize(
    ("name", "target"),
    [("link", "file"), ("dirlink", "full"), ("dangling", "missing"), ("loop", "loop")],
)
def test_lower_symlink_is_read_and_kept(place: CaseDirectory, name: str, target: str) -> None:
    assert os.readlink(place / name) == target
    os.lchown(place / name, 7, 8)
    assert os.readlink(place / name) == target
    assert os.lstat(place / name).st_uid == 7


def test_symlink_updates_times_of_the_parent(place: CaseDirectory) -> None:
    with changing(place / "full", times="mtime ctime"):
        os.symlink("x", place / "full/new")


def test_symlink_resolves_through_lower_and_new_directories(place: CaseDirectory) -> None:
    os.symlink("../file", place / "full/back")
    os.symlink("dirlink/back", place / "new")
    assert (place / "new").read_bytes() == DATA
    (place / "new").write_bytes(b"through")
    assert (place / "file").read_bytes() == b"through"
    assert names(place / "dirlink") == {"inner", "sub", "back"}


def test_chain_of_41_symlinks_fails_with_eloop(place: CaseDirectory) -> None:
    os.symlink("file", place / "s0")
    for number in range(1, 60):
        os.symlink(f"s{number - 1}", place / f"s{number}")
    assert (place / "s39").read_bytes() == DATA
    with fails(errno.ELOOP):
        os.stat(place / "s40")


def test_new_symlink_belongs_to_the_caller(place: CaseDirectory) -> None:
    with acting_as(1234, 5678):
        os.symlink("x", place / "open/new")
        with fails(errno.EACCES):
            os.symlink("x", place / "full/new")
    status = os.lstat(place / "open/new")
    assert (status.st_uid, status.st_gid) == (1234, 5678)


def test_deleted_symlink_can_become_a_file_and_vice_versa(place: CaseDirectory) -> None:
    os.unlink(place / "link")
    os.unlink(place / "other")
    (place / "link").write_bytes(b"a file")
    os.symlink("link", place / "other")
    assert (place / "other").read_bytes() == b"a file"
