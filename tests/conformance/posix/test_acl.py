"""POSIX ACLs: acl(5), include/uapi/linux/posix_acl_xattr.h."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest

from tests.conformance.posix.cases import changing, fails
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory
from tests.support.unprivileged import acting_as

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NONE = 0xFFFFFFFF
Entry = tuple[int, int, int]


def acl(*entries: Entry) -> bytes:
    """Encode entries of (tag, permissions, ID)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def for_user(uid: int, rights: int, *, mask: int = 7, group: int = 4) -> bytes:
    return acl(
        (USER_OBJ, 6, NONE),
        (USER, rights, uid),
        (GROUP_OBJ, group, NONE),
        (MASK, mask, NONE),
        (OTHER, 0, NONE),
    )


MINIMAL = acl((USER_OBJ, 6, NONE), (GROUP_OBJ, 4, NONE), (OTHER, 0, NONE))


acls = pytest.mark.takes_for_granted(Deviation.NO_ACLS)


@pytest.fixture(autouse=True)
def supported(case: CaseDirectory) -> None:
    if case.deviates(Deviation.NO_ACLS):
        return
    try:
        os.setxattr(case.path, DEFAULT, for_user(1, 7))
        os.removexattr(case.path, DEFAULT)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017 - anything else is a failure
        if case.subject.words is not None:
            raise
        pytest.skip("no ACLs in the directory for temporary files")


def mode(path: os.PathLike[str]) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@acls
@pytest.mark.parametrize("name", ["file", "full"])
def test_acl_is_kept_and_its_mask_is_the_group_mode(case: CaseDirectory, name: str) -> None:
    value = for_user(1234, 7, mask=5)
    with changing(case / name, times="ctime"):
        os.setxattr(case / name, ACCESS, value)
    assert os.getxattr(case / name, ACCESS) == value
    assert ACCESS in os.listxattr(case / name)
    assert mode(case / name) == 0o650


@acls
@pytest.mark.parametrize(
    ("rights", "mask", "reads", "writes"),
    [(6, 7, True, True), (4, 7, True, False), (6, 4, True, False), (0, 7, False, False)],
)
def test_acl_grants_a_user_access(
    case: CaseDirectory, rights: int, mask: int, reads: bool, writes: bool
) -> None:
    os.setxattr(case / "file", ACCESS, for_user(1234, rights, mask=mask))
    for uid, may in ((1234, (reads, writes)), (1235, (False, False))):
        for flags, allowed in zip((os.O_RDONLY, os.O_WRONLY), may, strict=True):
            with acting_as(uid, 5678):
                if allowed:
                    os.close(os.open(case / "file", flags))
                else:
                    with fails(errno.EACCES):
                        os.open(case / "file", flags)


@acls
def test_acl_grants_a_group_access(case: CaseDirectory) -> None:
    value = acl(
        (USER_OBJ, 6, NONE),
        (GROUP_OBJ, 0, NONE),
        (GROUP, 4, 4321),
        (MASK, 4, NONE),
        (OTHER, 0, NONE),
    )
    os.setxattr(case / "file", ACCESS, value)
    with acting_as(groups=[4321]):
        os.close(os.open(case / "file", os.O_RDONLY))
    with acting_as(), fails(errno.EACCES):
        os.open(case / "file", os.O_RDONLY)


@acls
def test_new_mode_changes_the_mask(case: CaseDirectory) -> None:
    os.setxattr(case / "file", ACCESS, for_user(1234, 7))
    os.chmod(case / "file", 0o640)
    assert os.getxattr(case / "file", ACCESS) == for_user(1234, 7, mask=4)


@acls
def test_minimal_acl_becomes_the_mode(case: CaseDirectory) -> None:
    os.setxattr(case / "file", ACCESS, MINIMAL)
    assert mode(case / "file") == 0o640
    assert ACCESS not in os.listxattr(case / "file")


@acls
@pytest.mark.parametrize("change", ["write", "rename", "link"])
def test_acl_survives_other_changes(case: CaseDirectory, change: str) -> None:
    value = for_user(1234, 4, mask=4)
    os.setxattr(case / "file", ACCESS, value)
    path = case / "file"
    if change == "write":
        path.write_bytes(b"x")
    else:
        {"rename": os.rename, "link": os.link}[change](path, case / "full/new")
        path = case / "full/new"
    assert os.getxattr(path, ACCESS) == value


@acls
def test_default_acl_is_inherited(case: CaseDirectory) -> None:
    value = for_user(1234, 7)
    os.setxattr(case / "full", DEFAULT, value)
    os.mkdir(case / "full/new", 0o777)
    os.close(os.open(case / "full/file", os.O_CREAT | os.O_WRONLY, 0o666))
    assert os.getxattr(case / "full/new", DEFAULT) == value
    assert os.getxattr(case / "full/new", ACCESS) == value
    assert os.getxattr(case / "full/file", ACCESS) == for_user(1234, 7, mask=6)
    assert mode(case / "full/file") == 0o660, "the mask of the process does not count here"
    with acting_as(1234, 5678):
        os.close(os.open(case / "full/file", os.O_RDWR))


@acls
def test_removing_an_acl_keeps_the_mode(case: CaseDirectory) -> None:
    os.setxattr(case / "file", ACCESS, for_user(1234, 7, mask=6))
    os.removexattr(case / "file", ACCESS)
    assert os.listxattr(case / "file") == []
    assert mode(case / "file") == 0o660
    with acting_as(1234, 5678), fails(errno.EACCES):
        os.open(case / "file", os.O_RDONLY)


@acls
@pytest.mark.parametrize(
    ("name", "key", "value", "numbers"),
    [
        ("file", ACCESS, b"nonsense", (errno.EINVAL, errno.EOPNOTSUPP)),
        ("file", ACCESS, acl((USER_OBJ, 6, NONE)), (errno.EINVAL,)),
        ("file", DEFAULT, for_user(1, 7), (errno.EACCES,)),
    ],
    ids=["no ACL", "a part of one", "a default on a file"],
)
def test_malformed_acl_is_refused(
    case: CaseDirectory, name: str, key: str, value: bytes, numbers: tuple[int, ...]
) -> None:
    with fails(*numbers):
        os.setxattr(case / name, key, value)


@acls
@pytest.mark.parametrize(
    ("name", "allowed"), [("file", False), ("everybodys", False), ("mine", True)]
)
def test_only_the_owner_sets_an_acl(case: CaseDirectory, name: str, allowed: bool) -> None:
    with acting_as():
        if allowed:
            os.setxattr(case / name, ACCESS, for_user(1234, 4))
        else:
            with fails(errno.EPERM):
                os.setxattr(case / name, ACCESS, for_user(1234, 4))


@pytest.mark.parametrize("name", [ACCESS, DEFAULT])
def test_driver_without_acls_returns_eopnotsupp(case: CaseDirectory, name: str) -> None:
    if case.deviates(Deviation.NO_ACLS):
        with fails(errno.EOPNOTSUPP):
            os.setxattr(case.path, name, for_user(1, 7))
    else:
        os.setxattr(case.path, name, for_user(1, 7))
    assert (name in os.listxattr(case.path)) != case.deviates(Deviation.NO_ACLS)
