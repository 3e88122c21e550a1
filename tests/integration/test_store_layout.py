"""The blobs of the store as an OCI image layout: other programs can copy each listed image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.tars import file, tar

needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
BASE, UPPER = tar(file("a", b"1")), tar(file("b", b"2"))


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    return at_home(tmp_path)


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE, UPPER], name="app:1.0")


@pytest.fixture
def other(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "other", [BASE], name="other")


def names(stacker: Stacker, document: str = "index.json") -> list[str]:
    """Return the names in a list of images."""
    entries = json.loads((stacker.store / document).read_bytes())["manifests"]
    return [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries]


def named(stacker: Stacker) -> list[str]:
    return [name for item in stacker("images", "--json").items for name in item["names"]]


@needs_skopeo
def test_skopeo_copies_each_image_that_the_layout_lists(
    stacker: Stacker, app: images.Layout, other: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", "--keep-blobs", app.source)
    stacker("pull", "--no-sync", other.source)
    assert names(stacker) == ["app:1.0", "other"], "the layer that both share is kept"
    for name in names(stacker):
        words = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{stacker.store}:{name}"]
        subprocess.run([*words, f"dir:{tmp_path}/copy-{name}"], check=True)


def test_layout_omits_an_image_with_a_missing_blob(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    stacker("pull", "--no-sync", "--keep-blobs", other.source)
    stacker("pull", "--no-sync", app.source)
    assert names(stacker) == ["other"]
    assert names(stacker, "images.json") == named(stacker) == ["other", "app:1.0"]


def test_layout_omits_a_removed_image(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    for source in (app.source, other.source):
        stacker("pull", "--no-sync", "--keep-blobs", source)
    stacker("rm", "app:1.0")
    assert names(stacker) == named(stacker) == ["other"]


def test_store_of_an_older_version_is_read_and_migrated(
    stacker: Stacker, app: images.Layout, other: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", "--keep-blobs", other.source)
    stacker("pull", "--no-sync", app.source)
    (stacker.store / "images.json").replace(stacker.store / "index.json")
    assert named(stacker) == ["other", "app:1.0"]
    stacker("gc")
    assert named(stacker) == names(stacker, "images.json") == ["other", "app:1.0"]
    assert names(stacker) == ["other"]
    (stacker.store / "images.json").replace(stacker.store / "index.json")
    stacker("rm", "other")
    assert (named(stacker), names(stacker)) == (["app:1.0"], [])
    stacker("unpack", "app:1.0", tmp_path / "tree")


def test_gc_updates_the_layout_before_it_removes_blobs(
    stacker: Stacker, app: images.Layout, other: images.Layout
) -> None:
    for source in (app.source, other.source):
        stacker("pull", "--no-sync", "--keep-blobs", source)
    before = (stacker.store / "index.json").read_bytes()
    stacker("rm", "app:1.0")
    (stacker.store / "index.json").write_bytes(before)  # as an `rm` that was killed between both
    stacker("gc")
    assert names(stacker) == ["other"]


def test_pull_fetches_the_missing_blobs_of_layers_that_are_unpacked(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--no-sync", app.source)
    before = [path.stat().st_ino for path in stacker.layers()]
    again = stacker("pull", "--no-sync", "--keep-blobs", "--json", app.source).last_document["item"]
    assert (again["unpacked"], again["present"]) == (0, len(before))
    assert [path.stat().st_ino for path in stacker.layers()] == before
    assert names(stacker) == ["app:1.0"]
    for blob in app.image.layers:
        content = (stacker.store / "blobs/sha256" / blob.partition(":")[2]).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == blob


def test_a_damaged_blob_of_a_layer_that_is_unpacked_is_not_kept(
    stacker: Stacker, app: images.Layout
) -> None:
    stacker("pull", "--no-sync", app.source)
    blob = app.path / "blobs/sha256" / app.image.layers[0].partition(":")[2]
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    stacker.refused(5, "pull", "--no-sync", "--keep-blobs", app.source)
    assert names(stacker) == []
    assert os.listdir(stacker.store / "staging") == []
