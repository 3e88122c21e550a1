"""umoci as a second unpacker: both programs make the same tree of the same image.

Where they differ on purpose, the difference is taken out by name, with the reason.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import tars
from tests.support.command import Stacker
from tests.support.images import layout
from tests.support.snapshot import Node, snapshot

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="keeps owners: needs root"),
    pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed"),
]
CORPORA = Path(
    os.environ.get("STACKER_CORPORA", Path(__file__).parents[2] / ".." / "shared" / "corpora")
)
IMAGES = CORPORA / "images"


def by_umoci(oci: Path, tag: str, room: Path) -> dict[bytes, Node]:
    subprocess.run(
        ["umoci", "unpack", "--image", f"{oci}:{tag}", str(room / "bundle")],
        check=True,
        capture_output=True,
    )
    return snapshot(room / "bundle" / "rootfs")


def by_stacker(source: str, room: Path) -> dict[bytes, Node]:
    stacker = Stacker(room / "store")
    image = stacker("pull", source).last
    done = stacker("unpack", image, str(room / "tree"))
    assert done.code == 0, done.err
    return snapshot(room / "tree")


def comparable(tree: dict[bytes, Node]) -> dict[bytes, Node]:
    """Take out what the two mean to do differently.

    umoci keeps its own user.umoci.* bookkeeping out of rootfs, and gives directories without an
    entry (the root, most of all) the time of the unpacking, where stacker gives them none.
    """
    root = tree[b""]
    return {**tree, b"": replace(root, mtime=0, mode=root.mode & 0o777)}


def test_a_made_image_unpacks_as_umoci_does_it(tmp_path: Path) -> None:
    base = tars.tar(
        tars.dir("etc/", mode=0o1755, uid=3, gid=4),
        tars.file("etc/a", b"one", mode=0o4755, uid=1000),
        tars.file("etc/gone", b"x"),
        tars.hardlink("etc/b", "etc/a"),
        tars.symlink("etc/s", "/etc/a"),
        tars.dir("emptied/"),
        tars.file("emptied/old", b"o"),
        tars.fifo("pipe"),
        tars.char("null", 1, 3, mode=0o666),
        tars.file("caps", b"c", xattrs={"user.kind": b"\0binary"}),
    )
    upper = tars.tar(
        tars.dir("etc/", mode=0o700),
        tars.whiteout("etc/gone"),
        tars.dir("emptied/"),
        tars.opaque("emptied"),
        tars.file("emptied/new", b"n"),
        tars.file("etc/a", b"two"),
    )
    made = layout(tmp_path / "oci", [base, upper], name="t")
    assert comparable(by_stacker(f"{made.source}:t", tmp_path)) == comparable(
        by_umoci(made.path, "t", tmp_path)
    )


@pytest.mark.skipif(not IMAGES.is_dir(), reason="the corpora are not here")
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("oci:{images}/busybox-musl-oci:busybox:1.38.0-musl", "busybox"),
        ("docker-archive:{images}/dive-14-layers-docker-archive.tar", "dive"),
    ],
    ids=["busybox", "dive"],
)
def test_a_real_image_unpacks_as_umoci_does_it(tmp_path: Path, source: str, name: str) -> None:
    source = source.format(images=IMAGES)
    oci = tmp_path / "oci"
    subprocess.run(
        ["skopeo", "copy", "--insecure-policy", source, f"oci:{oci}:{name}"],
        check=True,
        capture_output=True,
    )
    assert comparable(by_stacker(source, tmp_path)) == comparable(by_umoci(oci, name, tmp_path))


@pytest.mark.skipif(not IMAGES.is_dir(), reason="the corpora are not here")
def test_a_minirootfs_as_a_layer_unpacks_as_umoci_does_it(tmp_path: Path) -> None:
    raw = gzip.decompress((IMAGES / "alpine-minirootfs-3.20.3-x86_64.tar.gz").read_bytes())
    made = layout(tmp_path / "oci", [raw], name="alpine")
    ours, theirs = by_stacker(made.source, tmp_path), by_umoci(made.path, "alpine", tmp_path)
    assert comparable(ours) == comparable(theirs)
    assert len(ours) > 500
