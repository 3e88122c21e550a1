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
    place: CaseDirectory, name: str, uid: int, gid: int, wanted: tuple[int, int]
) -> None:
    with changing(place / name, times="ctime"):
        os.lchown(place / name, uid, gid)
    assert owner(place / name) == wanted


@pytest.mark.parametrize(("link", "target"), [("link", "file"), ("dirlink", "full")])
def test_chown_follows_symlinks_and_lchown_does_not(
    place: CaseDirectory, link: str, target: str
) -> None:
    os.chown(place / link, 7, 8)
    assert (owner(place / target), owner(place / link)) == ((7, 8), (0, 0))
    os.lchown(place / link, 5, 6)
    assert (owner(place / target), owner(place / link)) == ((7, 8), (5, 6))


def test_fchown_needs_no_write_access(place: CaseDirectory) -> None:
    with opened(place / "file", os.O_RDONLY) as descriptor:
        os.fchown(descriptor, 7, 8)
        assert os.fstat(descriptor).st_uid == 7
        assert os.read(descriptor, 10) == DATA[:10]
    assert owner(place / "file") == (7, 8)


@missing_paths
def test_chown_of_a_missing_path_fails(place: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        os.chown(place / path, 1, 1)


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
    place: CaseDirectory, name: str, uid: int, gid: int
) -> None:
    before = owner(place / name)
    with acting_as(), fails(errno.EPERM):
        os.chown(place / name, uid, gid)
    assert owner(place / name) == before


def test_owner_may_set_one_of_its_groups(place: CaseDirectory) -> None:
    with acting_as(groups=[4321]):
        os.chown(place / "mine", -1, 4321)
    assert owner(place / "mine") == (UNPRIVILEGED, 4321)
    with acting_as(groups=[4321]), fails(errno.EPERM):
        os.chown(place / "mine", -1, 4322)


def test_unprivileged_user_cannot_chown_below_an_unsearchable_directory(
    place: CaseDirectory,
) -> None:
    with acting_as(), fails(errno.EACCES):
        os.chown(place / "closed/inside", UNPRIVILEGED, UNPRIVILEGED)


def by_chown(place: CaseDirectory) -> None:
    os.chown(place / "setid", UNPRIVILEGED, UNPRIVILEGED)


def by_write(place: CaseDirectory) -> None:
    with opened(place / "setid", os.O_WRONLY) as descriptor:
        os.write(descriptor, b"x")


def by_truncate(place: CaseDirectory) -> None:
    os.truncate(place / "setid", 3)


def by_open(place: CaseDirectory) -> None:
    os.close(os.open(place / "setid", os.O_WRONLY | os.O_TRUNC))


CHANGES = {"chown": by_chown, "write": by_write, "truncate": by_truncate, "O_TRUNC": by_open}


@pytest.mark.parametrize("change", CHANGES)
def test_change_by_the_owner_clears_set_id_bits(place: CaseDirectory, change: str) -> None:
    assert mode(place / "setid") == 0o6755
    with acting_as():
        CHANGES[change](place)
    assert mode(place / "setid") == 0o755


@pytest.mark.parametrize(("change", "left"), [("chown", 0o755), ("write", 0o6755)])
def test_change_by_root_keeps_set_id_bits_except_chown(
    place: CaseDirectory, change: str, left: int
) -> None:
    CHANGES[change](place)
    assert mode(place / "setid") == left


def test_directory_keeps_its_set_id_bits(place: CaseDirectory) -> None:
    os.chown(place / "setgid", 7, 8)
    assert mode(place / "setgid") == 0o2777
    assert owner(place / "setgid") == (7, 8)


@pytest.mark.parametrize("change", ["chown", "write", "truncate"])
def test_change_clears_capabilities(place: CaseDirectory, change: str) -> None:
    # struct vfs_cap_data of include/uapi/linux/capability.h, version 2: cap_net_raw, effective
    os.setxattr(
        place / "setid", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    )
    assert "security.capability" in os.listxattr(place / "setid")
    CHANGES[change](place)
    assert "security.capability" not in os.listxattr(place / "setid")


def test_new_owner_has_access_at_once(place: CaseDirectory) -> None:
    os.chmod(place / "secret", 0o600)
    with acting_as(), fails(errno.EACCES):
        (place / "secret").read_bytes()
    os.chown(place / "secret", UNPRIVILEGED, 0)
    with acting_as():
        assert (place / "secret").read_bytes() == b"secret"
    os.chown(place / "secret", 0, 4321)
    os.chmod(place / "secret", 0o060)
    with acting_as(groups=[4321]):
        assert (place / "secret").read_bytes() == b"secret"
