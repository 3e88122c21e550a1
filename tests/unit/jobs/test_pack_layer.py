"""Packing: a layer's directory becomes a blob of the same tar."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
import zstandard

from stacker.errors import IntegrityError, NotFoundError, StackerError
from stacker.events import Event, LayerPacked, PackProgress
from stacker.image.digest import DiffID, Digest
from stacker.jobs.pack_layer import PackOptions, PackTask, pack_layer
from stacker.store.store import Store
from stacker.stream.compression import Compression
from tests.support.store import unpack
from tests.support.tars import dir, file, symlink, tar, whiteout  # noqa: A004 - as in tars

SMALL = tar(dir("d/"), file("d/a", b"1"), symlink("l", "d"), whiteout("gone"))
LARGE = tar(file("large", random.Random(1).randbytes(3 << 20)), file("b", b"2"))
"""More than 64 KiB, so that stages run in threads."""
LAYERS = pytest.mark.parametrize("layer", [SMALL, LARGE], ids=["small", "large"])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "packed"
    path.mkdir()
    return path


def pack(
    store: Store, directory: Path, layer: bytes, options: PackOptions | None = None
) -> tuple[LayerPacked, list[Event]]:
    events: list[Event] = []
    task = PackTask(store, directory, DiffID.of(layer), options or PackOptions())
    return pack_layer(task, events.append), events


@LAYERS
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_blob_decompresses_to_the_original_tar(
    store: Store, directory: Path, layer: bytes, compression: Compression
) -> None:
    unpack(store, layer)
    packed, _ = pack(store, directory, layer, PackOptions(compression))
    blob = packed.path.read_bytes()
    if compression == "gzip":
        assert gzip.decompress(blob) == layer
    else:
        assert zstandard.ZstdDecompressor().decompressobj().decompress(blob) == layer
    assert (packed.diff_id, packed.digest) == (DiffID.of(layer), Digest.of(blob))
    assert packed.size == len(blob)
    assert list(directory.iterdir()) == [packed.path]


def test_level_changes_the_size(store: Store, directory: Path) -> None:
    layer = tar(file("a", bytes(range(256)) * 4096))
    unpack(store, layer)
    sizes = [pack(store, directory, layer, PackOptions("zstd", level))[0].size for level in (1, 19)]
    assert sizes[0] > sizes[1]


@LAYERS
def test_same_layer_gives_the_same_blob(store: Store, directory: Path, layer: bytes) -> None:
    unpack(store, layer)
    assert pack(store, directory, layer)[0] == pack(store, directory, layer)[0]


@LAYERS
def test_last_progress_is_the_size_of_the_tar(store: Store, directory: Path, layer: bytes) -> None:
    unpack(store, layer)
    _, events = pack(store, directory, layer)
    progress = [event for event in events if isinstance(event, PackProgress)]
    assert progress == events
    assert progress[-1] == PackProgress(DiffID.of(layer), len(layer), len(layer))
    assert [event.done for event in progress] == sorted({event.done for event in progress})


@LAYERS
def test_changed_file_is_refused(store: Store, directory: Path, layer: bytes) -> None:
    unpack(store, layer)
    changed = store.layers.paths(DiffID.of(layer)).diff / ("d/a" if layer is SMALL else "b")
    changed.write_bytes(b"3")
    with pytest.raises(IntegrityError):
        pack(store, directory, layer)


def test_removed_file_is_refused(store: Store, directory: Path) -> None:
    unpack(store, SMALL)
    (store.layers.paths(DiffID.of(SMALL)).diff / "d/a").unlink()
    with pytest.raises(IntegrityError):
        pack(store, directory, SMALL)


def test_layer_that_is_not_in_the_store_is_not_found(store: Store, directory: Path) -> None:
    with pytest.raises(NotFoundError):
        pack(store, directory, SMALL)


def test_missing_directory_is_an_error_that_names_the_layer(store: Store, tmp_path: Path) -> None:
    unpack(store, SMALL)
    with pytest.raises(StackerError, match=f"cannot pack: layer {DiffID.of(SMALL)}"):
        pack(store, tmp_path / "none", SMALL)
