"""Damage to layers in EROFS form is found, named and repaired."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.forms import forms_of, layer_directories
from tests.support.images import layout
from tests.support.snapshot import Node, snapshot
from tests.support.tars import file, sparse_01, tar

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts filesystems: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


def test_a_changed_tar_is_found_and_repaired(
    stacker: Stacker, app: images.Layout, wanted: dict[bytes, Node], tmp_path: Path
) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    path = layer_directories(stacker, app)[0] / "layer.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"127.0.0.1")] ^= 1
    path.write_bytes(content)
    assert stacker.run("verify", app.image.config).code == 5
    assert layer_directories(stacker, app)[0].name in stacker("repair", app.image.config).out
    assert forms_of(stacker, app) == [["erofs"], ["erofs"]]
    stacker("verify", app.image.config)
    stacker("unpack", app.image.config, tmp_path / "plain")
    assert snapshot(tmp_path / "plain") == wanted


def damage(path: Path, content: bytes) -> None:
    """Change the first byte of a content in a tar."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(content)] ^= 1
    path.write_bytes(whole)


def differences(stacker: Stacker, *words: str) -> list[tuple[str, str]]:
    """Return the path and the kind of each difference that `verify` finds in the first layer."""
    found = stacker.run("verify", "--json", *words)
    assert found.code == 5
    [layer, *_] = found.item["layers"]
    return [(each["path"], each["what"]) for each in layer["differences"]]


def test_changed_contents_in_a_tar_are_named_exactly_once_a_layer_was_verified(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    path = layer_directories(stacker, app)[0] / "layer.tar"
    sound = path.read_bytes()
    damage(path, b"root:x")
    assert differences(stacker, app.image.config) == []
    path.write_bytes(sound)
    stacker("verify", app.image.config)
    damage(path, b"127.0.0.1")
    damage(path, b"root:x")
    assert differences(stacker, app.image.config) == [
        ("etc/hosts", "contents"),
        ("etc/passwd", "contents"),
    ]
    stacker("repair", app.image.config)
    stacker("verify", app.image.config)


def test_changed_contents_of_a_sparse_and_of_a_replaced_file_are_named(
    stacker: Stacker, tmp_path: Path
) -> None:
    parts = (
        sparse_01("sparse", 100_000, [(0, b"y" * 600), (5000, b"first"), (70_001, b"last")]),
        file("twice", b"earlier"),
        file("twice", b"later"),
    )
    app = layout(tmp_path / "sparse", [tar(*parts)])
    stacker("pull", "--sync", "--form", "erofs", app.source)
    stacker("verify", app.image.config)
    path = layer_directories(stacker, app)[0] / "layer.tar"
    sound = path.read_bytes()
    for content, name in ((b"last", "sparse"), (b"earlier", "twice"), (b"later", "twice")):
        damage(path, content)
        assert (name, "contents") in differences(stacker, app.image.config)
        path.write_bytes(sound)


def test_checksums_of_a_layer_outlast_a_change_of_its_form(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--sync", app.source)
    stacker("verify", app.image.config)
    stacker("convert", app.image.config, "--form", "erofs")
    damage(layer_directories(stacker, app)[0] / "layer.tar", b"root:x")
    assert differences(stacker, app.image.config) == [("etc/passwd", "contents")]
    stacker("repair", app.image.config)
    stacker("convert", app.image.config, "--form", "tree")
    stacker("verify", app.image.config)


def test_a_changed_index_is_found_and_its_file_named(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    other = layout(stacker.store.parent / "other", [tar(file("etc/hosts", b"h", mode=0o644))])
    elsewhere = at_home(stacker.store.parent, store="elsewhere")
    elsewhere("pull", "--no-sync", "--form", "erofs", other.source)
    [changed] = layer_directories(elsewhere, other)
    shutil.copy(changed / "index.erofs", layer_directories(stacker, app)[0] / "index.erofs")
    text = stacker.run("verify", "--fast", "--json", app.image.config).out
    assert "etc/hosts" in text
    assert "0640" in text


@pytest.mark.parametrize("name", ["index.erofs", "layer.tar"])
def test_an_empty_file_of_a_layer_is_damage_that_repair_mends(
    stacker: Stacker, app: images.Layout, name: str
) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    (layer_directories(stacker, app)[1] / name).write_bytes(b"")
    assert stacker.run("verify", app.image.config).code == 5
    stacker("repair", app.image.config)
    stacker("verify", app.image.config)


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_changed_merged_index_is_found_and_built_again(
    stacker: Stacker, app: images.Layout, *, is_empty: bool
) -> None:
    stacker("pull", "--sync", "--form", "erofs", app.source)
    [index] = (stacker.store / "chains").glob("*/*/merged.erofs")
    content = bytearray(index.read_bytes())
    content[-600] ^= 0xFF
    index.write_bytes(b"" if is_empty else content)
    assert stacker.run("verify", app.image.config).code == 5
    stacker("repair", app.image.config)
    stacker("verify", app.image.config)
