"""Export the image of the conformance suites: the tree that a mount exposes, as one file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import get_args

import pytest

from stacker.layer.paths import Form
from tests.support.command import Stacker
from tests.support.fsck import assert_sound, needs_fsck
from tests.support.indexes import index_snapshot
from tests.support.snapshot import Node, extracted, snapshot
from tests.support.subjects import stock, stocked_layers, unmount_by_force

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and writes owners: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
each_form = pytest.mark.parametrize("form", get_args(Form))


def stocked(path: Path, form: Form) -> Stacker:
    """Return the command with a store that has the image ``app:1.0``."""
    path.mkdir()
    stock(path, form, stocked_layers())
    return Stacker(path / "store")


def mounted_tree(stacker: Stacker, target: Path) -> dict[bytes, Node]:
    target.mkdir()
    stacker("mount", "app:1.0", target)
    try:
        tree = snapshot(target)
        stacker("umount", target)
        return tree
    finally:
        unmount_by_force(target)


@each_form
def test_extracted_tar_equals_the_mounted_tree(tmp_path: Path, form: Form) -> None:
    stacker = stocked(tmp_path / "stocked", form)
    stacker("export", "app:1.0", "-o", tmp_path / "app.tar")
    assert extracted(tmp_path / "app.tar") == mounted_tree(stacker, tmp_path / "target")


@needs_fsck
@each_form
def test_erofs_image_equals_the_mounted_tree(tmp_path: Path, form: Form) -> None:
    stacker = stocked(tmp_path / "stocked", form)
    path = tmp_path / "app.erofs"
    stacker("export", "--format", "erofs", "app:1.0", "-o", path)
    assert_sound(path)
    assert index_snapshot(path.read_bytes()) == mounted_tree(stacker, tmp_path / "target")


@pytest.mark.parametrize("file_format", ["tar", "erofs"])
def test_every_export_of_an_image_gives_the_same_bytes(tmp_path: Path, file_format: str) -> None:
    found = set()
    for form in get_args(Form):
        stacker = stocked(tmp_path / form, form)
        for _ in range(2):
            stacker("export", "--format", file_format, "app:1.0", "-o", tmp_path / "file")
            found.add(hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest())
    assert len(found) == 1
