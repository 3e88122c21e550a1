"""Each feature of a layer: the index equals the tree, erofs-utils read it, and it mounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stacker.erofs.read import Image
from stacker.errors import LayerError
from stacker.layer.paths import MergedIndex
from stacker.linux import mountapi
from stacker.linux.mountapi import FileDescriptor
from stacker.mount.drivers import erofs
from stacker.tar.limits import Limits
from tests.support import tars
from tests.support.erofs_layers import LAYERS, SHARED, OnDisk, on_disk
from tests.support.fsck import assert_sound, dumped_counts, needs_fsck
from tests.support.indexes import index_snapshot
from tests.support.snapshot import snapshot
from tests.support.unpacking import Workspace, needs_root

Mount = Callable[[MergedIndex, int], int]
every_layer = pytest.mark.parametrize("name", LAYERS)
from_files_and_devices = pytest.mark.parametrize(
    "mount", [erofs._from_files, erofs._from_loop_devices], ids=["files", "loop"]
)


@contextmanager
def mounted(layer: OnDisk, mount: Mount, target: Path) -> Iterator[Path]:
    """Mount the index of a layer by itself; skip if this kernel cannot."""
    target.mkdir()
    try:
        made = FileDescriptor(mount(layer.merged, mountapi.MS_RDONLY))
    except OSError as error:
        pytest.skip(f"the kernel cannot mount EROFS like this: {error}")
    with made, FileDescriptor.open_directory(target) as point:
        mountapi.move_mount(made.number, point.number, path=target)
    try:
        yield target
    finally:
        mountapi.umount2(target, 0)


@needs_root
@every_layer
def test_index_equals_tree(name: str, workspace: Workspace) -> None:
    workspace.unpack(*LAYERS[name])


@every_layer
def test_equal_layers_have_equal_indexes(name: str, tmp_path: Path) -> None:
    made = []
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        made.append(on_disk(tmp_path / part, LAYERS[name]).index.read_bytes())
    assert made[0] == made[1]


@needs_fsck
@every_layer
def test_index_passes_fsck(name: str, tmp_path: Path) -> None:
    layer = on_disk(tmp_path, LAYERS[name])
    assert_sound(layer.index, layer.tar)


KINDS = {
    "regular file": "file",
    "directory": "directory",
    "char dev": "char",
    "block dev": "block",
    "FIFO file": "fifo",
    "SOCK file": "socket",
    "symlink file": "symlink",
}


@needs_fsck
@every_layer
def test_dump_finds_each_file_with_its_kind(name: str, tmp_path: Path) -> None:
    layer = on_disk(tmp_path, LAYERS[name])
    found = index_snapshot(layer.index.read_bytes(), layer.tar)
    kinds = Counter(file.kind for file in found.values())
    counts = dumped_counts(layer.index, layer.tar)
    assert {kind: counts[kind] for kind in KINDS} == {kind: kinds[KINDS[kind]] for kind in KINDS}
    assert counts["total file"] == len(found)
    assert counts["unknown type"] == 0
    assert counts["inode"] == Image(layer.index.read_bytes(), name).superblock.inodes


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@from_files_and_devices
@every_layer
def test_mounted_index_equals_index(name: str, mount: Mount, tmp_path: Path) -> None:
    layer = on_disk(tmp_path, LAYERS[name])
    with mounted(layer, mount, tmp_path / "target") as target:
        assert snapshot(target) == index_snapshot(layer.index.read_bytes(), layer.tar)


@needs_fsck
def test_more_shared_xattrs_than_a_count_of_8_bits(tmp_path: Path) -> None:
    layer = on_disk(tmp_path, SHARED)
    found = index_snapshot(layer.index.read_bytes(), layer.tar)
    assert len(found[b"a"].xattrs) == len(found[b"b"].xattrs) == 300
    assert_sound(layer.index, layer.tar)


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@from_files_and_devices
def test_kernel_reads_more_shared_xattrs_than_a_count_of_8_bits(
    mount: Mount, tmp_path: Path
) -> None:
    layer = on_disk(tmp_path, SHARED)
    with mounted(layer, mount, tmp_path / "target") as target:
        assert snapshot(target) == index_snapshot(layer.index.read_bytes(), layer.tar)


def test_maps_of_sparse_files_count_against_the_limit_of_names(tmp_path: Path) -> None:
    parts = [tars.sparse_10(f"s{n}", 1 << 37, [(1, b"x")]) for n in range(4)]
    with pytest.raises(LayerError, match="over a limit"):
        on_disk(tmp_path, parts, limits=Limits(names=1 << 21))
