"""POSIX ACLs: acl(5), include/uapi/linux/posix_acl_xattr.h."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conformance.posix.cases import changing, fails
from tests.support.acls import (
    ACCESS,
    DEFAULT,
    GROUP,
    GROUP_OBJ,
    MASK,
    NONE,
    OTHER,
    USER_OBJ,
    acl,
    for_user,
)
from tests.support.deviations import Deviation
from tests.support.subjects import CaseDirectory
from tests.support.unprivileged import acting_as

MINIMAL = acl((USER_OBJ, 6, NONE), (GROUP_OBJ, 4, NONE), (OTHER, 0, NONE))


@pytest.fixture(autouse=True)
def supported(case: CaseDirectory) -> None:
    if case.deviates(Deviation.NO_ACL_ON_LOWER_FILES, "file"):
        with fails(errno.EOPNOTSUPP):
            os.setxattr(case / "file", ACCESS, for_user(1, 7))
        for directory, _, files in os.walk(case.path):
            for path in (directory, *(os.path.join(directory, name) for name in files)):
                if not os.path.islink(path):
                    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))  # copies it up
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


@pytest.mark.parametrize("name", ["file", "full"])
def test_acl_is_kept_and_its_mask_is_the_group_mode(case: CaseDirectory, name: str) -> None:
    value = for_user(1234, 7, mask=5)
    with changing(case / name, times="ctime"):
        os.setxattr(case / name, ACCESS, value)
    assert os.getxattr(case / name, ACCESS) == value
    assert ACCESS in os.listxattr(case / name)
    assert mode(case / name) == 0o650


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


def test_new_mode_changes_the_mask(case: CaseDirectory) -> None:
    os.setxattr(case / "file", ACCESS, for_user(1234, 7))
    os.chmod(case / "file", 0o640)
    assert os.getxattr(case / "file", ACCESS) == for_user(1234, 7, mask=4)


def test_minimal_acl_becomes_the_mode(case: CaseDirectory) -> None:
    os.setxattr(case / "file", ACCESS, MINIMAL)
    assert mode(case / "file") == 0o640
    assert ACCESS not in os.listxattr(case / "file")


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


def test_removing_an_acl_keeps_the_mode(case: CaseDirectory) -> None:
    os.setxattr(case / "file", ACCESS, for_user(1234, 7, mask=6))
    os.removexattr(case / "file", ACCESS)
    assert os.listxattr(case / "file") == []
    assert mode(case / "file") == 0o660
    with acting_as(1234, 5678), fails(errno.EACCES):
        os.open(case / "file", os.O_RDONLY)


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


@pytest.mark.parametrize("make", ["file", "directory", "FIFO", "symlink"])
@pytest.mark.parametrize("owner", [0, 1234])
def test_new_file_inherits_a_default_acl_and_no_umask(
    case: CaseDirectory, make: str, owner: int
) -> None:
    default, path = for_user(1234, 7, group=5, mask=7), case / "full/new"
    os.setxattr(case / "full", DEFAULT, default)
    os.chmod(case / "full", 0o777)
    with acting_as(owner, owner):
        before = os.umask(0o077)
        try:
            if make == "file":
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o664))
            elif make == "directory":
                os.mkdir(path, 0o775)
            elif make == "FIFO":
                os.mkfifo(path, 0o664)
            else:
                os.symlink("target", path)
        finally:
            os.umask(before)
    names = set(os.listxattr(path, follow_symlinks=False))
    if make == "symlink":
        assert not names
        return
    rights = 7 if make == "directory" else 6
    assert os.getxattr(path, ACCESS) == for_user(1234, 7, group=5, mask=rights)
    assert mode(path) == 0o600 | rights << 3
    assert names == ({ACCESS, DEFAULT} if make == "directory" else {ACCESS})
    assert os.stat(path).st_uid == owner


def test_umask_applies_after_the_default_acl_is_removed(case: CaseDirectory) -> None:
    os.setxattr(case / "full", DEFAULT, for_user(1234, 7))
    os.close(os.open(case / "full/with", os.O_CREAT | os.O_WRONLY, 0o666))
    os.removexattr(case / "full", DEFAULT)
    before = os.umask(0o027)
    try:
        os.close(os.open(case / "full/without", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(before)
    assert mode(case / "full/without") == 0o640
    assert os.listxattr(case / "full/without") == []


@pytest.mark.parametrize(("groups", "kept"), [((), False), ((4321,), True)])
def test_acl_of_a_user_outside_the_group_clears_the_set_group_id_bit(
    case: CaseDirectory, groups: tuple[int, ...], kept: bool
) -> None:
    os.chown(case / "mine", -1, 4321)
    os.chmod(case / "mine", 0o2710)
    owner = os.stat(case / "mine").st_uid
    with acting_as(owner, 5678, groups):
        os.setxattr(case / "mine", ACCESS, for_user(1234, 4))
    assert bool(mode(case / "mine") & stat.S_ISGID) == kept
