"""Inode numbers on disk, and overlayfs's xattr *origin*."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.inode_attributes import NO_UUID, FileHandle, handle_of
from stacker.tree.merged import merge
from stacker.tree.numbers import Origin, read_origin
from stacker.tree.protocol import ROOT
from tests.support.stacks import MEMORY, scratch

USER = WhiteoutFormat.USER


def test_origin_is_read_back() -> None:
    origin = Origin(bytes(range(16)), FileHandle(1, b"12345678"))
    assert origin.packed()[:5] == bytes([0, 0xFB, 29, 0, 1])
    assert read_origin(origin.packed()) == origin


@pytest.mark.parametrize(
    "value",
    [b"", b"/lower/of/fuse-overlayfs", b"\0\xfb\x20\0\1" + bytes(16), b"\1\xfb" + bytes(30)],
)
def test_value_that_is_no_origin_is_ignored(value: bytes) -> None:
    assert read_origin(value) is None


@pytest.mark.parametrize("memory", [False, True])
def test_file_handle_has_the_inode_number(tmp_path: Path, *, memory: bool) -> None:
    if memory and MEMORY is None:
        pytest.skip("no /dev/shm")
    with scratch() as shared:
        above = shared if memory else tmp_path
        (above / "link").symlink_to("nowhere")
        held = os.open(above, os.O_RDONLY)
        handle = handle_of(b"link", held)
        os.close(held)
        assert handle.inode_number == (above / "link").lstat().st_ino


def test_unknown_file_handle_has_no_inode_number() -> None:
    assert FileHandle(0xFE, bytes(8)).inode_number is None
    assert FileHandle(0x81, bytes(4)).inode_number is None


def test_directory_has_the_number_of_its_lowest_layer(tmp_path: Path) -> None:
    for name in ("top/d", "bottom/d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "top/d/file").touch()
    tree = merge([tmp_path / "top", tmp_path / "bottom"], USER)
    directory = tree.lookup(ROOT, b"d")
    assert directory is not None
    file = tree.lookup(directory, b"file")
    assert file is not None
    assert tree.number(ROOT) == (tmp_path / "bottom").stat().st_ino
    assert tree.number(directory) == (tmp_path / "bottom/d").stat().st_ino
    assert tree.number(file) == (tmp_path / "top/d/file").stat().st_ino


@pytest.mark.skipif(MEMORY is None, reason="no /dev/shm")
def test_files_of_two_filesystems_have_different_numbers(tmp_path: Path) -> None:
    with scratch() as shared:
        (tmp_path / "file").touch()
        tree = merge([shared, tmp_path], USER)
        found = tree.lookup(ROOT, b"file")
        assert found is not None
        number = (tmp_path / "file").stat().st_ino
        assert tree.number(found) == number
        assert tree.number_on(shared.stat().st_dev, number) != number


def test_origin_on_another_filesystem_names_no_file(tmp_path: Path) -> None:
    tree = merge([tmp_path], USER)
    assert tree.number_of_origin(Origin(b"x" * 16, FileHandle(1, bytes(8))).packed()) is None
    assert tree.number_of_origin(Origin(NO_UUID, FileHandle(0xFE, bytes(8))).packed()) is None
