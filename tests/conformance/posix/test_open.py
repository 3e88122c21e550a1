"""open(2): flags and errors."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conformance.posix.cases import changing, fails, names, opened
from tests.support.deviations import Deviation
from tests.support.subjects import LOWER, CaseDirectory
from tests.support.templates import DATA
from tests.support.unprivileged import acting_as

NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR


@pytest.mark.parametrize("mode", [0o777, 0o640, 0o400, 0, 0o6755])
@pytest.mark.parametrize("directory", [".", "full", "hollow"])
def test_new_file_is_empty_with_mode_and_umask_applied(
    case: CaseDirectory, directory: str, mode: int
) -> None:
    with opened(case / directory / "new", NEW, mode) as descriptor:
        assert os.write(descriptor, b"works") == 5
        assert os.pread(descriptor, 9, 0) == b"works"
    status = os.stat(case / directory / "new")
    assert stat.S_IMODE(status.st_mode) == mode & ~0o022
    assert (status.st_uid, status.st_gid, status.st_size, status.st_nlink) == (0, 0, 5, 1)


@pytest.mark.parametrize(
    "name", ["file", "hollow", "full", "link", "dirlink", "dangling", "loop", "fifo"]
)
def test_o_excl_on_an_existing_name_fails(case: CaseDirectory, name: str) -> None:
    with fails(errno.EEXIST):
        os.open(case / name, NEW)
    assert (case / "file").read_bytes() == DATA


def test_o_creat_opens_an_existing_file(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_CREAT | os.O_RDWR, 0o600) as descriptor:
        assert os.read(descriptor, 10) == DATA[:10]
    assert stat.S_IMODE(os.stat(case / "file").st_mode) == 0o644


def test_o_creat_through_a_dangling_symlink_makes_the_target(case: CaseDirectory) -> None:
    with opened(case / "dangling", os.O_CREAT | os.O_WRONLY) as descriptor:
        os.write(descriptor, b"x")
    assert (case / "missing").read_bytes() == b"x"
    assert os.readlink(case / "dangling") == "missing"


@pytest.mark.parametrize("name", ["file", "link", "setid", "empty"])
@pytest.mark.parametrize("access", [os.O_WRONLY, os.O_RDWR])
def test_o_trunc_empties_the_file_and_keeps_attributes(
    case: CaseDirectory, name: str, access: int
) -> None:
    before = os.stat(case / name)
    with changing((case / name).resolve(), times="mtime ctime"):
        os.close(os.open(case / name, access | os.O_TRUNC))
    after = os.stat(case / name)
    assert (after.st_size, after.st_ino, after.st_uid) == (0, before.st_ino, before.st_uid)


def test_o_append_writes_at_the_end_whatever_the_offset(case: CaseDirectory) -> None:
    with (
        opened(case / "file", os.O_WRONLY | os.O_APPEND) as one,
        opened(case / "file", os.O_WRONLY | os.O_APPEND) as two,
    ):
        os.write(one, b"1")
        os.write(two, b"2")
        os.lseek(one, 0, os.SEEK_SET)
        os.write(one, b"3")
        assert os.lseek(one, 0, os.SEEK_CUR) == len(DATA) + 3
        os.truncate(case / "file", 5)
        os.write(two, b"4")
    assert (case / "file").read_bytes() == DATA[:5] + b"4"


@pytest.mark.parametrize(
    ("path", "flags", "number"),
    [
        ("missing", os.O_RDONLY, errno.ENOENT),
        ("missing/x", os.O_CREAT | os.O_WRONLY, errno.ENOENT),
        ("dangling", os.O_RDONLY, errno.ENOENT),
        ("file/x", os.O_RDONLY, errno.ENOTDIR),
        ("file/x", os.O_CREAT | os.O_WRONLY, errno.ENOTDIR),
        ("file/", os.O_RDONLY, errno.ENOTDIR),
        ("file", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
        ("link", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
        ("fifo", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
        ("link", os.O_RDONLY | os.O_NOFOLLOW, errno.ELOOP),
        ("dangling", os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, errno.ELOOP),
        ("dirlink", os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY, errno.ENOTDIR),
        ("loop", os.O_RDONLY, errno.ELOOP),
        ("loop/x", os.O_RDONLY, errno.ELOOP),
        ("full", os.O_WRONLY, errno.EISDIR),
        ("full", os.O_RDWR, errno.EISDIR),
        ("full", os.O_RDONLY | os.O_CREAT, errno.EISDIR),
        ("hollow", os.O_WRONLY | os.O_TRUNC, errno.EISDIR),
        ("new/", os.O_CREAT | os.O_WRONLY, errno.EISDIR),
        ("fifo", os.O_WRONLY | os.O_NONBLOCK, errno.ENXIO),
        ("n" * 256, os.O_RDONLY, errno.ENAMETOOLONG),
        ("n" * 256, os.O_CREAT | os.O_WRONLY, errno.ENAMETOOLONG),
        ("n/" * 2100, os.O_RDONLY, errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:12],
)
def test_open_fails_with_the_errno_of_posix(
    case: CaseDirectory, path: str, flags: int, number: int
) -> None:
    before = names(case.path)
    with fails(number):
        os.open(os.fsencode(case.path) + b"/" + path.encode(), flags)
    assert names(case.path) == before


@pytest.mark.parametrize(
    ("bits", "flags", "allowed"),
    [
        (0o400, os.O_RDONLY, True),
        (0o400, os.O_WRONLY, False),
        (0o400, os.O_RDWR, False),
        (0o200, os.O_RDONLY, False),
        (0o200, os.O_WRONLY, True),
        (0o600, os.O_RDWR, True),
        (0o077, os.O_RDONLY, False),
        (0o000, os.O_WRONLY | os.O_TRUNC, False),
        (0o000, os.O_PATH, True),
    ],
)
def test_owner_bits_apply_to_the_owner(
    case: CaseDirectory, bits: int, flags: int, allowed: bool
) -> None:
    os.chmod(case / "mine", bits)
    with acting_as():
        if allowed:
            os.close(os.open(case / "mine", flags))
        else:
            with fails(errno.EACCES):
                os.open(case / "mine", flags)
    assert (case / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("path", "flags", "allowed"),
    [
        ("file", os.O_RDONLY, True),
        ("file", os.O_WRONLY, False),
        ("file", os.O_RDONLY | os.O_TRUNC, False),
        ("secret", os.O_RDONLY, False),
        ("everybodys", os.O_RDWR, True),
        ("closed/inside", os.O_RDONLY, False),
        ("closed", os.O_RDONLY, False),
        ("unlisted", os.O_RDONLY, False),
        ("unlisted/inside", os.O_RDONLY, True),
        ("full/new", os.O_CREAT | os.O_WRONLY, False),
        ("full/inner", os.O_CREAT | os.O_RDONLY, True),
        ("open/new", os.O_CREAT | os.O_WRONLY, True),
        ("unprivileged/new", os.O_CREAT | os.O_WRONLY, True),
        ("sticky/new", os.O_CREAT | os.O_WRONLY, True),
    ],
)
def test_other_bits_apply_to_other_users(
    case: CaseDirectory, path: str, flags: int, allowed: bool
) -> None:
    with acting_as():
        if allowed:
            os.close(os.open(case / path, flags, 0o644))
        else:
            with fails(errno.EACCES):
                os.open(case / path, flags, 0o644)
    assert (case / "file").read_bytes() == DATA


@pytest.mark.parametrize(("bits", "allowed"), [(0o640, True), (0o604, False)])
def test_group_bits_apply_to_the_group(case: CaseDirectory, bits: int, allowed: bool) -> None:
    os.chown(case / "file", 0, 4321)
    os.chmod(case / "file", bits)
    with acting_as(groups=[4321]):
        if allowed:
            assert (case / "file").read_bytes() == DATA
        else:
            with fails(errno.EACCES):
                (case / "file").read_bytes()


def test_descriptor_of_a_new_file_writes_whatever_its_mode(case: CaseDirectory) -> None:
    with acting_as():
        with opened(case / "open/new", NEW, 0) as descriptor:
            os.write(descriptor, b"x")
        with fails(errno.EACCES):
            os.open(case / "open/new", os.O_RDONLY)
    assert os.stat(case / "open/new").st_uid == 65534


def test_earlier_reader_sees_a_later_write(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDONLY) as reader:
        assert os.read(reader, 10) == DATA[:10]
        with opened(case / "file", os.O_WRONLY) as writer:
            os.pwrite(writer, b"written", 5)
            os.pwrite(writer, b"end", len(DATA))
        assert os.pread(reader, 7, 5) == b"written"
        assert os.fstat(reader).st_size == len(DATA) + 3
        assert os.pread(reader, 10, len(DATA)) == b"end"
        assert os.fstat(reader).st_ino == os.stat(case / "file").st_ino


@pytest.mark.parametrize("how", ["read", "write"])
def test_descriptor_allows_only_its_access_mode(case: CaseDirectory, how: str) -> None:
    with (
        opened(case / "file", os.O_WRONLY) as writer,
        opened(case / "file", os.O_RDONLY) as reader,
        fails(errno.EBADF),
    ):
        if how == "read":
            os.read(writer, 1)
        else:
            os.write(reader, b"x")


def test_directory_opens_but_cannot_be_read(case: CaseDirectory) -> None:
    with opened(case / "full", os.O_RDONLY) as descriptor:
        with fails(errno.EISDIR):
            os.read(descriptor, 1)
        assert os.stat("inner", dir_fd=descriptor).st_size == 5


@pytest.mark.parametrize("directory", ["hollow", "full", "."])
def test_o_tmpfile_works_or_is_not_supported(case: CaseDirectory, directory: str) -> None:
    before = names(case / directory)
    try:
        descriptor = os.open(case / directory, os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as error:
        assert error.errno in {errno.EOPNOTSUPP, errno.EISDIR}  # noqa: PT017 - either is right
        assert case.subject.words is not None
        assert names(case / directory) == before
        return
    with (
        opened(f"/proc/self/fd/{descriptor}".encode(), os.O_PATH),
        opened(case.path, os.O_PATH) as here,
    ):
        os.write(descriptor, b"temporary")
        assert names(case / directory) == before
        assert os.fstat(descriptor).st_nlink == 0
        os.link(f"/proc/self/fd/{descriptor}", case / "new", src_dir_fd=here, follow_symlinks=True)
        os.close(descriptor)
    assert (case / "new").read_bytes() == b"temporary"


def test_o_path_opens_any_file_type(case: CaseDirectory) -> None:
    with opened(case / "secret", os.O_PATH) as held:
        with fails(errno.EBADF):
            os.read(held, 1)
        os.rename(case / "secret", case / "new")
        assert os.fstat(held).st_size == 6


def test_parent_gets_new_times_for_a_new_name_only(case: CaseDirectory) -> None:
    copied = case.deviates(Deviation.COPY_UP_IS_SEEN_IN_CTIME, "full/inner")
    with changing(case / "full", times="ctime" if copied and case.kind == LOWER else ""):
        os.close(os.open(case / "full/inner", os.O_CREAT | os.O_RDWR))
    with changing(case / "full", times="mtime ctime"):
        os.close(os.open(case / "full/new", NEW))


def test_write_past_the_end_leaves_zeros(case: CaseDirectory) -> None:
    with opened(case / "other", os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"far", 1_000_000)
        assert os.pread(descriptor, 8, 0) == b"other\0\0\0"
        assert os.fstat(descriptor).st_size == 1_000_003
    with (
        changing(case / "other", times="mtime ctime"),
        opened(case / "other", os.O_WRONLY) as again,
    ):
        os.write(again, b"O")
    with changing(case / "other", times=""), opened(case / "other", os.O_WRONLY) as again:
        assert os.write(again, b"") == 0
