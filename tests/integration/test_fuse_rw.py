"""Writes through FUSE and through the kernel's overlay: the same cases for both drivers.

All cases go through the kernel and its caches; unit tests check the rules of the tree.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import inode_attributes, mountapi, mountinfo, opath
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.drivers.protocol import Driver
from stacker.mount.plan import Plan
from tests.support.mounts import unmount_below
from tests.support.snapshot import snapshot
from tests.support.stacks import scratch

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
DRIVERS: dict[str, Driver] = {"overlay": OverlayDriver(), "fuse": FuseDriver()}
LONG_AGO = 1_000_000_000
NO_DUMP = 0x40
"""FS_NODUMP_FL, which chattr(1) calls ``d``."""
HERE = -100  # AT_FDCWD


class Stack:
    """Two lower directories, an upper one and a target."""

    def __init__(self, workspace: Path, form: WhiteoutFormat = WhiteoutFormat.TRUSTED) -> None:
        self.workspace, self.form = workspace, form
        self.one, self.two, self.upper = workspace / "one", workspace / "two", workspace / "upper"
        self.target = workspace / "target"
        for directory in (self.one, self.two, self.upper, self.target):
            directory.mkdir()
        self._fill()
        self._mounts = 0

    def _fill(self) -> None:
        (self.two / "d/e").mkdir(parents=True)
        (self.two / "a").write_bytes(b"lower a")
        os.link(self.two / "a", self.two / "d/linked")
        (self.two / "d/e/deep").write_bytes(b"deep" * 3000)
        (self.two / "gone").touch()
        os.symlink("a", self.two / "link")
        (self.one / "d").mkdir(mode=0o750)
        os.chown(self.one / "d", 11, 12)
        (self.one / "d/file").write_bytes(b"file")
        os.setxattr(self.one / "d/file", "user.kind", b"\0\xff")
        os.chmod(self.one / "d/file", 0o4711)
        os.chown(self.one / "d/file", 21, 22)
        os.chmod(self.one / "d/file", 0o4711)
        os.mknod(self.one / "gone", stat.S_IFCHR)
        with (self.two / "sparse").open("wb") as sparse:
            sparse.seek(8 << 20)
            sparse.write(b"end")
        for top in (self.one, self.two):
            for above, directories, files in os.walk(top):
                for name in (*directories, *files, "."):
                    os.utime(Path(above, name), (LONG_AGO, LONG_AGO), follow_symlinks=False)

    @contextmanager
    def mounted(self, driver: Driver) -> Iterator[Path]:
        """Mount read-write with a driver."""
        self._mounts += 1
        work = self.workspace / f"work-{self._mounts}"
        work.mkdir()
        driver.mount(self.plan(work))
        try:
            yield self.target
        finally:
            mountapi.umount2(self.target)

    def plan(self, work: Path, name: str = "rw") -> Plan:
        layers = (self.one, self.two)
        return Plan(name, self.target, layers, self.form, False, self.upper, work)


@pytest.fixture
def stack() -> Iterator[Stack]:
    with scratch() as workspace:
        yield Stack(workspace)
        unmount_below(workspace)


@pytest.fixture(params=DRIVERS, ids=str)
def root(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Path]:
    with stack.mounted(DRIVERS[request.param]) as target:
        yield target


@pytest.fixture
def fuse_root(stack: Stack) -> Iterator[Path]:
    with stack.mounted(FuseDriver()) as target:
        yield target


def error_of(do: Callable[[], object]) -> int:
    """Return the errno of a call that must fail."""
    with pytest.raises(OSError) as caught:
        do()
    return caught.value.errno or 0


# Making


def test_created_files_appear(root: Path) -> None:
    assert not (root / "new").exists()  # the kernel keeps that in mind
    (root / "new").mkdir(mode=0o700)
    assert not (root / "new/file").exists()
    (root / "new/file").write_bytes(b"data")
    (root / "new/link").symlink_to("file")
    os.mkfifo(root / "new/pipe", 0o640)
    os.mknod(root / "new/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert sorted(os.listdir(root / "new")) == ["file", "link", "null", "pipe"]
    assert (root / "new/link").read_bytes() == b"data"
    assert (root / "new/null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((root / "new/pipe").lstat().st_mode)
    (root / "new/null").write_bytes(b"into nothing")


def test_creating_an_existing_name_is_eexist(root: Path) -> None:
    assert error_of((root / "d").mkdir) == errno.EEXIST
    assert error_of(lambda: (root / "a").symlink_to("x")) == errno.EEXIST
    assert error_of(lambda: (root / "d/file").touch(exist_ok=False)) == errno.EEXIST


def test_umask_applies_to_new_files(root: Path) -> None:
    before = os.umask(0o027)
    try:
        (root / "file").touch()
        (root / "directory").mkdir()
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "directory").stat().st_mode) == 0o750


def as_user(root: Path, script: str, uid: int = 1234) -> subprocess.CompletedProcess[str]:
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sh", "-c", script]
    return subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)


def test_new_files_belong_to_their_creator(root: Path) -> None:
    os.chmod(root, 0o777)
    script = "mkdir d1 && touch f1 && ln -s x l1 && mkfifo p1"
    assert as_user(root, script).returncode == 0
    for name in ("d1", "f1", "l1", "p1"):
        status = (root / name).lstat()
        assert (status.st_uid, status.st_gid) == (1234, 1234), name


def test_set_group_id_directory_passes_its_group_on(root: Path) -> None:
    (root / "shared").mkdir()
    os.chown(root / "shared", 0, 77)
    os.chmod(root / "shared", 0o2777)
    assert as_user(root / "shared", "mkdir inner && touch file").returncode == 0
    assert (root / "shared/inner").stat().st_gid == 77
    assert stat.S_IMODE((root / "shared/inner").stat().st_mode) & stat.S_ISGID
    assert (root / "shared/file").stat().st_gid == 77


def test_kernel_checks_permissions(root: Path) -> None:
    assert as_user(root, "echo x >> a").returncode != 0
    assert as_user(root, "touch new").returncode != 0
    assert as_user(root, "ls d").returncode != 0
    assert as_user(root, "chmod 777 a").returncode != 0
    assert as_user(root, "cat a").stdout == "lower a"


def test_sticky_directory_refuses_removal_by_other_users(root: Path) -> None:
    (root / "tmp").mkdir()
    os.chmod(root / "tmp", 0o1777)
    (root / "tmp/mine").touch()
    assert as_user(root, "rm -f tmp/mine").returncode != 0
    assert as_user(root, "touch tmp/theirs && rm tmp/theirs").returncode == 0


def name_unnamed(file: int, path: Path) -> None:
    """Give a file of O_TMPFILE a name, as open(2) describes."""
    here = os.open("/", os.O_PATH)  # with a descriptor, Python calls linkat(2)
    try:
        os.link(f"/proc/self/fd/{file}", path, src_dir_fd=here, follow_symlinks=True)
    finally:
        os.close(here)


@pytest.mark.parametrize("directory", [".", "d", "d/e"])
def test_file_of_o_tmpfile_gets_a_name_by_link(root: Path, directory: str) -> None:
    before = sorted(os.listdir(root / directory))
    file = os.open(root / directory, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(file, b"temporary")
    assert (os.fstat(file).st_nlink, os.fstat(file).st_size) == (0, 9)
    assert sorted(os.listdir(root / directory)) == before
    name_unnamed(file, root / "d/named")
    assert os.fstat(file).st_nlink == 1
    os.write(file, b" file")
    os.close(file)
    assert (root / "d/named").read_bytes() == b"temporary file"
    assert stat.S_IMODE((root / "d/named").stat().st_mode) == 0o640


def test_file_of_o_tmpfile_without_a_name_is_discarded(stack: Stack, fuse_root: Path) -> None:
    file = os.open(fuse_root, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
    os.write(file, b"temporary")
    assert os.pread(file, 9, 0) == b"temporary"
    assert error_of(lambda: name_unnamed(file, fuse_root / "new")) == errno.ENOENT
    os.close(file)
    assert os.listdir(stack.upper) == []


def birth_time(path: Path) -> int | None:
    """Return the birth time that statx(2) reports."""
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return inode_attributes.birth_time(held)
    finally:
        os.close(held)


def file_flags(path: Path) -> int:
    held = os.open(path, os.O_RDONLY)
    try:
        return inode_attributes.file_flags(held)
    finally:
        os.close(held)


def test_statx_reports_the_time_of_birth(stack: Stack, root: Path) -> None:
    start = time.time_ns() - 1_000_000_000
    (root / "new").touch()
    birth = birth_time(root / "new")
    assert birth is not None
    assert start <= birth <= time.time_ns()
    for name in ("a", "link", "d/e"):
        assert birth_time(root / name) == birth_time(stack.two / name) is not None
        assert (root / name).lstat().st_mtime == LONG_AGO


@pytest.mark.parametrize("name", ["a", "d/e", "d", "new", "copied"])
def test_flags_are_those_of_the_file_on_disk(stack: Stack, fuse_root: Path, name: str) -> None:
    (fuse_root / "new").touch()
    (fuse_root / "copied").write_bytes(b"x")
    on_disk = {"new": stack.upper, "copied": stack.upper, "d": stack.upper}.get(name, stack.two)
    os.chown(fuse_root / "d", 1, 1)
    subprocess.run(["chattr", "+d", on_disk / name], check=True)
    assert file_flags(fuse_root / name) == file_flags(on_disk / name)
    assert file_flags(fuse_root / name) & NO_DUMP


@pytest.mark.parametrize("request_number", [0x80087601, 0x40086602], ids=["version", "set_flags"])
def test_other_ioctl_is_enotty(fuse_root: Path, request_number: int) -> None:
    """Call FS_IOC_GETVERSION and FS_IOC_SETFLAGS."""
    with (fuse_root / "a").open("rb") as file:
        assert error_of(lambda: fcntl.ioctl(file, request_number, bytes(8))) == errno.ENOTTY


def test_device_0_0_cannot_be_created(root: Path) -> None:
    assert error_of(lambda: os.mknod(root / "w", stat.S_IFCHR)) == errno.EPERM


# Removing


def test_removed_name_can_be_created_again(root: Path) -> None:
    (root / "a").unlink()
    assert not (root / "a").exists()
    assert "a" not in os.listdir(root)
    (root / "a").mkdir()
    assert os.listdir(root / "a") == []
    shutil.rmtree(root / "d")
    assert not (root / "d").exists()
    (root / "d").mkdir()
    assert os.listdir(root / "d") == []


def test_directory_with_entries_cannot_be_removed(root: Path) -> None:
    assert error_of((root / "d/e").rmdir) == errno.ENOTEMPTY
    (root / "d/e/deep").unlink()
    (root / "d/e").rmdir()
    assert error_of((root / "d").rmdir) == errno.ENOTEMPTY


@pytest.mark.parametrize("name", ["a", "d/file", "fresh"])
def test_open_file_survives_unlink(root: Path, name: str) -> None:
    (root / "fresh").write_bytes(b"fresh")
    content = (root / name).read_bytes()
    with (root / name).open("r+b", buffering=0) as file:
        links = os.fstat(file.fileno()).st_nlink
        (root / name).unlink()
        assert not (root / name).exists()
        assert file.read() == content
        assert os.pwrite(file.fileno(), b"more", len(content)) == 4
        assert os.pread(file.fileno(), 100, 0) == content + b"more"
        os.ftruncate(file.fileno(), 2)
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), 5, 6)
        os.utime(file.fileno(), (7, 8))
        os.setxattr(file.fileno(), "user.x", b"v")
        status = os.fstat(file.fileno())
        assert (status.st_size, status.st_uid, status.st_mtime) == (2, 5, 8)
        if links == 1:
            assert status.st_nlink == 0
        assert os.getxattr(file.fileno(), "user.x") == b"v"


def test_replaced_file_stays_readable_while_open(root: Path) -> None:
    with (root / "d/file").open("rb") as file:
        (root / "other").write_bytes(b"other")
        (root / "other").rename(root / "d/file")
        assert file.read() == b"file"
    assert (root / "d/file").read_bytes() == b"other"


# Renaming


def test_rename_moves_files_and_new_directories(root: Path) -> None:
    (root / "d/file").rename(root / "moved")
    assert (root / "moved").read_bytes() == b"file"
    assert not (root / "d/file").exists()
    (root / "n/inner").mkdir(parents=True)
    (root / "n/inner/x").write_bytes(b"x")
    (root / "n").rename(root / "m")
    assert (root / "m/inner/x").read_bytes() == b"x"
    assert os.listdir(root / "m") == ["inner"]


def test_rename_of_a_lower_directory_is_exdev(root: Path) -> None:
    assert error_of(lambda: (root / "d").rename(root / "D")) == errno.EXDEV
    before = (root / "d/e/deep").read_bytes()
    subprocess.run(["mv", root / "d", root / "D"], check=True)
    assert (root / "D/e/deep").read_bytes() == before
    assert not (root / "d").exists()


def test_new_directory_hides_the_removed_lower_one(root: Path) -> None:
    shutil.rmtree(root / "d/e")
    (root / "n").mkdir()
    (root / "n").rename(root / "d/e")
    assert os.listdir(root / "d/e") == []


def test_rename_noreplace_and_exchange(root: Path) -> None:
    (root / "n").write_bytes(b"new")
    old, new = bytes(root / "n"), bytes(root / "a")
    flag = opath.RENAME_NOREPLACE
    assert error_of(lambda: opath.rename(old, HERE, new, HERE, flag)) == errno.EEXIST
    opath.rename(old, HERE, new, HERE, opath.RENAME_EXCHANGE)
    assert (root / "a").read_bytes() == b"new"
    assert (root / "n").read_bytes() == b"lower a"
    (root / "directory").mkdir()
    directory = bytes(root / "directory")
    opath.rename(directory, HERE, new, HERE, opath.RENAME_EXCHANGE)
    assert (root / "a").is_dir()
    assert (root / "directory").read_bytes() == b"new"


def test_renamed_files_can_be_renamed_again(root: Path) -> None:
    for old, new in (("a", "b"), ("b", "d/b"), ("d/b", "a")):
        (root / old).rename(root / new)
        assert not (root / old).exists()
    assert (root / "a").read_bytes() == b"lower a"


# Links


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


def test_new_hard_links_share_one_inode(root: Path) -> None:
    os.link(root / "d/file", root / "second")
    (root / "second").write_bytes(b"both")
    assert (root / "d/file").read_bytes() == b"both"
    assert (root / "second").stat().st_nlink == 2
    os.link(root / "link", root / "link2", follow_symlinks=False)
    assert os.readlink(root / "link2") == "a"
    assert error_of(lambda: os.link(root / "d", root / "dd")) == errno.EPERM


# Contents


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


# Attributes


def test_changing_attributes_keeps_the_others(root: Path) -> None:
    os.chmod(root / "d/file", 0o4700)
    status = (root / "d/file").stat()
    assert (status.st_uid, status.st_gid, status.st_mtime) == (21, 22, LONG_AGO)
    assert stat.S_IMODE(status.st_mode) == 0o4700
    assert os.getxattr(root / "d/file", "user.kind") == b"\0\xff"
    assert (root / "d").stat().st_mtime == LONG_AGO
    os.chown(root / "d/file", 1, -1)
    status = (root / "d/file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1, 22, 0o700)
    os.chown(root / "link", 3, 4, follow_symlinks=False)
    assert (root / "link").lstat().st_uid == 3
    assert (root / "a").stat().st_uid == 0


def test_utimensat_sets_and_omits_times(root: Path) -> None:
    os.utime(root / "a", ns=(5_000_000_001, 6_000_000_002))
    status = (root / "a").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (5_000_000_001, 6_000_000_002)
    subprocess.run(["touch", "-m", "-d", "@77", root / "a"], check=True)
    status = (root / "a").stat()
    assert (status.st_atime_ns, status.st_mtime) == (5_000_000_001, 77)
    begun = time.time()
    os.utime(root / "a")
    assert (root / "a").stat().st_mtime >= begun - 1


def test_new_entry_updates_the_directorys_mtime(root: Path) -> None:
    assert (root / "d").stat().st_mtime == LONG_AGO
    (root / "d/e/deep").write_bytes(b"changed")  # copied up: nothing changed in d
    assert (root / "d").stat().st_mtime == LONG_AGO
    assert (root / "d/e").stat().st_mtime == LONG_AGO
    (root / "d/new").touch()
    assert (root / "d").stat().st_mtime > LONG_AGO


def test_write_by_another_user_clears_set_id_bits(root: Path) -> None:
    (root / "program").write_bytes(b"x")
    os.chmod(root / "program", 0o6777)
    assert as_user(root, "echo y >> program").returncode == 0
    assert stat.S_IMODE((root / "program").stat().st_mode) == 0o777
    os.chmod(root / "program", 0o6777)
    assert as_user(root, ": > program").returncode == 0
    assert stat.S_IMODE((root / "program").stat().st_mode) == 0o777


def test_write_clears_capabilities(root: Path) -> None:
    (root / "program").write_bytes(b"x")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(root / "program", "security.capability", capability)
    with (root / "program").open("ab") as file:
        file.write(b"y")
    assert "security.capability" not in os.listxattr(root / "program")


def test_xattrs_can_be_set_and_removed(root: Path) -> None:
    path = root / "d/file"
    os.setxattr(path, "user.new", b"1", os.XATTR_CREATE)
    again = lambda: os.setxattr(path, "user.new", b"2", os.XATTR_CREATE)  # noqa: E731
    assert error_of(again) == errno.EEXIST
    os.setxattr(path, "user.new", b"3", os.XATTR_REPLACE)
    assert sorted(os.listxattr(path)) == ["user.kind", "user.new"]
    os.removexattr(path, "user.kind")
    assert error_of(lambda: os.getxattr(path, "user.kind")) == errno.ENODATA
    assert error_of(lambda: os.removexattr(path, "user.none")) == errno.ENODATA
    os.setxattr(root / "d", "trusted.t", b"t")
    assert os.listxattr(root / "d") == ["trusted.t"]


def test_overlay_xattrs_are_ordinary_inside_a_mount(stack: Stack, fuse_root: Path) -> None:
    os.setxattr(fuse_root / "d", "trusted.overlay.opaque", b"y")
    assert os.getxattr(fuse_root / "d", "trusted.overlay.opaque") == b"y"
    assert os.listxattr(fuse_root / "d") == ["trusted.overlay.opaque"]
    assert os.listxattr(stack.upper / "d") == ["trusted.overlay.overlay.opaque"]
    assert "e" in os.listdir(fuse_root / "d")


def test_posix_acls_are_refused(fuse_root: Path) -> None:
    acl = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000500ffffffff")
    failed = error_of(lambda: os.setxattr(fuse_root / "a", "system.posix_acl_access", acl))
    assert failed == errno.EOPNOTSUPP


# Listings


def test_listing_during_removal_has_each_other_name_once(root: Path) -> None:
    (root / "many").mkdir()
    names = {f"name-{number:05}-{'x' * 100}" for number in range(2000)}
    for name in names:
        (root / "many" / name).touch()
    seen = []
    with os.scandir(root / "many") as entries:
        for entry in entries:
            seen.append(entry.name)
            (root / "many" / entry.name).unlink()
    assert sorted(seen) == sorted(names)
    assert os.listdir(root / "many") == []
    (root / "many").rmdir()


def test_names_can_be_any_bytes(root: Path) -> None:
    name = os.fsencode(root) + b"/d/\xff\n" + "ä".encode() * 100
    os.mkdir(name)
    assert os.path.basename(name) in os.listdir(os.fsencode(root) + b"/d")
    too_long = os.fsencode(root) + b"/" + b"x" * 256
    assert error_of(lambda: os.mkdir(too_long)) == errno.ENAMETOOLONG


# To and fro between this and the kernel's overlay


def changes(root: Path) -> None:
    """Make changes of every kind."""
    (root / "a").write_bytes(b"changed")
    (root / "d/file").rename(root / "moved")
    (root / "d/e/deep").unlink()
    (root / "d/e").rmdir()
    (root / "d/e").mkdir()
    (root / "d/e/new").write_bytes(b"n" * 5000)
    (root / "n/m").mkdir(parents=True)
    (root / "n/m/x").symlink_to("nowhere")
    (root / "n").rename(root / "o")
    os.link(root / "o/m/x", root / "y", follow_symlinks=False)
    os.setxattr(root / "d", "user.u", b"v")
    os.chown(root / "sparse", 8, 9)
    (root / "link").unlink()


@pytest.mark.parametrize("form", list(WhiteoutFormat), ids=lambda form: form.value)
@pytest.mark.parametrize(("first", "second"), [("fuse", "overlay"), ("overlay", "fuse")])
def test_overlay_and_fuse_read_each_others_upper(
    first: str, second: str, form: WhiteoutFormat
) -> None:
    with scratch() as workspace:
        stack = Stack(workspace, form)
        with stack.mounted(DRIVERS[first]) as root:
            changes(root)
            shown = snapshot(root)
        with stack.mounted(DRIVERS[second]) as root:
            assert snapshot(root) == shown
            shutil.rmtree(root / "o")
            (root / "o").write_bytes(b"not a directory")
            (root / "moved").rename(root / "d/e/moved")
            (root / "d/linked").unlink()
            shown = snapshot(root)
        with stack.mounted(DRIVERS[first]) as root:
            assert snapshot(root) == shown


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS)
def test_persistent_upper_can_be_mounted_read_only(stack: Stack, driver: Driver) -> None:
    with stack.mounted(FuseDriver()) as root:
        changes(root)
        shown = snapshot(root)
    work = stack.workspace / "work"
    work.mkdir()
    driver.mount(replace(stack.plan(work), read_only=True))
    assert snapshot(stack.target) == shown
    assert error_of((stack.target / "new").touch) == errno.EROFS
    mountapi.umount2(stack.target)


def test_overlay_and_fuse_write_equal_uppers() -> None:
    shown = []
    for driver in DRIVERS.values():
        with scratch() as workspace:
            stack = Stack(workspace)
            (stack.two / "d/linked").unlink()  # links of lower files are where they differ
            with stack.mounted(driver) as root:
                changes(root)
                for above, directories, files in os.walk(root):
                    for name in (*directories, *files, "."):
                        os.utime(Path(above, name), (1, 1), follow_symlinks=False)
                shown.append(snapshot(root))
    assert shown[0] == shown[1]


# What goes wrong


WRITER = """
import os, sys
root = sys.argv[1]
for number in range(10**6):
    with open(f"{root}/file-{number}", "wb") as file:
        file.write(b"%d" % number * 1000)
    if number == 20:
        print("going", flush=True)
    with open(f"{root}/d/e/deep", "r+b") as file:
        file.write(b"DEEP")
    os.rename(f"{root}/file-{number}", f"{root}/d/moved-{number}")
