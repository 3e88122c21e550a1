"""setxattr(2), getxattr(2), listxattr(2), removexattr(2), and xattr(7)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conformance.posix.cases import changing, fails, names, opened
from tests.support.subjects import CaseDirectory
from tests.support.syscalls import getxattr
from tests.support.templates import DATA
from tests.support.unprivileged import acting_as

VALUES = [b"", b"1", b"a\0b\xff", bytes(range(256)), b"v" * 2000]


@pytest.fixture(autouse=True)
def supported(case: CaseDirectory) -> None:
    try:
        os.setxattr(case.path, "user.probe", b"")
        os.removexattr(case.path, "user.probe")
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017 - anything else is a failure
        if case.subject.words is not None:
            raise
        pytest.skip("no user.* attributes in the directory for temporary files")


@pytest.mark.parametrize("value", VALUES, ids=len)
@pytest.mark.parametrize("key", ["user.x", "trusted.x", "security.x", "user." + "n" * 240])
@pytest.mark.parametrize("name", ["file", "full"])
def test_any_xattr_value_is_kept(case: CaseDirectory, name: str, key: str, value: bytes) -> None:
    before = set(os.listxattr(case / name))
    with changing(case / name, times="ctime"):
        os.setxattr(case / name, key, value)
    assert os.getxattr(case / name, key) == value
    assert set(os.listxattr(case / name)) == before | {key}
    with changing(case / name, times="ctime"):
        os.removexattr(case / name, key)
    assert set(os.listxattr(case / name)) == before
    with fails(errno.ENODATA):
        os.getxattr(case / name, key)


@pytest.mark.parametrize("way", ["reader", "writer", "symlink"])
def test_xattr_is_set_by_descriptor_and_through_a_symlink(case: CaseDirectory, way: str) -> None:
    flags = os.O_RDWR if way == "writer" else os.O_RDONLY
    with opened(case / "file", flags) as descriptor:
        target = case / "link" if way == "symlink" else descriptor
        os.setxattr(target, "user.x", b"1")
        assert os.getxattr(target, "user.x") == b"1"
        assert os.listxattr(descriptor) == ["user.x"]
    assert os.getxattr(case / "file", "user.x") == b"1"
    assert (case / "file").read_bytes() == DATA


@pytest.mark.parametrize(
    ("key", "flags", "number"),
    [
        ("user.note", os.XATTR_CREATE, errno.EEXIST),
        ("user.none", os.XATTR_REPLACE, errno.ENODATA),
        ("user.none", os.XATTR_CREATE, 0),
        ("user.note", os.XATTR_REPLACE, 0),
        ("user." + "n" * 251, 0, errno.ERANGE),
        ("nonsense.x", 0, errno.EOPNOTSUPP),
        ("user.", 0, errno.EINVAL),
    ],
    ids=lambda value: str(value)[:12],
)
def test_creating_and_replacing(case: CaseDirectory, key: str, flags: int, number: int) -> None:
    if number:
        with fails(number):
            os.setxattr(case / "noted", key, b"new", flags)
        assert os.getxattr(case / "noted", "user.note") == b"1"
    else:
        os.setxattr(case / "noted", key, b"new", flags)
        assert os.getxattr(case / "noted", key) == b"new"


def test_lower_xattr_can_be_changed_and_removed(case: CaseDirectory) -> None:
    assert os.getxattr(case / "noted", "user.note") == b"1"
    os.setxattr(case / "noted", "user.note", b"22")
    assert os.getxattr(case / "noted", "user.note") == b"22"
    os.removexattr(case / "noted", "user.note")
    assert os.listxattr(case / "noted") == []
    with fails(errno.ENODATA):
        os.removexattr(case / "noted", "user.note")


@pytest.mark.parametrize("change", ["write", "chmod", "link", "rename", "truncate"])
def test_xattrs_survive_other_changes(case: CaseDirectory, change: str) -> None:
    path = case / "noted"
    match change:
        case "write":
            path.write_bytes(b"changed")
        case "chmod":
            os.chmod(path, 0o600)
        case "link":
            os.link(path, case / "new")
        case "rename":
            os.rename(path, case / "full/new")
            path = case / "full/new"
        case _:
            os.truncate(path, 1)
    assert os.listxattr(path) == ["user.note"]
    assert os.getxattr(path, "user.note") == b"1"


@pytest.mark.parametrize(("size", "number"), [(1, 0), (0, 0), (100, 0)])
def test_getxattr_returns_the_size_and_refuses_a_small_buffer(
    case: CaseDirectory, size: int, number: int
) -> None:
    os.setxattr(case / "file", "user.x", b"12345")
    if size == 1:
        with fails(errno.ERANGE):
            getxattr(case / "file", "user.x", size)
    else:
        assert getxattr(case / "file", "user.x", size) == 5


def test_xattr_value_over_64_kib_is_refused(case: CaseDirectory) -> None:
    with fails(errno.E2BIG):
        os.setxattr(case / "file", "user.x", bytes(65_537))


@pytest.mark.parametrize("name", ["link", "dangling", "fifo"])
def test_symlinks_and_devices_take_no_user_xattrs(case: CaseDirectory, name: str) -> None:
    with fails(errno.EPERM):
        os.setxattr(case / name, "user.x", b"1", follow_symlinks=False)
    os.setxattr(case / name, "trusted.x", b"1", follow_symlinks=False)
    assert os.getxattr(case / name, "trusted.x", follow_symlinks=False) == b"1"


@pytest.mark.parametrize("path", ["missing", "dangling"])
def test_xattr_of_a_missing_path_fails(case: CaseDirectory, path: str) -> None:
    with fails(errno.ENOENT):
        os.setxattr(case / path, "user.x", b"1")
    with fails(errno.ENOENT):
        os.listxattr(case / path)


def test_mode_controls_access_to_user_xattrs(case: CaseDirectory) -> None:
    os.setxattr(case / "secret", "user.x", b"1")
    os.setxattr(case / "file", "trusted.x", b"1")
    with acting_as():
        assert os.getxattr(case / "noted", "user.note") == b"1"
        with fails(errno.EACCES):
            os.setxattr(case / "noted", "user.note", b"2")
        with fails(errno.EACCES):
            os.getxattr(case / "secret", "user.x")
        with fails(errno.EACCES):
            os.removexattr(case / "noted", "user.note")
        os.setxattr(case / "everybodys", "user.x", b"1")
        with fails(errno.EPERM):
            os.setxattr(case / "everybodys", "trusted.x", b"1")
        with fails(errno.ENODATA, errno.EPERM):
            os.getxattr(case / "file", "trusted.x")


def test_trusted_xattrs_are_listed_to_root_only(case: CaseDirectory) -> None:
    os.setxattr(case / "file", "trusted.x", b"1")
    assert os.listxattr(case / "file") == ["trusted.x"]
    with acting_as():
        assert os.listxattr(case / "file") == []


def test_only_the_owner_sets_xattrs_of_a_sticky_directory(case: CaseDirectory) -> None:
    with acting_as(), fails(errno.EPERM):
        os.setxattr(case / "sticky", "user.x", b"1")
    with acting_as():
        os.setxattr(case / "open", "user.x", b"1")


@pytest.mark.parametrize("prefix", ["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."])
@pytest.mark.parametrize(
    ("name", "value"), [("opaque", b"y"), ("redirect", b"/other"), ("whiteout", b"y")]
)
def test_overlay_xattr_is_ordinary_data_in_a_mount(
    case: CaseDirectory, prefix: str, name: str, value: bytes
) -> None:
    try:
        os.setxattr(case / "full", prefix + name, value)
        os.setxattr(case / "empty", prefix + name, value)
    except OSError as error:
        assert case.subject.words is not None
        assert error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL}  # noqa: PT017 - a refusal
    else:
        assert os.getxattr(case / "full", prefix + name) == value
    assert names(case / "full") == {"inner", "sub"}
    assert (case / "empty").read_bytes() == b""
    assert "empty" in names(case.path)
