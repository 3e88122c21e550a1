"""The tree that is unpacked into, and its cached descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stacker.errors import LayerError
from stacker.layer.directory_root import DirectoryRoot
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tar.entry import Meta
from stacker.tar.limits import Limits
from tests.support.tars import (
    dir,  # noqa: A004 - the word for it
    file,
    hardlink,
    symlink,
)
from tests.support.unpacking import Workspace


@contextmanager
def growing(workspace: Workspace, *, limits: Limits | None = None) -> Iterator[DirectoryRoot]:
    root = workspace.path / "grown"
    root.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with DirectoryRoot(
        root,
        replaced=workspace.path / "replaced",
        whiteout_format=WhiteoutFormat.TRUSTED,
        limits=limits,
    ) as tree:
        yield tree
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor stayed open"


def ino(workspace: Workspace, path: str) -> int:
    return os.lstat(workspace.path / "grown" / path).st_ino


def test_parent_is_made_and_returned_with_its_physical_path(workspace: Workspace) -> None:
    with growing(workspace) as tree:
        fd, physical = tree.parent(b"a/b")
        assert os.fstat(fd).st_ino == ino(workspace, "a/b")
        assert physical == b"a/b"
        assert tree.directories == {b"": None, b"a": None, b"a/b": None}
        assert tree.assumed == {b"a", b"a/b"}


def test_existing_returns_a_directory_and_makes_none(workspace: Workspace) -> None:
    with growing(workspace) as tree:
        tree.parent(b"a")
        found = tree.existing(b"a")
        assert found is not None
        assert found[1] == b"a"
        assert tree.existing(b"a/b") is None
        assert tree.existing(b"c/d/e") is None
        assert set(tree.directories) == {b"", b"a"}


def test_cached_descriptor_is_dropped_when_its_directory_is_replaced(
    workspace: Workspace,
) -> None:
    with growing(workspace) as tree:
        tree.parent(b"a/b/c")
        root = tree.parent(b"")[0]
        tree.set_aside(root, b"a", b"a")
        assert set(tree.directories) == {b""}
        fd, _ = tree.parent(b"a/b/c")
        assert os.fstat(fd).st_ino == ino(workspace, "a/b/c")
        assert [d.path for d in tree.replacements] == [b"a"]


def test_cached_descriptor_is_dropped_when_a_symlink_on_its_path_is_replaced(
    workspace: Workspace,
) -> None:
    with growing(workspace) as tree:
        tree.parent(b"d")
        tree.parent(b"e")
        root = tree.parent(b"")[0]
        os.symlink("d", "l", dir_fd=root)
        assert tree.parent(b"l")[1] == b"d"
        root = tree.parent(b"")[0]
        tree.set_aside(root, b"l", b"l")
        os.symlink("e", "l", dir_fd=root)
        fd, physical = tree.parent(b"l")
        assert physical == b"e"
        assert os.fstat(fd).st_ino == ino(workspace, "e")
        assert not tree.replacements, "a symlink holds no contents that a skeleton needs"


def test_descriptor_behind_a_symlink_is_dropped_with_its_directory(
    workspace: Workspace,
) -> None:
    with growing(workspace) as tree:
        tree.parent(b"d/e")
        os.symlink("d/e", "l", dir_fd=tree.parent(b"")[0])
        assert tree.parent(b"l")[1] == b"d/e"
        tree.set_aside(tree.parent(b"")[0], b"d", b"d")
        fd, physical = tree.parent(b"l")
        assert physical == b"d/e"
        assert os.fstat(fd).st_ino == ino(workspace, "d/e")


def test_number_of_open_descriptors_is_bounded(workspace: Workspace) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with growing(workspace) as tree:
        for n in range(1000):
            tree.parent(b"d%d" % n)
        assert len(os.listdir("/proc/self/fd")) <= before + 130


def test_thousands_of_directories_are_reached_in_any_order(workspace: Workspace) -> None:
    parts = [file(f"{n % 300}/x{n}", b"%d" % n) for n in range(900)]
    layer = workspace.unpack(*parts)
    assert all(layer.read(f"{n % 300}/x{n}") == b"%d" % n for n in range(900))


def test_tree_is_not_deeper_than_its_limit(workspace: Workspace) -> None:
    with growing(workspace, limits=Limits(depth=3)) as tree:
        tree.parent(b"a/b/c")
        with pytest.raises(LayerError, match="over a limit"):
            tree.parent(b"a/b/c/d")


def test_innermost_first_yields_children_before_parents(
    workspace: Workspace,
) -> None:
    paths = {b"", b"a", b"a-b", b"a.b/c", b"a.b", b"a/b", b"a/b/c", b"a/b-c", b"b", b"a/c"}
    with growing(workspace) as tree:
        for path in paths:
            tree.parent(path)
        seen: list[bytes] = []
        for path, fd in tree.innermost_first():
            assert os.fstat(fd).st_ino == ino(workspace, os.fsdecode(path))
            seen.append(path)
    assert set(seen) == paths
    assert len(seen) == len(paths)
    for path in paths - {b""}:
        assert seen.index(path) < seen.index(path.rpartition(b"/")[0])


def test_leaving_the_walk_early_closes_its_descriptors(workspace: Workspace) -> None:
    with growing(workspace) as tree:
        tree.parent(b"a/b")
        walk = tree.innermost_first()
        assert next(walk)[0] == b"a/b"
        walk.close()


def test_replacing_a_directory_takes_time_linear_in_its_size(
    workspace: Workspace,
) -> None:
    class Counted(dict[bytes, Meta | None]):
        looked_at = 0

        def __iter__(self) -> Iterator[bytes]:
            Counted.looked_at += len(self)
            return super().__iter__()

    with growing(workspace) as tree:
        tree.directories = Counted(tree.directories)
        for n in range(300):
            tree.parent(b"d%d" % n)
        for _ in range(300):
            tree.parent(b"x/y")
            tree.set_aside(tree.parent(b"")[0], b"x", b"x")
        assert set(tree.directories) == {b"", *(b"d%d" % n for n in range(300))}
    assert Counted.looked_at < 1000


def test_tar_with_many_replacements_is_reassembled(workspace: Workspace) -> None:
    # The workspace checks that the tar is reassembled bit for bit.
    parts = []
    for n in range(200):
        parts += [
            file("x", b"x%d" % n),
            dir("d"),
            file("d/x", b"d%d" % n),
            symlink("l", "d"),
            file("l/y", b"l%d" % n),
            file("l/x", b"r%d" % n),
            hardlink("h", "d/x"),
            file("d", b"f%d" % n),
        ]
    layer = workspace.unpack(*parts)
    assert (layer.read("x"), layer.read("d"), layer.read("h")) == (b"x199", b"f199", b"r199")
    assert layer.names() == {b"x", b"d", b"l", b"h"}
