"""Names in a writable mount: create, remove, rename, link and list them."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from stacker.linux import opath
from tests.support.syscalls import error_of
from tests.support.writable_mounts import Stack, as_user

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


HERE = -100  # AT_FDCWD


# Create


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


def test_device_0_0_cannot_be_created(root: Path) -> None:
    assert error_of(lambda: os.mknod(root / "w", stat.S_IFCHR)) == errno.EPERM


# Remove


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


# Rename


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


def test_new_hard_links_share_one_inode(root: Path) -> None:
    os.link(root / "d/file", root / "second")
    (root / "second").write_bytes(b"both")
    assert (root / "d/file").read_bytes() == b"both"
    assert (root / "second").stat().st_nlink == 2
    os.link(root / "link", root / "link2", follow_symlinks=False)
    assert os.readlink(root / "link2") == "a"
    assert error_of(lambda: os.link(root / "d", root / "dd")) == errno.EPERM


# List


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