"""


def test_killed_server_leaves_no_partial_copy_up(stack: Stack) -> None:
    work = stack.workspace / "work"
    work.mkdir()
    note = FuseDriver().mount(stack.plan(work)).note or ""
    group = os.getpgid(int(note.split()[1]))
    command = [sys.executable, "-c", WRITER, str(stack.target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"going\n"
        os.killpg(group, signal.SIGKILL)
        assert writer.wait() != 0
    assert error_of(lambda: os.listdir(stack.target)) in {errno.ENOTCONN, errno.ECONNABORTED}
    mountapi.umount2(stack.target, mountapi.MNT_DETACH)
    for driver in DRIVERS.values():
        with stack.mounted(driver) as root:
            seen = snapshot(root)
            assert len(seen[b"d/e/deep"].content) == 12000
            moved = [path for path in seen if path.startswith(b"d/moved-")]
            assert len(moved) >= 20
            for path in moved:
                assert seen[path].content == path[8:] * 1000


def test_upper_with_redirect_or_metacopy_is_refused(stack: Stack) -> None:
    (stack.upper / "redirected").mkdir()
    os.setxattr(stack.upper / "redirected", "trusted.overlay.redirect", b"/d")
    with pytest.raises(Exception, match="redirect"), stack.mounted(FuseDriver()):
        pass
    assert mountinfo.at(stack.target) is None
