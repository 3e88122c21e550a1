"""Names: create, remove and rename, and the whiteouts that result."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from stacker.linux import opath
from stacker.tree.protocol import ROOT
from tests.support.syscalls import error_of
from tests.support.writable import ROOT_USER, Writable, is_opaque, is_whiteout, on_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="writes trusted.*: needs root")


def test_removing_a_lower_name_leaves_a_whiteout(tree: Writable) -> None:
    tree.unlink("pipe")
    tree.create("new")
    tree.unlink("new")
    tree.write("d/e/deep", b"x")
    tree.unlink("d/e/deep")
    assert is_whiteout(tree.upper / "pipe")
    assert is_whiteout(tree.upper / "d/e/deep")
    assert on_disk(tree) == ["d", "pipe"]


def test_removed_directory_is_one_whiteout(tree: Writable) -> None:
    tree.unlink("d/e/deep")
    assert on_disk(tree, "d/e") == ["deep"]
    tree.rmdir("d/e")
    assert is_whiteout(tree.upper / "d/e")
    assert os.listdir(tree.work / "work") == []


def test_recreated_directory_hides_the_lower_one(tree: Writable) -> None:
    tree.unlink("d/e/deep")
    tree.rmdir("d/e")
    tree.mkdir("d/e")
    assert is_opaque(tree.upper / "d/e")
    assert tree.names("d/e") == []
    tree.reopen()
    assert tree.names("d/e") == []
    tree.create("d/e/deep")
    tree.unlink("d/e/deep")
    assert on_disk(tree, "d/e") == []  # an opaque directory needs no whiteout


def test_new_directory_has_no_opaque_mark(tree: Writable) -> None:
    tree.mkdir("new")
    assert not is_opaque(tree.upper / "new")


def test_new_file_replaces_a_whiteout(tree: Writable) -> None:
    tree.unlink("pipe")
    tree.create("pipe", b"file")
    assert tree.read("pipe") == b"file"
    tree.unlink("pipe")
    assert is_whiteout(tree.upper / "pipe")
    tree.mkdir("pipe")
    assert not is_opaque(tree.upper / "pipe")  # no lower directory could merge with it
    tree.rmdir("pipe")
    assert is_whiteout(tree.upper / "pipe")
    tree.link("file", "pipe")
    assert tree.read("pipe") == b"lower"
    assert os.listdir(tree.work / "work") == []


def test_moved_lower_file_leaves_a_whiteout(tree: Writable) -> None:
    tree.rename("d/e/deep", "moved")
    assert is_whiteout(tree.upper / "d/e/deep")
    tree.rename("moved", "d/e/deep")
    assert on_disk(tree) == ["d"]
    assert tree.read("d/e/deep") == b"deep" * 1000


def test_renaming_a_lower_directory_fails_with_exdev(tree: Writable) -> None:
    assert error_of(tree.rename, "d", "D") == errno.EXDEV
    tree.mkdir("new")
    exchange = opath.RENAME_EXCHANGE
    assert error_of(tree.rename, "new", "d", exchange) == errno.EXDEV
    assert error_of(tree.rename, "d", "new", exchange) == errno.EXDEV


def test_directory_cannot_be_moved_into_itself(tree: Writable) -> None:
    tree.mkdir("new")
    tree.mkdir("new/inner")
    assert error_of(tree.rename, "new", "new/inner/x") == errno.EINVAL
    exchange = opath.RENAME_EXCHANGE
    assert error_of(tree.rename, "new/inner", "new", exchange) == errno.EINVAL
    assert tree.names("new") == ["inner"]


def test_directory_replaces_an_empty_one_with_its_contents(tree: Writable) -> None:
    tree.unlink("d/e/deep")
    tree.mkdir("new")
    tree.create("new/x")
    tree.rename("new", "d/e")
    assert tree.names("d/e") == ["x"]
    assert is_opaque(tree.upper / "d/e")
    assert on_disk(tree) == ["d"]
    tree.reopen()
    assert tree.names("d/e") == ["x"]


def test_upper_directories_can_be_exchanged(tree: Writable) -> None:
    tree.unlink("pipe")
    tree.mkdir("pipe")
    tree.mkdir("new")
    tree.create("new/x")
    tree.rename("new", "pipe", opath.RENAME_EXCHANGE)
    assert (tree.names("new"), tree.names("pipe")) == ([], ["x"])
    tree.rename("pipe", "file", opath.RENAME_EXCHANGE)
    assert tree.names("file") == ["x"]
    assert tree.read("pipe") == b"lower"


def test_existing_and_missing_names_fail(tree: Writable) -> None:
    files = tree.tree
    assert error_of(tree.create, "file") == errno.EEXIST
    assert error_of(tree.mkdir, "d") == errno.EEXIST
    assert error_of(tree.link, "file", "d/second") == errno.EEXIST
    assert error_of(tree.link, "d", "new") == errno.EPERM
    assert error_of(tree.unlink, "new") == errno.ENOENT
    assert error_of(tree.unlink, "d") == errno.EISDIR
    assert error_of(tree.rmdir, "d") == errno.ENOTEMPTY
    assert error_of(tree.rmdir, "file") == errno.ENOTDIR
    assert error_of(tree.rename, "file", "d/e/deep", opath.RENAME_NOREPLACE) == errno.EEXIST
    assert error_of(tree.rename, "file", "new", opath.RENAME_EXCHANGE) == errno.ENOENT
    assert error_of(tree.rename, "file", "new", opath.RENAME_WHITEOUT) == errno.EINVAL
    assert error_of(files.create, tree.at("file"), b"x", 0o600, ROOT_USER) == errno.ENOTDIR
    assert on_disk(tree) == []


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"../x", b"a\0b"])
def test_malformed_name_reaches_no_system_call(tree: Writable, name: bytes) -> None:
    files = tree.tree
    assert error_of(files.create, ROOT, name, 0o600, ROOT_USER) == errno.EINVAL
    assert error_of(files.symlink, ROOT, name, b"x", ROOT_USER) == errno.EINVAL
    assert error_of(files.unlink, ROOT, name) == errno.EINVAL
    assert error_of(files.remove_directory, ROOT, name) == errno.EINVAL
    assert error_of(files.rename, ROOT, b"file", ROOT, name) == errno.EINVAL
    assert error_of(files.rename, ROOT, name, ROOT, b"new") == errno.EINVAL
    assert error_of(files.link, tree.at("file"), ROOT, name) == errno.EINVAL


def test_symlink_in_the_upper_is_not_followed(tree: Writable, workspace: Path) -> None:
    """Another process replaces a directory by a symlink."""
    outside = workspace / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"victim")
    tree.mkdir("new")
    node = tree.create("new/victim")
    tree.reopen()
    (tree.upper / "new/victim").unlink()
    (tree.upper / "new").rmdir()
    (tree.upper / "new").symlink_to(outside)
    with pytest.raises(OSError):
        tree.write("new/victim", b"attack")
    with pytest.raises(OSError):
        tree.create("new/other")
    assert os.listdir(outside) == ["victim"]
    assert (outside / "victim").read_bytes() == b"victim"
    assert node > ROOT


def test_removed_directory_takes_no_new_names(tree: Writable) -> None:
    tree.unlink("d/e/deep")
    lower, upper = tree.at("d/e"), tree.mkdir("new")
    tree.tree.remember(upper)
    tree.rmdir("d/e")
    tree.rmdir("new")
    for node in (lower, upper):
        assert error_of(tree.tree.create, node, b"x", 0o600, ROOT_USER) == errno.ENOENT
