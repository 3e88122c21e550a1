"""Which files and names a change copies up."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.fuse import protocol as fuse
from stacker.fuse.read_write import WritableAdapter
from stacker.linux import mountapi
from stacker.linux.removal import remove_contents
from stacker.tree.protocol import ROOT
from tests.support.snapshot import snapshot
from tests.support.stacks import scratch
from tests.support.syscalls import error_of
from tests.support.writable import LONG_AGO, ROOT_USER, Writable, is_opaque, is_whiteout, on_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="writes trusted.*: needs root")


def test_reading_writes_nothing_to_the_upper(tree: Writable, workspace: Path) -> None:
    assert tree.snapshot()[b"d/e/deep"].content == b"deep" * 1000
    assert on_disk(tree) == []
    assert snapshot(workspace / "lower") == {
        path: node for path, node in tree.snapshot().items() if path
    } | {b"": snapshot(workspace / "lower")[b""]}


def test_change_copies_up_the_file_and_its_parents_only(tree: Writable) -> None:
    tree.write("d/e/deep", b"DEEP")
    assert on_disk(tree) == ["d"]
    assert on_disk(tree, "d") == ["e"]
    assert on_disk(tree, "d/e") == ["deep"]
    status = (tree.upper / "d/e").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (7, 8, 0o2751)
    assert status.st_mtime == LONG_AGO
    assert os.getxattr(tree.upper / "d", "user.kind") == b"d"
    assert (tree.upper / "d").stat().st_mtime == LONG_AGO
    assert not is_opaque(tree.upper / "d")


def test_inode_keeps_its_number_when_it_is_copied_up(tree: Writable) -> None:
    before = tree.at("d/e/deep"), tree.at("d"), tree.at("file")
    tree.write("d/e/deep", b"x")
    tree.write("file", b"x")
    assert (tree.at("d/e/deep"), tree.at("d"), tree.at("file")) == before
    assert tree.at("d/second") == tree.at("file")


def test_truncated_bytes_are_not_copied_up(tree: Writable) -> None:
    tree.tree.files.truncate(tree.at("d/e/deep"), 6)
    assert (tree.upper / "d/e/deep").read_bytes() == b"deepde"
    assert tree.read("d/e/deep") == b"deepde"


def test_all_names_of_a_lower_file_are_copied_up_as_links(tree: Writable) -> None:
    tree.write("d/second", b"LOWER")
    assert (tree.upper / "file").stat().st_ino == (tree.upper / "d/second").stat().st_ino
    tree.reopen()
    assert tree.read("file") == tree.read("d/second") == b"LOWER"
    assert tree.tree.files.status(tree.at("file")).nlink == 2


def test_hidden_names_are_not_copied_up(tree: Writable) -> None:
    tree.unlink("d/second")
    assert tree.tree.files.status(tree.at("file")).nlink == 1
    tree.write("file", b"LOWER")
    assert is_whiteout(tree.upper / "d/second")
    assert (tree.upper / "file").stat().st_nlink == 1


def test_names_below_a_directory_that_was_removed_are_not_copied_up(tree: Writable) -> None:
    for path in ("d/second", "d/e/deep"):
        tree.unlink(path)
    tree.rmdir("d/e")
    tree.rmdir("d")
    tree.mkdir("d")
    tree.reopen()
    tree.write("file", b"LOWER")
    assert on_disk(tree, "d") == []
    assert tree.names("d") == []


def test_directories_deeper_than_the_recursion_limit_are_copied_up(tree: Writable) -> None:
    node = ROOT
    for _ in range(1500):
        node = tree.tree.make_directory(node, b"d" * 3 if node == ROOT else b"d", 0o755, ROOT_USER)
    tree.tree.create(node, b"file", 0o600, ROOT_USER)
    assert error_of(tree.tree.rename, ROOT, b"ddd", node, b"x") == errno.EINVAL
    remove_contents(tree.upper)  # pytest cannot


def test_removing_a_missing_xattr_copies_nothing_up(tree: Writable) -> None:
    files, node = tree.tree.files, tree.at("d")
    assert error_of(files.remove_xattr, node, b"user.none") == errno.ENODATA
    assert error_of(files.set_xattr, node, b"user.none", b"", os.XATTR_REPLACE) == errno.ENODATA
    assert error_of(files.set_xattr, node, b"user.kind", b"", os.XATTR_CREATE) == errno.EEXIST
    assert error_of(files.remove_xattr, node, b"system.posix_acl_access") == errno.ENODATA
    assert on_disk(tree) == []


def test_failed_copy_up_changes_nothing(tree: Writable, workspace: Path) -> None:
    before = tree.snapshot()
    (workspace / "lower/d/e/deep").unlink()  # a broken layer
    assert error_of(tree.write, "d/e/deep", b"x") == errno.ENOENT
    assert os.listdir(tree.work / "work") == []
    assert {path: node.mode for path, node in before.items()} == {
        path: stat.S_IMODE(tree.tree.files.status(tree.at(path)).mode) for path in before
    }


def test_layers_may_be_on_another_filesystem(tmp_path: Path) -> None:
    with scratch() as elsewhere:
        with (elsewhere / "sparse").open("wb") as file:
            file.seek(4 << 20)
            file.write(b"end")
        os.link(elsewhere / "sparse", elsewhere / "second")
        tree = Writable(tmp_path, [str(elsewhere)])
        tree.write("sparse", b"begin")
        assert tree.read("second") == b"begin" + bytes((4 << 20) - 5) + b"end"
        assert (tmp_path / "upper/second").stat().st_blocks < 100
        tree.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory on a filesystem of one MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mountapi.mount("tmpfs", path, "tmpfs", 0, b"size=1M")
    yield path
    mountapi.umount2(path, mountapi.MNT_DETACH)


@pytest.mark.usefixtures("alone_among_mounts")
def test_full_disk_changes_nothing(workspace: Path, small: Path) -> None:
    (workspace / "lower/big").write_bytes(os.urandom(2 << 20))
    tree = Writable(small, [str(workspace / "lower")])
    before = tree.snapshot()
    assert error_of(tree.write, "big", b"x") == errno.ENOSPC
    assert tree.snapshot() == before
    assert on_disk(tree) == []
    assert os.listdir(tree.work / "work") == []
    tree.tree.files.truncate(tree.at("big"), 1000)
    assert tree.read("big") == before[b"big"].content[:1000]
    adapter = WritableAdapter(tree.tree)
    data = bytes(2 << 20)
    head = fuse.WRITE_IN.pack(0, 0, len(data), 0, 0, 0, 0)
    size = fuse.IN_HEADER.size + len(head) + len(data)
    request = fuse.IN_HEADER.pack(size, fuse.WRITE, 7, tree.at("big") + 1, 0, 0, 1, 0, 0)
    reply = bytes(adapter.answer(request + head + data) or b"")
    (written, _) = fuse.WRITE_OUT.unpack_from(reply, fuse.OUT_HEADER.size)
    assert 0 < written < len(data)
    assert tree.tree.files.status(tree.at("big")).size == written
    tree.close()
