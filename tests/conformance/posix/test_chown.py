"""chown(2), lchown(2), fchown(2), and the bits and capabilities that changes take away."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest

from tests.conformance.posix.cases import changing, fails, leading_nowhere, opened
from tests.support.subjects import Place
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
def test_both_or_one_is_set(
    place: Place, name: str, uid: int, gid: int, wanted: tuple[int, int]
) -> None:
    with changing(place / name, times="ctime"):
        os.lchown(place / name, uid, gid)
    assert owner(place / name) == wanted


@pytest.mark.parametrize(("link", "target"), [("link", "file"), ("dirlink", "full")])
def test_a_symlink_is_followed_or_not(place: Place, link: str, target: str) -> None:
    os.chown(place / link, 7, 8)
    assert (owner(place / target), owner(place / link)) == ((7, 8), (0, 0))
    os.lchown(place / link, 5, 6)
    assert (owner(place / target), owner(place / link)) == ((7, 8), (5, 6))


def test_by_a_descriptor_for_reading(place: Place) -> None:
    with opened(place / "file", os.O_RDONLY) as descriptor:
        os.fchown(descriptor, 7, 8)
        assert os.fstat(descriptor).st_uid == 7
        assert os.read(descriptor, 10) == DATA[:10]
    assert owner(place / "file") == (7, 8)


@leading_nowhere
def test_a_path_that_leads_nowhere_is_refused(place: Place, path: str, number: int) -> None:
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
def test_unprivileged_user_gives_away_nothing_and_takes_nothing(
    place: Place, name: str, uid: int, gid: int
) -> None:
    before = owner(place / name)
    with acting_as(), fails(errno.EPERM):
        os.chown(place / name, uid, gid)
    assert owner(place / name) == before


def test_an_owner_may_choose_among_its_groups(place: Place) -> None:
    with acting_as(groups=[4321]):
        os.chown(place / "mine", -1, 4321)
    assert owner(place / "mine") == (UNPRIVILEGED, 4321)
    with acting_as(groups=[4321]), fails(errno.EPERM):
        os.chown(place / "mine", -1, 4322)


def test_unprivileged_user_changes_nothing_where_it_cannot_search(place: Place) -> None:
    with acting_as(), fails(errno.EACCES):
        os.chown(place / "closed/inside", UNPRIVILEGED, UNPRIVILEGED)


def by_chown(place: Place) -> None:
    os.chown(place / "setid", UNPRIVILEGED, UNPRIVILEGED)


def by_write(place: Place) -> None:
    with opened(place / "setid", os.O_WRONLY) as descriptor:
        os.write(descriptor, b"x")


def by_truncate(place: Place) -> None:
    os.truncate(place / "setid", 3)


def by_open(place: Place) -> None:
    os.close(os.open(place / "setid", os.O_WRONLY | os.O_TRUNC))


CHANGES = {"chown": by_chown, "write": by_write, "truncate": by_truncate, "O_TRUNC": by_open}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_by_its_owner_takes_the_set_id_bits_away(place: Place, change: str) -> None:
    assert mode(place / "setid") == 0o6755
    with acting_as():
        CHANGES[change](place)
    assert mode(place / "setid") == 0o755


@pytest.mark.parametrize(("change", "left"), [("chown", 0o755), ("write", 0o6755)])
def test_a_change_by_root_keeps_the_set_id_bits_but_for_chown(
    place: Place, change: str, left: int
) -> None:
    CHANGES[change](place)
    assert mode(place / "setid") == left


def test_a_directory_keeps_its_set_id_bits(place: Place) -> None:
    os.chown(place / "setgid", 7, 8)
    assert mode(place / "setgid") == 0o2777
    assert owner(place / "setgid") == (7, 8)


@pytest.mark.parametrize("change", ["chown", "write", "truncate"])
def test_a_change_takes_capabilities_away(place: Place, change: str) -> None:
    # struct vfs_cap_data of include/uapi/linux/capability.h, version 2: cap_net_raw, effective
    os.setxattr(
        place / "setid", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    )
    assert "security.capability" in os.listxattr(place / "setid")
    CHANGES[change](place)
    assert "security.capability" not in os.listxattr(place / "setid")


def test_the_new_owner_has_its_rights_at_once(place: Place) -> None:
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
