"""Operations through O_PATH descriptors."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stacker.linux import opath
from tests.support.unprivileged import acting_as


@contextmanager
def held(path: Path) -> Iterator[int]:
    directory = os.open(path.parent, os.O_RDONLY)
    fd = opath.pin(os.fsencode(path.name), directory)
    os.close(directory)
    try:
        yield fd
    finally:
        os.close(fd)


def test_pinned_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.utime(tmp_path / "file", (1, 1))
    (tmp_path / "link").symlink_to("file")
    with held(tmp_path / "link") as fd:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        os.utime(opath.proc_path(fd), (5, 6))
        directory = os.open(tmp_path, os.O_RDONLY)
        os.link(opath.proc_path(fd), "other", dst_dir_fd=directory, follow_symlinks=True)
        os.close(directory)
    assert (tmp_path / "link").lstat().st_mtime == 6
    assert (tmp_path / "file").stat().st_mtime == 1
    assert os.readlink(tmp_path / "other") == "file"


def test_pinned_file_is_readable_after_its_unlink(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with held(tmp_path / "file") as fd:
        (tmp_path / "file").unlink()
        (tmp_path / "file").symlink_to("/etc/passwd")
        again = opath.reopen(fd, os.O_RDWR)
        assert os.read(again, 9) == b"data"
        os.close(again)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_unreadable_file_is_read_and_keeps_its_mode() -> None:
    with TemporaryDirectory() as name, acting_as_owner_of(Path(name)):
        path = Path(name) / "file"
        path.write_bytes(b"data")
        path.chmod(0o4111)
        fd = opath.open_for_reading(os.fsencode(path), 0)
        assert os.read(fd, 9) == b"data"
        os.close(fd)
        assert stat.S_IMODE(path.stat().st_mode) == 0o4111


@contextmanager
def acting_as_owner_of(path: Path) -> Iterator[None]:
    os.chown(path, 65534, 65534)
    with acting_as():
        yield


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_devices_and_fifos_are_not_reopened(tmp_path: Path, kind: str) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    with held(tmp_path / kind) as fd, pytest.raises(OSError, match="neither") as caught:
        opath.reopen(fd, os.O_RDONLY)
    assert caught.value.errno == errno.EINVAL


def test_rename_with_flags(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError) as caught:
            opath.rename(b"a", fd, b"b", fd, opath.RENAME_NOREPLACE)
        assert caught.value.filename == b"b"
        opath.rename(b"a", fd, b"b", fd, opath.RENAME_EXCHANGE)
        assert (tmp_path / "a").read_bytes() == b"b"
        opath.rename(b"a", fd, b"b", fd, 0)
        assert os.listdir(tmp_path) == ["b"]
    finally:
        os.close(fd)


def test_fallocate_punches_a_hole(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        file.write(b"x" * 8192)
        opath.allocate(file.fileno(), 1 | 2, 0, 4096)  # keep the size, punch a hole
        assert os.pread(file.fileno(), 8192, 0) == bytes(4096) + b"x" * 4096
        with pytest.raises(OSError, match="nvalid") as caught:
            opath.allocate(file.fileno(), 0, 0, 0)
        assert caught.value.errno == errno.EINVAL
