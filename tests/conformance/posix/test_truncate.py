"""truncate(2) and ftruncate(2)."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance.posix.cases import changing, fails, opened
from tests.support.subjects import CaseDirectory, Mounted
from tests.support.templates import DATA
from tests.support.unprivileged import acting_as

SIZES = [0, 1, 4095, 4096, 4097, len(DATA), len(DATA) + 1, 1 << 20, (1 << 32) + 3]


@pytest.mark.parametrize("way", ["path", "descriptor", "symlink"])
@pytest.mark.parametrize("size", SIZES)
def test_truncate_sets_the_size_and_fills_with_zeros(
    case: CaseDirectory, size: int, way: str
) -> None:
    if way == "descriptor":
        with opened(case / "file", os.O_RDWR) as descriptor:
            os.ftruncate(descriptor, size)
            assert os.fstat(descriptor).st_size == size
    else:
        os.truncate(case / ("link" if way == "symlink" else "file"), size)
    assert os.stat(case / "file").st_size == size
    with opened(case / "file", os.O_RDONLY) as descriptor:
        assert os.pread(descriptor, 10_000, 0) == (DATA + bytes(5_000))[:size][:10_000]
        assert os.pread(descriptor, 100, size) == b""
        if size > 20_000:
            assert os.pread(descriptor, 100, size - 10) == bytes(10)


def test_truncated_bytes_do_not_reappear(case: CaseDirectory) -> None:
    os.truncate(case / "file", 100)
    os.truncate(case / "file", 300)
    assert (case / "file").read_bytes() == DATA[:100] + bytes(200)


@pytest.mark.parametrize("size", [0, 10, len(DATA), 9999])
def test_truncate_updates_mtime_and_ctime(case: CaseDirectory, size: int) -> None:
    with changing(case / "file", times="mtime ctime"):
        os.truncate(case / "file", size)


def test_truncate_keeps_mode_and_owner(case: CaseDirectory) -> None:
    os.truncate(case / "mine", 1)
    status = os.stat(case / "mine")
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o644, 65534, 65534)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("full", errno.EISDIR),
        ("dirlink", errno.EISDIR),
        ("missing", errno.ENOENT),
        ("dangling", errno.ENOENT),
        ("file/x", errno.ENOTDIR),
        ("loop", errno.ELOOP),
        ("fifo", errno.EINVAL),
        ("n" * 256, errno.ENAMETOOLONG),
    ],
    ids=lambda value: str(value)[:12],
)
def test_truncate_of_another_type_fails(case: CaseDirectory, path: str, number: int) -> None:
    with fails(number):
        os.truncate(case / path, 0)


def test_negative_size_is_refused(case: CaseDirectory) -> None:
    with fails(errno.EINVAL):
        os.truncate(case / "file", -1)
    with opened(case / "file", os.O_RDWR) as descriptor, fails(errno.EINVAL):
        os.ftruncate(descriptor, -1)
    assert (case / "file").read_bytes() == DATA


def test_ftruncate_of_a_read_only_descriptor_fails(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDONLY) as descriptor, fails(errno.EINVAL, errno.EBADF):
        os.ftruncate(descriptor, 0)
    assert (case / "file").read_bytes() == DATA


@pytest.mark.parametrize("path", ["file", "secret", "closed/inside", "full/inner", "link"])
def test_unprivileged_user_cannot_truncate_a_read_only_file(case: CaseDirectory, path: str) -> None:
    size = os.stat(case / path).st_size
    with acting_as(), fails(errno.EACCES):
        os.truncate(case / path, 0)
    assert os.stat(case / path).st_size == size


def test_unprivileged_user_truncates_a_writable_file(case: CaseDirectory) -> None:
    with acting_as():
        os.truncate(case / "everybodys", 3)
    assert (case / "everybodys").read_bytes() == b"eve"


def test_open_descriptor_sees_the_new_size(case: CaseDirectory) -> None:
    with opened(case / "file", os.O_RDONLY) as reader:
        assert os.read(reader, 10) == DATA[:10]
        os.truncate(case / "file", 20)
        assert os.fstat(reader).st_size == 20
        assert os.read(reader, 100) == DATA[10:20]
        os.truncate(case / "file", 0)
        assert os.read(reader, 100) == b""


@pytest.fixture
def program(mounted: Mounted, kind: str) -> CaseDirectory:
    return mounted.case_directory(kind, "program")


@pytest.mark.parametrize("way", ["truncate", "write", "O_TRUNC"])
def test_truncate_of_a_running_program_fails(program: CaseDirectory, way: str) -> None:
    path = program / "program"
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"it runs\n")
        running.stdin.flush()
        assert running.stdout.readline() == b"it runs\n"
        with fails(errno.ETXTBSY):
            _change(path, way)
    assert running.returncode == 0


def _change(path: Path, way: str) -> None:
    if way == "truncate":
        os.truncate(path, os.stat(path).st_size)
    else:
        os.close(os.open(path, os.O_WRONLY | (os.O_TRUNC if way == "O_TRUNC" else 0)))
