"""On a filesystem that can share blocks, a plain copy of an image takes next to no room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tars
from tests.support.command import Stacker
from tests.support.images import layout
from tests.support.snapshot import snapshot

SIZE = 24 << 20

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem: needs root"),
    pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="xfsprogs is not installed"),
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices here"),
]


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """Give an empty XFS."""
    image, place = tmp_path / "xfs.img", tmp_path / "xfs"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    place.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def used(place: Path) -> int:
    os.sync()
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def test_an_unpacked_image_shares_its_blocks_with_the_store(xfs: Path, tmp_path: Path) -> None:
    data = os.urandom(SIZE)
    made = layout(tmp_path / "oci", [tars.tar(tars.dir("d/"), tars.file("d/f", data))])
    stacker = Stacker(xfs / "store")
    image = stacker("pull", made.source).last
    before = used(xfs)
    stacker("unpack", image, xfs / "tree")
    assert (xfs / "tree" / "d" / "f").read_bytes() == data
    assert used(xfs) - before < SIZE // 4


def test_an_image_mounts_from_a_store_on_xfs(xfs: Path, tmp_path: Path) -> None:
    layers = [
        tars.tar(tars.dir("d/"), tars.file("d/f", b"1"), tars.file("gone", b"2")),
        tars.tar(tars.file("d/g", b"3"), tars.whiteout("gone")),
    ]
    stacker = Stacker(xfs / "store")
    image = stacker("pull", layout(tmp_path / "oci", layers).source).last
    target = tmp_path / "target"
    target.mkdir()
    stacker("unpack", image, tmp_path / "tree")
    stacker("mount", image, target)
    try:
        assert snapshot(target) == snapshot(tmp_path / "tree")
    finally:
        stacker("umount", target)
