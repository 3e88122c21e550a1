"""Checksums of a layer's files: they name the damaged file."""

from __future__ import annotations

import os
import random
import zlib
from pathlib import Path

import pytest

from stacker.layer.checksums import (
    new_checksums,
    read_checksums,
    write_checksums,
)
from stacker.layer.paths import LayerPaths
from stacker.layer.skeleton import damaged_files, reassemble
from stacker.layer.tar_stream import contents_in_tar
from tests.support import tars
from tests.support.tars import dir as folder
from tests.support.tars import file, symlink
from tests.support.unpacking import Unpacked, Workspace

BIG = random.Random(1).randbytes(1_300_000)


@pytest.fixture
def layer(workspace: Workspace) -> Unpacked:
    layer = workspace.unpack(
        folder("d"),
        file("d/a", b"12345"),
        file("empty"),
        file("gone", b"old"),
        file("gone", b"new"),
        symlink("l", "d"),
        file("l/b", b"moved"),
        tars.sparse_01("s", 10_000, [(0, b"y" * 600), (5000, b"x" * 100)]),
        file("big", BIG),
    )
    checksums = new_checksums()
    for _ in reassemble(layer.paths, layer.record, what="test", checksum=checksums.append):
        pass
    write_checksums(layer.paths.checksums, checksums, temporary=layer.paths.root / "new")
    return layer


def little_endian_crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def damaged(layer: Unpacked) -> list[tuple[bytes, str, str]]:
    return list(damaged_files(layer.paths, layer.record, what="test"))


def test_checksums_are_the_crc_32_of_each_range_in_the_order_of_the_tar(layer: Unpacked) -> None:
    ranges = (b"12345", b"", b"old", b"new", b"moved", b"y" * 600, b"x" * 100, BIG)
    content = b"CRC32\0\0\1" + b"".join(map(little_endian_crc, ranges))
    assert layer.paths.checksums.read_bytes() == content + little_endian_crc(content)


def test_the_tar_of_a_layer_has_the_same_checksums_as_its_tree(
    layer: Unpacked, workspace: Workspace
) -> None:
    paths = LayerPaths(workspace.path / "tar")
    paths.root.mkdir()
    paths.tar.write_bytes(b"".join(reassemble(layer.paths, layer.record, what="test")))
    found = list(contents_in_tar(paths, layer.record, what="test"))
    assert [checksum for each in found for checksum in each.got] == [
        *(read_checksums(layer.paths.checksums) or ()),
    ]
    assert [each.path for each in found] == [
        *(b"d/a", b"empty", b"gone", b"gone", b"d/b", b"s", b"big"),
    ]


def test_unchanged_files_are_not_named(layer: Unpacked) -> None:
    assert damaged(layer) == []


@pytest.mark.parametrize(
    ("place", "name", "at", "data"),
    [
        ("diff/d/a", b"d/a", 4, b"4"),
        ("diff/d/b", b"d/b", 0, b"M"),
        ("diff/gone", b"gone", 0, b"N"),
        ("replaced/0", b"gone", 0, b"O"),
        ("diff/s", b"s", 5099, b"y"),
        ("diff/big", b"big", 1_299_999, bytes([BIG[-1] ^ 1])),
    ],
)
def test_a_changed_byte_names_its_file_alone(
    layer: Unpacked, place: str, name: bytes, at: int, data: bytes
) -> None:
    with (layer.paths.root / place).open("r+b") as changed:
        changed.seek(at)
        changed.write(data)
    assert [path for path, _, _ in damaged(layer)] == [name]


def test_every_changed_file_is_named_and_a_missing_one_hides_no_other(layer: Unpacked) -> None:
    (layer.diff / "d/a").unlink()
    (layer.diff / "gone").write_bytes(b"NEW")
    (layer.diff / "big").write_bytes(BIG[::-1])
    assert [path for path, _, _ in damaged(layer)] == [b"d/a", b"gone", b"big"]


NEWER = b"CRC32\0\0\2" + bytes(32)


@pytest.mark.parametrize(
    "content",
    [None, b"", bytes(44), b"CRC32\0\0\1" + bytes(36), NEWER + little_endian_crc(NEWER)],
)
def test_missing_damaged_or_newer_checksums_name_nothing(
    layer: Unpacked, content: bytes | None
) -> None:
    layer.paths.checksums.unlink()
    if content is not None:
        layer.paths.checksums.write_bytes(content)
    (layer.diff / "d/a").write_bytes(b"54321")
    assert damaged(layer) == []


def test_checksums_survive_being_written_and_read(tmp_path: Path) -> None:
    checksums, path = new_checksums(), tmp_path / "checksums"
    checksums.extend((0, 1, 0xFFFFFFFF))
    assert read_checksums(path) is None
    write_checksums(path, checksums, temporary=tmp_path / "new")
    assert read_checksums(path) == checksums
    assert os.listdir(tmp_path) == ["checksums"]


def test_a_changed_byte_of_the_file_makes_it_useless(layer: Unpacked) -> None:
    content = layer.paths.checksums.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        layer.paths.checksums.write_bytes(changed)
        assert read_checksums(layer.paths.checksums) is None
