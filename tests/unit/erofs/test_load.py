"""A loaded image equals the tree that was written; a damaged image is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stacker.erofs.format import SUPERBLOCK_OFFSET
from stacker.erofs.inodes import Inodes
from stacker.erofs.load import CopiedDataError, load_tree
from stacker.erofs.read import Image
from stacker.erofs.write import write_index
from stacker.errors import IntegrityError
from tests.support import tars
from tests.support.erofs_layers import LAYERS, on_disk
from tests.support.erofs_trees import Tree
from tests.support.indexes import index_snapshot

_EPOCH = SUPERBLOCK_OFFSET + 24
"""The offset of the time of all inodes without one of their own."""


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "sparse"])
def test_loaded_tree_gives_the_same_image(name: str, tmp_path: Path) -> None:
    layer = on_disk(tmp_path, LAYERS[name])
    inodes = Inodes()
    root = load_tree(Image(layer.index.read_bytes(), "test"), inodes, tar=1)
    again = tmp_path / "again.erofs"
    write_index(again, inodes, root, [(layer.tar, layer.tar.stat().st_size)])
    assert again.read_bytes() == layer.index.read_bytes()


def test_loaded_sparse_file_in_the_tar_keeps_its_holes(tmp_path: Path) -> None:
    parts = [tars.sparse_10("s", 1 << 16, [(4096, b"a" * 4096), (32768, b"b" * 4096)])]
    layer = on_disk(tmp_path, parts)
    inodes = Inodes()
    root = load_tree(Image(layer.index.read_bytes(), "test"), inodes, tar=1)
    again = tmp_path / "again.erofs"
    write_index(again, inodes, root, [(layer.tar, layer.tar.stat().st_size)])
    wanted = index_snapshot(layer.index.read_bytes(), layer.tar)
    assert index_snapshot(again.read_bytes(), layer.tar) == wanted


def test_copied_sparse_file_requires_the_tar(tmp_path: Path) -> None:
    layer = on_disk(tmp_path, [tars.sparse_10("s", 9000, [(1, b"a"), (8191, b"b" * 5)])])
    with pytest.raises(CopiedDataError):
        load_tree(Image(layer.index.read_bytes(), "test"), Inodes(), tar=1)


def test_no_later_inode_gets_the_number_of_one_of_a_failed_load(tmp_path: Path) -> None:
    parts = [tars.dir("a/"), tars.dir("b/"), tars.sparse_10("s", 9000, [(1, b"a"), (8191, b"b")])]
    layer, inodes = on_disk(tmp_path, parts), Inodes()
    with pytest.raises(CopiedDataError):
        load_tree(Image(layer.index.read_bytes(), "test"), inodes, tar=1)
    assert inodes.directories
    assert max(inodes.directories) < len(inodes)


def test_loaded_files_refer_to_the_given_tar() -> None:
    tree = Tree()
    tree.file(b"a", size=5)
    inodes = Inodes()
    root = load_tree(tree.image(1024), inodes, tar=7)
    number = inodes.directories[root][b"a"]
    assert (inodes.tar[number], inodes.start[number], inodes.size[number]) == (7, 512, 5)


@pytest.mark.parametrize("name", ["files", "xattrs", "symlinks", "hard links", "many blocks"])
def test_damaged_image_is_refused_or_loaded_but_never_fails_otherwise(
    name: str, tmp_path: Path
) -> None:
    whole = on_disk(tmp_path, LAYERS[name]).index.read_bytes()
    source, refused = random.Random(7), 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            at = source.randrange(SUPERBLOCK_OFFSET, len(damaged))
            damaged[at] = source.randrange(256)
        cut = len(damaged) if source.random() < 0.8 else source.randrange(len(damaged))
        try:
            load_tree(Image(bytes(damaged[:cut]), "test"), Inodes(), tar=1)
        except (IntegrityError, CopiedDataError):
            refused += 1
    assert refused


def test_common_time_before_1970_is_read_as_the_kernel_reads_it() -> None:
    tree = Tree()
    tree.file(b"a")
    image = bytearray(tree.written(1024))
    image[_EPOCH : _EPOCH + 8] = (-2).to_bytes(8, "little", signed=True)
    inodes = Inodes()
    root = load_tree(Image(bytes(image), "test"), inodes, tar=1)
    assert inodes.seconds[inodes.directories[root][b"a"]] == -2


def test_directory_with_two_names_is_refused() -> None:
    tree = Tree()
    number = tree.directory(b"a")
    tree.name(b"b", number)
    with pytest.raises(IntegrityError, match="two names"):
        load_tree(tree.image(), Inodes(), tar=1)
