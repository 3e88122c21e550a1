"""Contents of files in a writable mount."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stacker.linux import opath
from tests.support.syscalls import error_of
from tests.support.writable_mounts import Stack

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


def test_copy_up_keeps_hard_links_of_a_lower_file(fuse_root: Path) -> None:
    assert (fuse_root / "a").stat().st_nlink == 2
    number = (fuse_root / "d/linked").stat().st_ino
    with (fuse_root / "a").open("ab") as file:
        file.write(b"!")
    assert (fuse_root / "d/linked").read_bytes() == b"lower a!"
    assert (fuse_root / "a").stat().st_ino == (fuse_root / "d/linked").stat().st_ino == number
    assert (fuse_root / "a").stat().st_nlink == 2
    (fuse_root / "a").unlink()
    assert (fuse_root / "d/linked").stat().st_nlink == 1


def test_open_reader_sees_later_writes(fuse_root: Path) -> None:
    with (fuse_root / "d/file").open("rb", buffering=0) as reader:
        assert reader.read() == b"file"
        (fuse_root / "d/file").write_bytes(b"changed")
        assert os.pread(reader.fileno(), 100, 0) == b"changed"


def test_partial_write_keeps_the_other_bytes(root: Path) -> None:
    with (root / "d/e/deep").open("r+b") as file:
        file.seek(5000)
        file.write(b"HERE")
    content = (root / "d/e/deep").read_bytes()
    assert content[:5000] + content[5004:] == (b"deep" * 3000)[:5000] + (b"deep" * 3000)[5004:]
    assert content[5000:5004] == b"HERE"
    assert (root / "d/e/deep").stat().st_size == 12000


def test_appends_of_two_writers_go_to_the_end(root: Path) -> None:
    with (root / "a").open("ab", buffering=0) as one, (root / "a").open("ab", buffering=0) as two:
        one.write(b"1")
        two.write(b"2")
        one.write(b"3")
    assert (root / "a").read_bytes() == b"lower a123"


def test_truncate_shrinks_and_extends_a_file(root: Path) -> None:
    os.truncate(root / "d/e/deep", 5)
    assert (root / "d/e/deep").read_bytes() == b"deepd"
    os.truncate(root / "d/e/deep", 10)
    assert (root / "d/e/deep").read_bytes() == b"deepd" + bytes(5)
    with (root / "a").open("wb"):
        pass
    assert (root / "a").read_bytes() == b""
    assert error_of(lambda: os.truncate(root / "d", 0)) == errno.EISDIR


def test_large_writes_are_complete(root: Path) -> None:
    data = os.urandom(5 << 20)
    (root / "big").write_bytes(data)
    assert (root / "big").read_bytes() == data
    with (root / "big").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # drop the kernel's cache
        assert file.read() == data


def test_fallocate_reserves_and_frees_space(root: Path) -> None:
    with (root / "d/e/deep").open("r+b") as file:
        opath.allocate(file.fileno(), 0, 0, 20000)
        assert os.fstat(file.fileno()).st_size == 20000
        keep_size, punch_hole = 1, 2
        opath.allocate(file.fileno(), keep_size, 0, 1 << 20)
        assert os.fstat(file.fileno()).st_size == 20000
        opath.allocate(file.fileno(), keep_size | punch_hole, 0, 8)
        assert file.read(12) == bytes(8) + b"deep"


def test_copy_up_keeps_holes(root: Path) -> None:
    os.chmod(root / "sparse", 0o600)
    assert (root / "sparse").stat().st_size == (8 << 20) + 3
    assert (root / "sparse").stat().st_blocks < 100
    with (root / "sparse").open("rb") as file:
        data = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        assert 0 < data <= 8 << 20
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
    assert (root / "sparse").read_bytes()[-3:] == b"end"


def test_copy_file_range_copies_between_files(root: Path) -> None:
    with (root / "d/e/deep").open("rb") as source, (root / "copy").open("w+b") as target:
        left = 12000
        while left:
            left -= os.copy_file_range(source.fileno(), target.fileno(), left)
        target.seek(0)
        assert target.read() == b"deep" * 3000


def test_shared_mapping_is_written_back(root: Path) -> None:
    with (root / "d/e/deep").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:4] = b"MMAP"
        mapped.flush()
    assert (root / "d/e/deep").read_bytes()[:8] == b"MMAPdeep"
    with (root / "d/e/deep").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[-4:] = b"TAIL"
        (root / "d/e/deep").unlink()
        mapped.flush()
        assert os.pread(file.fileno(), 4, 11996) == b"TAIL"


def test_fsync_succeeds(root: Path) -> None:
    with (root / "a").open("r+b") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    directory = os.open(root / "d", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def test_new_file_can_be_locked_and_executed(root: Path) -> None:
    with (root / "a").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
    shutil.copy("/bin/true", root / "true")
    assert subprocess.run([root / "true"], check=False).returncode == 0


def test_statfs_reports_the_space_of_the_upper(stack: Stack, fuse_root: Path) -> None:
    ours, beneath = os.statvfs(fuse_root), os.statvfs(stack.upper)
    assert (ours.f_blocks, ours.f_bsize) == (beneath.f_blocks, beneath.f_bsize)
    assert ours.f_namemax == 255
