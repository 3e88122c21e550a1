"""The merged tree in memory, read from skeletons or from the layers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stacker.errors import IntegrityError
from stacker.layer.paths import LayerPaths
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.stack.lookup import LayerLookup
from stacker.tar.entry import HardLink
from stacker.tree import skeleton_contents
from stacker.tree.merged import MergedTree, merge
from stacker.tree.protocol import ROOT, Node
from stacker.tree.scan import Contents
from tests.support.merged import tree_snapshot
from tests.support.sequential import Item, Sequential
from tests.support.stacks import (
    D,
    F,
    L,
    O,
    S,
    W,
    archive,
    layer_paths,
    scratch,
    unpacked,
    unpacked_stack,
)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="unpacks other people's files: needs root"
)
FORMAT = WhiteoutFormat.TRUSTED
LOWER = (
    D("etc", xattrs=(("user.kind", b"\0\xff"),)),
    F("etc/b", b"bee"),
    F("etc/a", b"ay"),
    L("etc/c", "etc/a"),
    S("link", "etc/a"),
    D("gone"),
    F("gone/x"),
    D("emptied"),
    F("emptied/old"),
    F("file"),
)
UPPER = (W("gone"), O("emptied"), F("emptied/new"), W("file"), D("file"), F("etc/b", b"changed"))


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


def layered(workspace: Path, *layers: Sequence[Item]) -> list[LayerPaths | Path]:
    stack = unpacked_stack([archive(layer) for layer in layers], workspace, FORMAT)
    known = {source.diff: source for source in layer_paths(stack)}
    return [known.get(path, path) for path in stack.directories]


def meaning(*layers: Sequence[Item]) -> dict[bytes, object]:
    reference = Sequential()
    for layer in layers:
        reference.apply(layer)
    return dict(reference.snapshot())


def at(tree: MergedTree, path: bytes) -> Node:
    node = ROOT
    for name in path.split(b"/"):
        found = tree.lookup(node, name)
        assert found is not None, path
        node = found
    return node


@pytest.fixture
def tree(workspace: Path) -> MergedTree:
    return merge(layered(workspace, LOWER, UPPER), FORMAT)


def test_names_are_sorted_and_found(tree: MergedTree) -> None:
    names = [tree.name(node) for node in tree.children(ROOT)]
    assert names == [b"emptied", b"etc", b"file", b"link"]
    assert tree.lookup(ROOT, b"gone") is None
    assert tree.lookup(ROOT, b"") is None
    assert tree.lookup(at(tree, b"etc/a"), b"x") is None
    assert tree.path(at(tree, b"etc/a")) == b"etc/a"
    assert len(tree) == len(list(tree)) == 1 + 4 + 1 + 3


def test_links_share_an_inode_and_are_counted(tree: MergedTree) -> None:
    a, c = at(tree, b"etc/a"), at(tree, b"etc/c")
    assert tree.inode(a) == tree.inode(c)
    assert tree.status(tree.inode(c)).nlink == 2
    assert tree.status(at(tree, b"etc/b")).nlink == 1


def test_contents_are_read_from_the_layers(tree: MergedTree) -> None:
    assert tree.read(at(tree, b"etc/b"), 0, 100) == b"changed"
    assert tree.read(at(tree, b"etc/b"), 2, 3) == b"ang"
    assert tree.read(at(tree, b"etc/a"), 2, 3) == b""
    with pytest.raises(OSError, match="not a regular file"):
        tree.read(at(tree, b"etc"), 0, 1)


def test_symlink_targets_and_xattrs_are_returned(tree: MergedTree) -> None:
    assert tree.readlink(at(tree, b"link")) == b"etc/a"
    with pytest.raises(OSError, match="not a symbolic link"):
        tree.readlink(ROOT)
    assert tree.xattrs(at(tree, b"etc")) == {b"user.kind": b"\0\xff"}
    assert tree.xattr(at(tree, b"etc"), b"user.kind") == b"\0\xff"
    assert tree.xattr_names(ROOT) == []
    with pytest.raises(OSError, match="no such attribute"):
        tree.xattr(ROOT, b"user.kind")


@pytest.mark.parametrize("layers", [(LOWER,), (LOWER, UPPER), (LOWER, UPPER, LOWER)])
def test_skeleton_alone_gives_the_tree(workspace: Path, layers: Sequence[Sequence[Item]]) -> None:
    stack = [source for source in layered(workspace, *layers) if isinstance(source, LayerPaths)]
    whole = merge([source.diff for source in stack], FORMAT)
    seen = tree_snapshot(merge(stack, FORMAT))
    assert seen == tree_snapshot(whole)
    for source in stack:
        shutil.rmtree(source.diff)
    again = merge(stack, FORMAT)
    assert [again.path(node) for node in again] == [whole.path(node) for node in whole]
    assert [again.status(node) for node in again] == [whole.status(node) for node in whole]


@pytest.mark.parametrize(
    "layer",
    [
        (F("a", b"1"), F("a", b"22")),
        (D("a"), F("a/x"), F("a")),
        (F("a"), D("a"), F("a/x")),
        (S("lib", "usr"), D("usr"), F("lib/x", b"led")),
        (S("lib", "usr"), D("usr"), D("lib/inner")),
        (L("b", "a"), F("a", b"later")),
        (L("c", "b"), L("b", "a"), F("a", b"later")),
        (S("lib", "usr"), D("usr"), F("usr/a"), L("b", "lib/a")),
        (F("a"), L("a", "a")),
        (D("a", mtime=1_000_000_000), D("a", mtime=2_000_000_000)),
        (W("d/x"), F("e")),
        (W("d"), W("d/x"), F("d")),
        (W("d"), O("d")),
    ],
    ids=lambda layer: " ".join(f"{item.kind}:{item.path}" for item in layer),
)
def test_entries_that_replace_or_move_each_other_are_merged(
    workspace: Path, layer: Sequence[Item]
) -> None:
    assert tree_snapshot(merge(layered(workspace, layer), FORMAT)) == meaning(layer)


def test_links_across_layers_share_an_inode(workspace: Path) -> None:
    layers = (F("a", b"old"), F("kept")), (L("b", "a"),)
    tree = merge(layered(workspace, *layers), FORMAT)
    assert tree.inode(at(tree, b"a")) == tree.inode(at(tree, b"b"))
    assert tree_snapshot(tree) == meaning(*layers)


def test_file_below_a_path_over_path_max_is_read(workspace: Path) -> None:
    path = "/".join(["d" * 200] * 25)
    layer = unpacked(0, archive((F(f"{path}/file", b"deep"),)), workspace, FORMAT)
    tree = merge([layer.paths], FORMAT)
    assert tree.read(at(tree, f"{path}/file".encode()), 0, 10) == b"deep"


def test_chain_of_waiting_links_is_made_in_linear_time(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, linked = [0], skeleton_contents._FromSkeleton._add_link

    def counting(self: skeleton_contents._FromSkeleton, link: HardLink) -> bool:
        calls[0] += 1
        return linked(self, link)

    monkeypatch.setattr(skeleton_contents._FromSkeleton, "_add_link", counting)
    row = [L(f"l{n}", f"l{n + 1}") for n in range(100)]
    tree = merge(layered(workspace, (*row, F("l100"))), FORMAT)
    assert tree.status(tree.inode(at(tree, b"l0"))).nlink == 101
    assert calls[0] < 3 * 100


def test_tree_deeper_than_the_recursion_limit_is_merged(workspace: Path) -> None:
    deep = b"/".join([b"d"] * 1500)
    assert Contents(b"").make(deep) == {}
    assert LayerLookup([workspace], FORMAT).sources(deep) == ()


def test_times_out_of_range_are_clamped(workspace: Path) -> None:
    far = Item("file", "a", mtime=300 * 366 * 24 * 3600 * 1_000_000_000)
    tree = merge(layered(workspace, (far,)), FORMAT)
    assert tree.status(at(tree, b"a")).mtime == (1 << 63) - 1


def test_squashed_layer_has_the_owner_on_disk(workspace: Path) -> None:
    (source,) = layered(workspace, (D(""), Item("file", "a", uid=7, gid=8)))
    assert isinstance(source, LayerPaths)
    record = source.record.read_bytes()
    assert b'"identity"' in record
    source.record.write_bytes(record.replace(b'"identity"', b'"squash"'))
    os.chown(source.diff, 12, 34)
    tree = merge([source], FORMAT)
    assert tree.status(at(tree, b"a"))[2:4] == (12, 34)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda _: b"", lambda raw: b"\0" + raw])
def test_damaged_skeleton_is_an_integrity_error(workspace: Path, damage: object) -> None:
    (source,) = layered(workspace, LOWER)
    assert isinstance(source, LayerPaths)
    assert callable(damage)
    source.skeleton.write_bytes(damage(source.skeleton.read_bytes()))
    with pytest.raises(IntegrityError):
        merge([source], FORMAT)
