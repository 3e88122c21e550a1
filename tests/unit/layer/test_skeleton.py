"""Skeletons: damage, replaced files and memory.

`tests.support.unpacking` checks after each unpack that the skeleton reproduces the tar.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from stacker.errors import IntegrityError
from stacker.layer.record import Replacement
from stacker.layer.skeleton import FileLocations, SkeletonWriter, open_skeleton, reassemble
from stacker.stream.compression import CHUNK
from tests.support import tars
from tests.support.tars import dir, entry, file, hardlink, pax, symlink, tar, whiteout  # noqa: A004
from tests.support.unpacking import FORMAT, Unpacked, Workspace, entries_of


def test_skeleton_holds_no_file_contents(workspace: Workspace) -> None:
    secret = os.urandom(100_000)
    layer = workspace.unpack(file("a", secret), tars.sparse_10("s", 1 << 20, [(0, secret)]))
    assert layer.skeleton.stat().st_size < 2000
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(layer.skeleton.read_bytes())
    assert secret[:16] not in plain


def test_odd_padding_and_bytes_after_the_end_are_kept(workspace: Workspace) -> None:
    odd = tar(entry("a", b"12345")[:-500] + b"not zeros".ljust(500, b"!"), end=False)
    layer = workspace.unpack(odd, tar(), b"rubbish", end=False)
    assert layer.read("a") == b"12345"


def test_odd_headers_are_kept(workspace: Workspace) -> None:
    workspace.unpack(
        pax(comment="kept", mtime="nonsense"),
        file("a", b"1", user="somebody", group="some", mode=b" 644 \0\0\0", magic=tars.GNU),
        tars.pax_global(comment="x"),
        file("b", b"2", magic=tars.V7),
        entry(".wh..wh.aufs", b"bookkeeping"),
        entry("d", b"names", flag=b"D"),
        hardlink("h", "a", size=999),
    )


def test_empty_layer_has_a_skeleton(workspace: Workspace) -> None:
    assert workspace.unpack(end=False).record.entries == 0
    assert workspace.unpack().record.entries == 0


def test_layer_of_many_chunks_is_reassembled(workspace: Workspace) -> None:
    parts = [file(f"f{n}", os.urandom(n * 37 % 5000)) for n in range(300)]
    workspace.unpack(*parts, chunk=1000)


def test_large_file_is_reassembled_in_bounded_chunks(workspace: Workspace) -> None:
    layer = workspace.unpack(file("big", bytes(3 << 20)), chunk=1 << 16)
    pieces = list(reassemble(layer.paths, layer.record, what="test"))
    assert max(map(len, pieces)) <= CHUNK < 3 << 20


@pytest.fixture
def layer(workspace: Workspace) -> Unpacked:
    return workspace.unpack(
        file("d/a", b"12345"),
        file("empty"),
        file("gone", b"old"),
        file("gone", b"new"),
        symlink("l", "d"),
        file("l/b", b"moved"),
        tars.sparse_01("s", 10_000, [(5000, b"x" * 100)]),
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda layer: (layer.diff / "d/a").unlink(),
        lambda layer: (layer.diff / "empty").unlink(),
        lambda layer: (layer.diff / "empty").write_bytes(b"x"),
        lambda layer: (layer.diff / "d/a").write_bytes(b"1234"),
        lambda layer: (layer.diff / "d/a").write_bytes(b"123456"),
        lambda layer: (layer.diff / "d/b").unlink(),
        lambda layer: os.truncate(layer.diff / "s", 9999),
        lambda layer: (layer.paths.replaced / "0").unlink(),
        lambda layer: (layer.diff / "d/a").rename(layer.diff / "d/c"),
        lambda layer: _swap_for_symlink(layer.diff / "d/a"),
        lambda layer: _swap_for_fifo(layer.diff / "d/a"),
        lambda layer: _swap_for_directory(layer.diff / "d/a"),
        lambda layer: _cut(layer.skeleton, 10),
        lambda layer: _cut(layer.skeleton, 100),
        lambda layer: layer.skeleton.write_bytes(b""),
        lambda layer: layer.skeleton.write_bytes(b"x" * 512),
    ],
)  # fmt: skip
def test_damage_is_an_integrity_error(
    layer: Unpacked, damage: Callable[[Unpacked], object]
) -> None:
    damage(layer)
    with pytest.raises(IntegrityError, match=r"differs from its skeleton|damaged skeleton|corrupt"):
        layer.reassembled()


def test_changed_contents_change_the_stream(layer: Unpacked) -> None:
    before = layer.reassembled()
    (layer.diff / "d/a").write_bytes(b"54321")
    assert layer.reassembled() != before


def _swap_for_symlink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _swap_for_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _swap_for_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _cut(path: Path, length: int) -> None:
    os.truncate(path, path.stat().st_size - length)


def test_skeleton_gives_every_entry_without_the_tree(workspace: Workspace) -> None:
    parts = [file("a", b"1" * 1000), dir("d"), whiteout("w"), hardlink("h", "a"), symlink("l", "t")]
    layer = workspace.unpack(*parts)
    layer.diff.rename(layer.paths.root / "moved")
    with open_skeleton(layer.skeleton, what="test") as reader:
        assert list(reader) == entries_of(tar(*parts))


def test_large_and_small_pieces_are_written_in_order(tmp_path: Path) -> None:
    path, pieces = tmp_path / "skeleton", [os.urandom(n * 1000 % 300_000) for n in range(1500)]
    with path.open("wb") as out:
        writer = SkeletonWriter(out)
        for piece in pieces:
            writer.keep(piece)
        writer.finish()
    with path.open("rb") as raw:
        assert zstandard.ZstdDecompressor().stream_reader(raw).read() == b"".join(pieces)


def test_file_is_found_at_the_first_replacement_after_its_entry() -> None:
    from stacker.layer.record import LayerRecord

    record = LayerRecord(
        FORMAT,
        moved={0: b"d/x", 7: b"e/x"},
        replacements=(
            Replacement(2, b"d/x", 0),
            Replacement(4, b"d", 1),
            Replacement(6, b"d", 2),
            Replacement(9, b"d/x", 3),
        ),
    )
    locations = FileLocations(record)
    assert locations.find(0, b"l/x") == (0, b"")
    assert locations.find(1, b"d/x") == (0, b"")
    assert locations.find(1, b"d/y/z") == (1, b"y/z")
    assert locations.find(2, b"d/x") == (1, b"x")
    assert locations.find(4, b"d") == (2, b"")
    assert locations.find(5, b"d/x") == (2, b"x")
    assert locations.find(6, b"d/x") == (3, b"")
    assert locations.find(8, b"d/x") == (3, b"")
    assert locations.find(9, b"d/x") == (None, b"d/x")
    assert locations.find(7, b"l/x") == (None, b"e/x")
    assert locations.find(1, b"dd") == (None, b"dd")
