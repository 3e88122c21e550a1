"""chown(2), lchown(2), fchown(2), and the set-ID bits and capabilities that changes clear."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest

from tests.conformance.posix.cases import changing, fails, missing_paths, opened
from tests.support.subjects import CaseDirectory
from tests.support.templates import DATA, UNPRIVILEGED
from tests.support.unprivileged import acting_as


def owner(path: os.PathLike[str]) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def mode(path: os.PathLike[str]) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize(
    ("uid", "gid", "wanted"),
    [
        (7, 8, (7, 8)),
        (7, -1, (7, 0)),
        (-1, 8, (0, 8)),
        (1 << 20, 4_000_000_000, (1 << 20, 4_000_000_000)),
    ],
)
@pytest.mark.parametrize("name", ["file", "full", "fifo", "link", "dangling"])
def test_owner_and_group_are_set_separately(
    case: CaseDirectory, name: str, uid: int, gid: int, wanted: tuple[int, int]
) -> None:
    with changing(case / name, times="ctime"):
        os.lchown(case / name, uid, gid)
    assert owner(case / name) == wanted


@pytest.mark.parametrize(("link", "target"), [("link", "file"), ("dirlink", "full")])
def test_chown_follows_symlinks_and_lchown_does_not(
    case: CaseDirectory, link: str, target: str
) -> None:
    os.chown(case / link, 7, 8)
    assert (owner(case / target), owner(case / link)) == ((7, 8), (0, 0))
    os.lchown(case / link, 5, 6)
    assert (owner(case / target), owner(case / link)) == ((7, 8), (5, 6))


def test_fchown_needs_no_write_access(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDONLY) as descriptor:
        os.fchown(descriptor, 7, 8)
        assert os.fstat(descriptor).st_uid == 7
        assert os.read(descriptor, 10) == DATA[:10]
    assert owner(case / "file") == (7, 8)


@missing_paths
def test_chown_of_a_missing_path_fails(case: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        os.chown(case / path, 1, 1)


@pytest.mark.parametrize(
    ("name", "uid", "gid"),
    [
        ("file", UNPRIVILEGED, -1),
        ("file", -1, UNPRIVILEGED),
        ("mine", 0, -1),
        ("mine", -1, 0),
        ("full", UNPRIVILEGED, UNPRIVILEGED),
        ("open", UNPRIVILEGED, UNPRIVILEGED),
        ("everybodys", UNPRIVILEGED, UNPRIVILEGED),
    ],
)
def test_unprivileged_user_cannot_change_owners(
    case: CaseDirectory, name: str, uid: int, gid: int
) -> None:
    before = owner(case / name)
    with acting_as(), fails(errno.EPERM):
        os.chown(case / name, uid, gid)
    assert owner(case / name) == before


def test_owner_may_set_one_of_its_groups(case: CaseDirectory) -> None:
    with acting_as(groups=[4321]):
        os.chown(case / "mine", -1, 4321)
    assert owner(case / "mine") == (UNPRIVILEGED, 4321)
    with acting_as(groups=[4321]), fails(errno.EPERM):
        os.chown(case / "mine", -1, 4322)


def test_unprivileged_user_cannot_chown_below_an_unsearchable_directory(
    case: CaseDirectory,
) -> None:
    with acting_as(), fails(errno.EACCES):
        os.chown(case / "closed/inside", UNPRIVILEGED, UNPRIVILEGED)


def by_chown(case: CaseDirectory) -> None:
    os.chown(case / "setid", UNPRIVILEGED, UNPRIVILEGED)


def by_write(case: CaseDirectory) -> None:
    with opened(case / "setid", os.O_WRONLY) as descriptor:
        os.write(descriptor, b"x")


def by_truncate(case: CaseDirectory) -> None:
    os.truncate(case / "setid", 3)


def by_open(case: CaseDirectory) -> None:
    os.close(os.open(case / "setid", os.O_WRONLY | os.O_TRUNC))


CHANGES = {"chown": by_chown, "write": by_write, "truncate": by_truncate, "O_TRUNC": by_open}


@pytest.mark.parametrize("change", CHANGES)
def test_change_by_the_owner_clears_set_id_bits(case: CaseDirectory, change: str) -> None:
    assert mode(case / "setid") == 0o6755
    with acting_as():
        CHANGES[change](case)
    assert mode(case / "setid") == 0o755


@pytest.mark.parametrize(("change", "left"), [("chown", 0o755), ("write", 0o6755)])
def test_change_by_root_keeps_set_id_bits_except_chown(
    case: CaseDirectory, change: str, left: int
) -> None:
    CHANGES[change](case)
    assert mode(case / "setid") == left


def test_directory_keeps_its_set_id_bits(case: CaseDirectory) -> None:
    os.chown(case / "setgid", 7, 8)
    assert mode(case / "setgid") == 0o2777
    assert owner(case / "setgid") == (7, 8)


@pytest.mark.parametrize("change", ["chown", "write", "truncate"])
def test_change_clears_capabilities(case: CaseDirectory, change: str) -> None:
    # struct vfs_cap_data of include/uapi/linux/capability.h, version 2: cap_net_raw, effective
    os.setxattr(
        case / "setid", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    )
    assert "security.capability" in os.listxattr(case / "setid")
    CHANGES[change](case)
    assert "security.capability" not in os.listxattr(case / "setid")


def test_new_owner_has_access_at_once(case: CaseDirectory) -> None:
    os.chmod(case / "secret", 0o600)
    with acting_as(), fails(errno.EACCES):
        (case / "secret").read_bytes()
    os.chown(case / "secret", UNPRIVILEGED, 0)
    with acting_as():
        assert (case / "secret").read_bytes() == b"secret"
    os.chown(case / "secret", 0, 4321)
    os.chmod(case / "secret", 0o060)
    with acting_as(groups=[4321]):
        assert (case / "secret").read_bytes() == b"secret"
