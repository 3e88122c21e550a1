"""Images of trees: sizes, order of names, links, and limits."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from stacker.erofs.format import BLOCK
from stacker.erofs.inodes import xattr_set
from stacker.erofs.read import Image
from stacker.erofs.write import write_image, write_index
from stacker.errors import LayerError
from stacker.tar.entry import Segment
from tests.support.erofs_trees import Tree, meta, names_of
from tests.support.fsck import assert_sound, needs_fsck

TIB = 1 << 40
LARGE = {"4 GiB": 1 << 32, "5 GiB": 5 << 30, "1 TiB": TIB, "3 TiB": 3 * TIB // 2 + 1}


def stored(directory: Path, tree: Tree, tar_size: int) -> tuple[Path, Path]:
    """Write a tree beside a tar without data."""
    tar, index = directory / "layer.tar", directory / "index.erofs"
    tar.touch()
    os.truncate(tar, tar_size)
    write_index(index, tree.inodes, tree.root, [(tar, tar_size)])
    return index, tar


@pytest.mark.parametrize("size", LARGE.values(), ids=LARGE)
def test_large_file_has_chunks_that_follow_each_other(size: int) -> None:
    tree = Tree()
    tree.file(b"large", size=size, start=1024)
    image = tree.image(size + 2048)
    [(name, nid, _)] = [
        item for item in image.names(image.inode(image.superblock.root)) if item[0] == b"large"
    ]
    at = 0
    for offset, length, tar, start in image.chunks(image.inode(nid)):
        assert (offset, tar, start) == (at, 1, 1024 + at)
        at += length
    assert (name, at) == (b"large", size)


@needs_fsck
@pytest.mark.parametrize("size", LARGE.values(), ids=LARGE)
def test_large_file_passes_fsck(size: int, tmp_path: Path) -> None:
    tree = Tree()
    tree.file(b"large", size=size, start=1024)
    assert_sound(*stored(tmp_path, tree, size + 1024), contents=False)


def test_file_behind_the_last_block_is_refused() -> None:
    tree = Tree()
    tree.file(b"far", size=1, start=BLOCK << 32)
    with pytest.raises(LayerError, match="too large"):
        tree.written((BLOCK << 32) + 1)


def test_tar_of_more_blocks_than_a_slot_counts_is_refused() -> None:
    with pytest.raises(LayerError, match="too large"):
        Tree().written(BLOCK << 32)


def test_names_are_sorted_as_bytes() -> None:
    tree = Tree()
    names = [b"\xff", b"a", b"-", b"...", b"Z", b"a.b", b"a-b", b"\x01", b"ab"]
    for name in names:
        tree.file(name)
    assert names_of(tree.image()) == sorted(names)


@needs_fsck
def test_directory_with_100_000_names(tmp_path: Path) -> None:
    tree = Tree()
    names = [b"%d-" % n * (1 + n % 9) for n in range(100_000)]
    above = tree.directory(b"d")
    for number, name in enumerate(names):
        tree.file(name, size=number % 3, start=512 * number, above=above)
    image = tree.image(512 * 100_000)
    assert names_of(image, b"d") == sorted(names)
    directory = image.inode(image.lookup(image.inode(image.superblock.root), b"d") or 0)
    for name in names[::997]:
        nid = image.lookup(directory, name)
        assert nid is not None
        chunks = list(image.chunks(image.inode(nid)))
        assert [chunk.start for chunk in chunks] == [512 * names.index(name)] * len(chunks)
    assert image.lookup(directory, b"missing") is None
    assert_sound(*stored(tmp_path, tree, 512 * 100_000), contents=False)


@needs_fsck
def test_more_hard_links_than_16_bits(tmp_path: Path) -> None:
    tree = Tree()
    number = tree.file(b"file", size=1)
    above = tree.directory(b"links")
    for name in range(70_000):
        tree.name(b"%d" % name, number, above)
    image = tree.image(1024)
    nid = image.lookup(image.inode(image.superblock.root), b"file")
    assert nid is not None
    assert image.inode(nid).links == 70_001
    assert_sound(*stored(tmp_path, tree, 1024), contents=False)


@needs_fsck
def test_more_directories_than_16_bits_of_links(tmp_path: Path) -> None:
    tree = Tree()
    for name in range(66_000):
        tree.directory(b"%d" % name)
    image = tree.image()
    assert image.inode(image.superblock.root).links == 66_002
    assert_sound(*stored(tmp_path, tree, 512), contents=False)


def test_inode_without_a_name_is_not_written() -> None:
    tree = Tree()
    before = tree.written()
    tree.inodes.add(stat.S_IFREG, meta())
    assert tree.written() == before


def test_order_of_names_does_not_change_the_image() -> None:
    images = set()
    for order in (1, -1):
        tree = Tree()
        numbers = {name: tree.inodes.add(stat.S_IFREG, meta()) for name in (b"a", b"b", b"c")}
        for name in list(numbers)[::order]:
            tree.name(name, numbers[name])
        images.add(tree.written())
    assert len(images) == 1


def test_image_is_a_multiple_of_blocks_and_declares_them() -> None:
    tree = Tree()
    tree.inodes.set_xattrs(tree.root, xattr_set({b"user.a": b"v" * 700}))
    image = tree.written()
    assert len(image) % BLOCK == 0
    assert int.from_bytes(image[1024 + 36 : 1024 + 40], "little") == len(image) // BLOCK


def test_xattrs_of_more_bytes_than_an_inode_counts_are_refused() -> None:
    tree = Tree()
    pairs = {b"user.%d" % n: b"v" * 65_000 for n in range(5)}
    tree.inodes.set_xattrs(tree.root, xattr_set(pairs))
    with pytest.raises(LayerError, match="xattrs"):
        tree.written()


def test_sparse_file_beyond_the_last_block_is_refused() -> None:
    tree = Tree()
    number = tree.file(b"sparse", size=1 << 20, start=(BLOCK << 32) - 512)
    tree.inodes.sparse[number] = (Segment(0, 512), Segment(4096, 512))
    with pytest.raises(LayerError, match="too large"):
        tree.written(1 << 20)


def test_image_with_its_contents_copies_no_chunk_of_a_large_sparse_file() -> None:
    tree, out = Tree(), io.BytesIO()
    number = tree.inodes.add(stat.S_IFREG, meta(), size=1 << 34, start=1 << 16, tar=0)
    tree.inodes.directories[tree.root][b"sparse"] = number
    tree.inodes.sparse[number] = (Segment(1 << 33, 1 << 16),)
    write_image(out, tree.inodes, tree.root, (), contents=1 << 16)
    image = Image(out.getvalue(), "test")
    root = image.inode(image.superblock.root)
    [nid] = [nid for name, nid, _ in image.names(root) if name == b"sparse"]
    [chunk] = [each for each in image.chunks(image.inode(nid)) if each.tar >= 0]
    assert (chunk.offset, chunk.length, chunk.start) == (1 << 33, 1 << 16, 1 << 16)
