"""Random writes on a tree over layers have the effect that they have on a plain directory.

Both return the same errors and end as the same tree: read through the writable tree, through
another one on the same upper directory, and through the kernel's overlayfs.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi, opath
from stacker.mount.drivers.fuse import FuseDriver
from stacker.mount.plan import Plan
from stacker.stack.flatten import flatten
from stacker.tree.protocol import Node
from tests.support.snapshot import Node as Seen
from tests.support.snapshot import snapshot
from tests.support.stacks import scratch
from tests.support.writable import ROOT_USER, Writable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and gives files away")

LONG_AGO = 1_000_000_000
PATHS = ("a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/b", "n", "n/a", "n/b", "l", "m", "o/a")
paths = st.sampled_from(PATHS)
contents = st.sampled_from((b"", b"1", b"content", b"x" * 5000))
flags = st.sampled_from((0, 0, opath.RENAME_NOREPLACE, opath.RENAME_EXCHANGE))
# If several errors apply, implementations may check in any order.
UNORDERED = dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY), -2)
UNORDERED |= dict.fromkeys((errno.EPERM, errno.ENODATA), -3)
OPERATIONS = st.one_of(
    st.tuples(st.just("create"), paths, contents),
    st.tuples(st.just("write"), paths, contents, st.integers(0, 9000)),
    st.tuples(st.just("truncate"), paths, st.integers(0, 9000)),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("symlink"), paths),
    st.tuples(st.just("fifo"), paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("rename"), paths, paths, flags),
    st.tuples(st.just("chmod"), paths, st.sampled_from((0o600, 0o4711, 0o1777))),
    st.tuples(st.just("chown"), paths),
    st.tuples(st.just("xattr"), paths),
    st.tuples(st.just("no xattr"), paths),
    st.tuples(st.just("utime"), paths),
    st.tuples(st.just("open"), paths),
    st.tuples(st.just("write opened"), st.integers(0, 3), contents),
)


def lowers(workspace: Path) -> list[str]:
    """Make two layers with whiteouts, replaced files and merged directories."""
    one, two = workspace / "one", workspace / "two"
    for directory in (one / "d", two / "d/e", two / "o", two / "l", one / "l"):
        directory.mkdir(parents=True)
    (two / "a").write_bytes(b"lower a")
    os.link(two / "a", two / "d/e/a")
    os.link(two / "a", two / "m")
    (two / "b").write_bytes(b"hidden")
    os.mknod(one / "b", stat.S_IFCHR)
    (two / "d/a").write_bytes(b"x" * 9000)
    (one / "d/b").write_bytes(b"upper b")
    os.setxattr(one / "d/b", "user.kind", b"\0\xff")
    os.symlink("d/b", two / "d/e/b")
    (two / "l/hidden").touch()
    os.setxattr(one / "l", "trusted.overlay.opaque", b"y")
    for top in (one, two):
        for above, directories, files in os.walk(top):
            for name in (*directories, *files, "."):
                os.utime(Path(above, name), (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return ["one", "two"]


class Plain:
    """Operations by path on a directory or a mount."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: list[int] = []

    def close(self) -> None:
        for fd in self.opened:
            os.close(fd)

    def file(self, path: str) -> int:
        status = (self.root / path).lstat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL, path)
        return os.open(self.root / path, os.O_RDWR)

    def create(self, path: str, data: bytes) -> None:
        with open(os.open(self.root / path, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)

    def write(self, path: str, data: bytes, offset: int) -> None:
        fd = self.file(path)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        fd = self.file(path)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def mkdir(self, path: str) -> None:
        (self.root / path).mkdir(mode=0o755)

    def symlink(self, path: str) -> None:
        (self.root / path).symlink_to("a")

    def fifo(self, path: str) -> None:
        os.mkfifo(self.root / path, 0o600)

    def unlink(self, path: str) -> None:
        (self.root / path).unlink()

    def rmdir(self, path: str) -> None:
        (self.root / path).rmdir()

    def link(self, old: str, new: str) -> None:
        os.link(self.root / old, self.root / new, follow_symlinks=False)

    def rename(self, old: str, new: str, how: int) -> None:
        here = -100  # AT_FDCWD
        opath.rename(bytes(self.root / old), here, bytes(self.root / new), here, how)

    def chmod(self, path: str, mode: int) -> None:
        if (self.root / path).is_symlink():
            return
        (self.root / path).chmod(mode)

    def chown(self, path: str) -> None:
        os.chown(self.root / path, 12, 34, follow_symlinks=False)

    def xattr(self, path: str) -> None:
        os.setxattr(self.root / path, "user.new", b"v", follow_symlinks=False)

    def no_xattr(self, path: str) -> None:
        os.removexattr(self.root / path, "user.kind", follow_symlinks=False)

    def utime(self, path: str) -> None:
        os.utime(self.root / path, (5, 6), follow_symlinks=False)

    def open(self, path: str) -> None:
        self.opened.append(self.file(path))

    def write_opened(self, number: int, data: bytes) -> None:
        if number < len(self.opened):
            os.pwrite(self.opened[number], data, 3)


class Tree:
    """The same operations on a tree."""

    def __init__(self, tree: Writable) -> None:
        self.tree = tree
        self.opened: list[Node] = []

    def create(self, path: str, data: bytes) -> None:
        self.tree.create(path, data)

    def write(self, path: str, data: bytes, offset: int) -> None:
        self.tree.write(path, data, offset)

    def truncate(self, path: str, size: int) -> None:
        self.tree.tree.files.truncate(self.tree.at(path), size)

    def mkdir(self, path: str) -> None:
        self.tree.mkdir(path)

    def symlink(self, path: str) -> None:
        self.tree.tree.symlink(*self.tree.parent_and_name(path), b"a", ROOT_USER)

    def fifo(self, path: str) -> None:
        mode = stat.S_IFIFO | 0o600
        self.tree.tree.make_node(*self.tree.parent_and_name(path), mode, 0, ROOT_USER)

    def unlink(self, path: str) -> None:
        self.tree.unlink(path)

    def rmdir(self, path: str) -> None:
        self.tree.rmdir(path)

    def link(self, old: str, new: str) -> None:
        self.tree.link(old, new)

    def rename(self, old: str, new: str, how: int) -> None:
        self.tree.rename(old, new, how)

    def chmod(self, path: str, mode: int) -> None:
        node = self.tree.at(path)
        if self.tree.tree.kind(node) != stat.S_IFLNK:
            self.tree.tree.files.change_mode(node, mode)

    def chown(self, path: str) -> None:
        self.tree.tree.files.change_owner(self.tree.at(path), 12, 34)

    def xattr(self, path: str) -> None:
        self.tree.tree.files.set_xattr(self.tree.at(path), b"user.new", b"v")

    def no_xattr(self, path: str) -> None:
        self.tree.tree.files.remove_xattr(self.tree.at(path), b"user.kind")

    def utime(self, path: str) -> None:
        self.tree.tree.files.change_times(self.tree.at(path), 5 * 10**9, 6 * 10**9)

    def open(self, path: str) -> None:
        node = self.tree.at(path)
        self.tree.tree.files.read_into(node, memoryview(bytearray(1)), 0)  # the file has names
        self.tree.tree.remember(node)
        self.opened.append(node)

    def write_opened(self, number: int, data: bytes) -> None:
        if number < len(self.opened):
            self.tree.tree.files.write(self.opened[number], data, 3)


def outcome(do: Callable[..., None], arguments: Sequence[object]) -> int:
    """Call a method, and return its errno."""
    try:
        do(*arguments)
    except OSError as error:
        return UNORDERED.get(error.errno or -1, error.errno or -1)
    return 0


def aged(tree: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """Replace every recent time by one value: only older times are compared."""
    recent = (LONG_AGO + 1) * 10**9
    return {
        path: replace(node, mtime=node.mtime if node.mtime < recent else -1)
        for path, node in tree.items()
    }


def both(one: object, other: object, step: tuple[object, ...]) -> None:
    """Do the same on both; the tree may refuse to rename a lower directory with EXDEV."""
    name, *arguments = step
    method = str(name).replace(" ", "_")
    ours = outcome(getattr(one, method), arguments)
    if ours != errno.EXDEV:
        assert ours == outcome(getattr(other, method), arguments), step


def prepared(workspace: Path) -> tuple[Writable, Plain]:
    """Make a tree over layers, and an equal plain directory."""
    tree = Writable(workspace, lowers(workspace))
    (workspace / "plain").mkdir()
    os.utime(tree.upper, (LONG_AGO, LONG_AGO))  # the roots have different attributes
    flatten(tree.lowers, workspace / "plain", WhiteoutFormat.TRUSTED)
    return tree, Plain(workspace / "plain")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(OPERATIONS, max_size=30))
def test_random_writes_equal_those_on_a_plain_directory(steps: list[tuple[object, ...]]) -> None:
    with scratch() as workspace:
        writable, plain = prepared(workspace)
        tree = Tree(writable)
        try:
            for step in steps:
                both(tree, plain, step)
            check(tree, plain)
        finally:
            plain.close()
            writable.close()


def check(tree: Tree, plain: Plain) -> None:
    """Compare the trees and the open files."""
    writable = tree.tree
    shown = writable.snapshot()
    assert aged(shown) == aged(snapshot(plain.root))
    for fd, node in zip(plain.opened, tree.opened, strict=True):
        assert writable.content(node) == os.pread(fd, 1 << 20, 0)
        assert writable.tree.files.status(node).nlink == os.fstat(fd).st_nlink
    for node in tree.opened:
        writable.tree.forget(node, 1)
    writable.reopen()
    assert writable.snapshot() == shown
    with writable.by_kernel() as target:
        assert snapshot(target) == shown
    assert os.listdir(writable.work / "work") == []


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse")
@pytest.mark.usefixtures("alone_among_mounts")
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.one_of(OPERATIONS, st.just(("look",))), max_size=30))
def test_kernel_cache_stays_correct_through_random_writes(
    steps: list[tuple[object, ...]],
) -> None:
    """Read everything through FUSE between the writes, so that the kernel caches all it can."""
    with scratch() as workspace:
        writable, plain = prepared(workspace)
        writable.close()
        target = workspace / "mounted"
        target.mkdir()
        layers = tuple(writable.lowers)
        plan = Plan(
            "property", target, layers, WhiteoutFormat.TRUSTED, False, writable.upper, writable.work
        )
        FuseDriver().mount(plan)
        mounted = Plain(target)
        try:
            for step in (*steps, ("look",)):
                if step == ("look",):
                    compare(mounted, plain)
                else:
                    both(mounted, plain, step)
            shown = snapshot(target)
        finally:
            plain.close()
            mounted.close()
            mountapi.umount2(target)
        with writable.by_kernel() as other:
            assert snapshot(other) == shown


def compare(mounted: Plain, plain: Plain) -> None:
    assert aged(snapshot(mounted.root)) == aged(snapshot(plain.root))
    for one, other in zip(mounted.opened, plain.opened, strict=True):
        assert os.pread(one, 1 << 20, 0) == os.pread(other, 1 << 20, 0)
        ours, theirs = os.fstat(one), os.fstat(other)
        assert (ours.st_nlink, ours.st_size, ours.st_mode) == (
            *(theirs.st_nlink, theirs.st_size, theirs.st_mode),
        )


def test_random_writes_do_not_change_lower_layers(tmp_path: Path) -> None:
    names = lowers(tmp_path)
    subprocess.run(["cp", "-a", tmp_path / "two", tmp_path / "before"], check=True)
    tree = Writable(tmp_path, names, WhiteoutFormat.TRUSTED.value)
    tree.write("a", b"changed")
    tree.unlink("d/a")
    tree.rename("d/e/b", "new")
    tree.close()
    assert snapshot(tmp_path / "two") == snapshot(tmp_path / "before")
