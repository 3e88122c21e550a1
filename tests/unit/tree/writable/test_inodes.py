"""Inodes and their numbers, and the upper directory that a mount finds."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from stacker.tree.creation import Caller
from stacker.tree.protocol import ROOT
from tests.support.syscalls import error_of
from tests.support.writable import Writable, is_opaque, is_whiteout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="writes trusted.*: needs root")


def test_inode_without_names_lives_until_the_kernel_forgets_it(tree: Writable) -> None:
    node = ROOT
    for path in ("file", "d/e/deep", "new"):
        if path == "new":
            tree.create(path, b"new")
        node = tree.at(path)
        content = tree.content(node)
        tree.tree.remember(node)
        tree.tree.remember(node)
        tree.unlink(path)
        tree.tree.forget(node, 1)
        assert tree.content(node) == content
        tree.tree.files.write(node, b"!", 0)
        tree.tree.files.change_mode(node, 0o604)
        assert tree.content(node)[:1] == b"!"
        assert stat.S_IMODE(tree.tree.files.status(node).mode) == 0o604
        tree.tree.forget(node, 1)
    assert tree.read("d/second") == b"!ower"
    assert error_of(tree.tree.files.status, node) == errno.ESTALE


def test_unknown_inode_number_is_stale(tree: Writable) -> None:
    for node in (-1, 10**6):
        assert error_of(tree.tree.files.status, node) == errno.ESTALE
        assert error_of(tree.tree.lookup, node, b"x") == errno.ESTALE
        assert error_of(tree.tree.unlink, node, b"x") == errno.ESTALE
        tree.tree.forget(node, 1)


def test_more_files_than_the_cache_keeps_open_can_be_used(tree: Writable) -> None:
    tree.mkdir("many")
    before = len(os.listdir("/proc/self/fd"))
    nodes = [tree.create(f"many/{number}", b"%d" % number) for number in range(600)]
    for number, node in enumerate(nodes):
        assert tree.content(node) == b"%d" % number
        tree.tree.files.change_mode(node, 0o600)
    assert len(os.listdir("/proc/self/fd")) - before < 400
    tree.reopen()
    assert len(tree.names("many")) == 600


def test_new_inode_belongs_to_the_caller(tree: Writable) -> None:
    node = tree.tree.create(ROOT, b"theirs", 0o4750, Caller(12, 34))
    status = tree.tree.files.status(node)
    assert (status.mode, status.uid, status.gid) == (stat.S_IFREG | 0o4750, 12, 34)
    node = tree.tree.make_directory(tree.at("d/e"), b"sub", 0o700, Caller(12, 34))
    status = tree.tree.files.status(node)
    assert (status.mode, status.uid, status.gid) == (stat.S_IFDIR | 0o2700, 12, 8)
    node = tree.tree.create(tree.at("d/e"), b"program", 0o2775, Caller(12, 34))
    assert tree.tree.files.status(node).mode == stat.S_IFREG | 0o775


def test_overlay_marks_are_neither_visible_nor_settable(tree: Writable) -> None:
    files, directory = tree.tree.files, tree.mkdir("pipe2")
    os.setxattr(tree.upper / "pipe2", "trusted.overlay.origin", b"o")
    assert files.xattr_names(directory) == []
    assert error_of(files.xattr, directory, b"trusted.overlay.origin") == errno.ENODATA
    files.set_xattr(directory, b"trusted.overlay.opaque", b"y")
    assert files.xattr_names(directory) == [b"trusted.overlay.opaque"]
    assert not is_opaque(tree.upper / "pipe2")


@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
def test_marks_of_disabled_features_are_refused(workspace: Path, mark: str) -> None:
    tree = Writable(workspace)
    tree.mkdir("new")
    tree.create("sparse")
    tree.tree.files.truncate(tree.at("sparse"), 5000)
    tree.close()
    path = workspace / "upper" / ("new" if mark == "redirect" else "sparse")
    os.setxattr(path, f"trusted.overlay.{mark}", b"/x")
    with pytest.raises(PermissionError, match=mark):
        Writable(workspace)


def test_file_whiteouts_of_the_upper_are_read(workspace: Path) -> None:
    upper = workspace / "upper"
    upper.mkdir()
    os.setxattr(upper, "trusted.overlay.opaque", b"x")
    for name in ("file", "shown"):
        (upper / name).touch()
    os.setxattr(upper / "file", "trusted.overlay.whiteout", b"")
    tree = Writable(workspace)
    assert tree.names() == ["d", "link", "pipe", "shown"]
    tree.create("file", b"again")
    tree.unlink("file")
    assert is_whiteout(upper / "file")
    tree.close()


def test_links_in_an_upper_share_an_inode(workspace: Path) -> None:
    for directory in ("x", "y"):
        (workspace / "upper" / directory).mkdir(parents=True)
    (workspace / "upper/x/one").write_bytes(b"both")
    os.link(workspace / "upper/x/one", workspace / "upper/y/two")
    tree = Writable(workspace)
    node = tree.at("x/one")
    tree.tree.remember(node)
    tree.unlink("x/one")
    assert tree.at("y/two") == node
    assert tree.content(node) == b"both"
    tree.close()


def test_leftovers_in_the_work_directory_are_removed(workspace: Path) -> None:
    tree = Writable(workspace)
    tree.close()
    (workspace / "work/work/#1").mkdir()
    (workspace / "work/work/#1/x").touch()
    tree = Writable(workspace)
    assert os.listdir(workspace / "work/work") == []
    tree.close()


def test_close_leaves_no_descriptor_open(workspace: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    tree = Writable(workspace)
    tree.write("file", b"x")
    node = tree.at("file")
    tree.tree.remember(node)
    tree.unlink("file")
    tree.mkdir("new")
    tree.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
