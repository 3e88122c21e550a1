"""What writes do to an upper directory, without a mount."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacker.fuse import protocol as fuse
from stacker.fuse.read_write import WritableAdapter
from stacker.linux import mountapi, opath
from stacker.linux.removal import remove_contents
from stacker.tree.protocol import ROOT
from stacker.tree.writable import Caller
from tests.support.snapshot import snapshot
from tests.support.stacks import scratch
from tests.support.writable import ROOT_USER, Writable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="writes trusted.*: needs root")
LONG_AGO = 1_000_000_000


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    lower = tmp_path / "lower"
    (lower / "d/e").mkdir(parents=True)
    (lower / "file").write_bytes(b"lower")
    os.link(lower / "file", lower / "d/second")
    (lower / "d/e/deep").write_bytes(b"deep" * 1000)
    (lower / "link").symlink_to("/etc")
    os.mkfifo(lower / "pipe")
    os.setxattr(lower / "d", "user.kind", b"d")
    os.chown(lower / "d/e", 7, 8)
    (lower / "d/e").chmod(0o2751)
    for above, directories, files in os.walk(lower):
        for name in (*directories, *files, "."):
            os.utime(Path(above, name), (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return tmp_path


@pytest.fixture
def tree(workspace: Path) -> Iterator[Writable]:
    tree = Writable(workspace)
    yield tree
    tree.close()


def on_disk(tree: Writable, path: str = "") -> list[str]:
    return sorted(os.listdir(tree.upper / path))


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def refusal(do: Callable[..., object], *words: object) -> int:
    with pytest.raises(OSError) as caught:
        do(*words)
    return caught.value.errno or 0


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
    assert refusal(tree.rename, "d", "D") == errno.EXDEV
    tree.mkdir("new")
    exchange = opath.RENAME_EXCHANGE
    assert refusal(tree.rename, "new", "d", exchange) == errno.EXDEV
    assert refusal(tree.rename, "d", "new", exchange) == errno.EXDEV


def test_directory_cannot_be_moved_into_itself(tree: Writable) -> None:
    tree.mkdir("new")
    tree.mkdir("new/inner")
    assert refusal(tree.rename, "new", "new/inner/x") == errno.EINVAL
    exchange = opath.RENAME_EXCHANGE
    assert refusal(tree.rename, "new/inner", "new", exchange) == errno.EINVAL
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
    assert refusal(tree.create, "file") == errno.EEXIST
    assert refusal(tree.mkdir, "d") == errno.EEXIST
    assert refusal(tree.link, "file", "d/second") == errno.EEXIST
    assert refusal(tree.link, "d", "new") == errno.EPERM
    assert refusal(tree.unlink, "new") == errno.ENOENT
    assert refusal(tree.unlink, "d") == errno.EISDIR
    assert refusal(tree.rmdir, "d") == errno.ENOTEMPTY
    assert refusal(tree.rmdir, "file") == errno.ENOTDIR
    assert refusal(tree.rename, "file", "d/e/deep", opath.RENAME_NOREPLACE) == errno.EEXIST
    assert refusal(tree.rename, "file", "new", opath.RENAME_EXCHANGE) == errno.ENOENT
    assert refusal(tree.rename, "file", "new", opath.RENAME_WHITEOUT) == errno.EINVAL
    assert refusal(files.create, tree.at("file"), b"x", 0o600, ROOT_USER) == errno.ENOTDIR
    assert on_disk(tree) == []


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"../x", b"a\0b"])
def test_malformed_name_reaches_no_system_call(tree: Writable, name: bytes) -> None:
    files = tree.tree
    assert refusal(files.create, ROOT, name, 0o600, ROOT_USER) == errno.EINVAL
    assert refusal(files.symlink, ROOT, name, b"x", ROOT_USER) == errno.EINVAL
    assert refusal(files.unlink, ROOT, name) == errno.EINVAL
    assert refusal(files.remove_directory, ROOT, name) == errno.EINVAL
    assert refusal(files.rename, ROOT, b"file", ROOT, name) == errno.EINVAL
    assert refusal(files.rename, ROOT, name, ROOT, b"new") == errno.EINVAL
    assert refusal(files.link, tree.at("file"), ROOT, name) == errno.EINVAL


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
    assert refusal(tree.tree.files.status, node) == errno.ESTALE


def test_unknown_inode_number_is_stale(tree: Writable) -> None:
    for node in (-1, 10**6):
        assert refusal(tree.tree.files.status, node) == errno.ESTALE
        assert refusal(tree.tree.lookup, node, b"x") == errno.ESTALE
        assert refusal(tree.tree.unlink, node, b"x") == errno.ESTALE
        tree.tree.forget(node, 1)


def test_removed_directory_takes_no_new_names(tree: Writable) -> None:
    tree.unlink("d/e/deep")
    lower, upper = tree.at("d/e"), tree.mkdir("new")
    tree.tree.remember(upper)
    tree.rmdir("d/e")
    tree.rmdir("new")
    for node in (lower, upper):
        assert refusal(tree.tree.create, node, b"x", 0o600, ROOT_USER) == errno.ENOENT


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


def test_directories_deeper_than_the_recursion_limit_are_copied_up(tree: Writable) -> None:
    node = ROOT
    for _ in range(1500):
        node = tree.tree.make_directory(node, b"d" * 3 if node == ROOT else b"d", 0o755, ROOT_USER)
    tree.tree.create(node, b"file", 0o600, ROOT_USER)
    assert refusal(tree.tree.rename, ROOT, b"ddd", node, b"x") == errno.EINVAL
    remove_contents(tree.upper)  # pytest cannot


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
    assert refusal(files.xattr, directory, b"trusted.overlay.origin") == errno.ENODATA
    files.set_xattr(directory, b"trusted.overlay.opaque", b"y")
    assert files.xattr_names(directory) == [b"trusted.overlay.opaque"]
    assert not is_opaque(tree.upper / "pipe2")


def test_removing_a_missing_xattr_copies_nothing_up(tree: Writable) -> None:
    files, node = tree.tree.files, tree.at("d")
    assert refusal(files.remove_xattr, node, b"user.none") == errno.ENODATA
    assert refusal(files.set_xattr, node, b"user.none", b"", os.XATTR_REPLACE) == errno.ENODATA
    assert refusal(files.set_xattr, node, b"user.kind", b"", os.XATTR_CREATE) == errno.EEXIST
    assert refusal(files.xattr, node, b"system.posix_acl_access") == errno.EOPNOTSUPP
    assert on_disk(tree) == []


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


def test_failed_copy_up_changes_nothing(tree: Writable, workspace: Path) -> None:
    before = tree.snapshot()
    (workspace / "lower/d/e/deep").unlink()  # a broken layer
    assert refusal(tree.write, "d/e/deep", b"x") == errno.ENOENT
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
    assert refusal(tree.write, "big", b"x") == errno.ENOSPC
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
