"""Copies between layouts, archives and registries on loopback, without a store."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.pushes import events, inspect
from tests.support.registries import FakeRegistry, needs_registry
from tests.support.tars import file, tar, whiteout

LAYERS = [tar(file("a", b"1"), file("b", b"2" * 100_000)), tar(whiteout("a"))]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    return images.layout(tmp_path_factory.mktemp("layout") / "app", LAYERS)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Return a directory for temporary files."""
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def stacker(tmp_path: Path, temporary: Path) -> Stacker:
    """Return the command, in a home directory without credentials."""
    stacker = at_home(tmp_path)
    stacker.environ["TMPDIR"] = str(temporary)
    return stacker


@pytest.fixture
def compressed(stacker: Stacker, layout: images.Layout, tmp_path: Path) -> Path:
    """Return an OCI archive that gzip compressed."""
    stacker("copy", layout.source, f"oci-archive:{tmp_path}/plain.tar:app:1.0")
    path = tmp_path / "packed.tar.gz"
    path.write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes(), 1))
    return path


def test_copy_creates_no_store(stacker: Stacker, layout: images.Layout, tmp_path: Path) -> None:
    assert stacker("copy", layout.source, f"oci:{tmp_path}/copy").last == layout.image.manifest
    assert not stacker.store.exists()


@pytest.mark.parametrize("verb", ["copy", "push"])
def test_blob_of_a_layout_with_a_flipped_byte_is_written_again(
    verb: str, stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    source = layout.source
    if verb == "push":
        source = stacker("pull", "--sync", layout.source).last
    out = tmp_path / "out"
    stacker(verb, source, f"oci:{out}:app")
    blobs = list((out / "blobs/sha256").iterdir())
    before = [blob.read_bytes() for blob in blobs]
    for blob, content in zip(blobs, before, strict=True):
        blob.chmod(0o600)
        blob.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    stacker(verb, source, f"oci:{out}:app")
    assert [blob.read_bytes() for blob in blobs] == before


@pytest.mark.parametrize("verb", ["copy", "push"])
def test_layout_whose_first_write_was_interrupted_is_completed(
    verb: str, stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    source = layout.source
    if verb == "push":
        source = stacker("pull", "--sync", layout.source).last
    (tmp_path / "out/blobs/sha256").mkdir(parents=True)
    stacker(verb, source, f"oci:{tmp_path}/out:app")
    assert (tmp_path / "out/oci-layout").exists()


def test_copy_of_a_compressed_archive_leaves_no_temporary_file(
    stacker: Stacker, compressed: Path, layout: images.Layout, temporary: Path, tmp_path: Path
) -> None:
    copied = stacker("copy", f"oci-archive:{compressed}", f"oci:{tmp_path}/copy")
    assert copied.last == layout.image.manifest
    assert not stacker.store.exists()
    assert list(temporary.iterdir()) == []


def test_compressed_archive_needs_the_temporary_directory(
    stacker: Stacker, compressed: Path, temporary: Path, tmp_path: Path
) -> None:
    temporary.rmdir()
    error = stacker.refused(1, "copy", f"oci-archive:{compressed}", f"oci:{tmp_path}/copy")
    assert str(temporary) in error


def test_plain_archive_does_not_need_the_temporary_directory(
    stacker: Stacker, layout: images.Layout, temporary: Path, tmp_path: Path
) -> None:
    temporary.rmdir()
    archive = f"oci-archive:{tmp_path}/copy.tar:app:1.0"
    stacker("copy", layout.source, archive)
    assert stacker("copy", archive, f"oci:{tmp_path}/copy").last == layout.image.manifest


def test_truncated_archive_leaves_no_temporary_file(
    stacker: Stacker, temporary: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(gzip.compress(b"\0" * 100_000)[:-100])
    stacker.refused(5, "copy", f"oci-archive:{broken}", f"oci:{tmp_path}/copy")
    assert list(temporary.iterdir()) == []


@needs_registry
def test_copy_keeps_digests_between_all_transports(
    stacker: Stacker, registry: str, layout: images.Layout, tmp_path: Path
) -> None:
    places = [
        layout.source,
        f"docker://{registry}/copy/one:1.0",
        f"docker://{registry}/copy/two:1.0",
        f"oci-archive:{tmp_path}/copy.tar:1.0",
        f"oci:{tmp_path}/copy:1.0",
    ]
    for source, target in pairwise(places):
        done = events(stacker("copy", source, target, "--json").out)
        assert done[-1]["item"]["digest"] == layout.image.manifest
        if "two" in target:
            assert done[-1]["item"]["blobs"] == {"mounted": 3}
    assert stacker("pull", places[-1]).last == layout.image.config


@needs_registry
def test_copy_of_an_index_takes_one_image_or_all(
    stacker: Stacker, registry: str, tmp_path: Path
) -> None:
    platforms = [("linux", "amd64"), ("linux", "arm64")]
    both = images.several(
        tmp_path / "both", [(p, [tar(file("on", p[1].encode()))]) for p in platforms]
    )
    (entry,) = json.loads((both.path / "index.json").read_bytes())["manifests"]
    place = f"docker://{registry}/index/all:1.0"
    assert stacker("copy", "--all", both.source, place).last == entry["digest"]
    for image, (system, architecture) in zip(both.images, platforms, strict=True):
        wanted = ("--platform", f"{system}/{architecture}")
        assert stacker("pull", place, *wanted).last == image.config
        target = f"docker://{registry}/index/{architecture}:1.0"
        assert stacker("copy", place, target, *wanted).last == image.manifest
    back = f"oci:{tmp_path}/back:1.0"
    assert stacker("copy", "--all", place, back).last == entry["digest"]
    stacker.refused(3, "copy", place, f"oci:{tmp_path}/none", "--platform", "linux/s390x")
    single = f"docker://{registry}/index/arm64:1.0"
    stacker.refused(3, "copy", single, f"oci:{tmp_path}/none", "--platform", "linux/amd64")
    assert not (tmp_path / "none").exists()
    assert stacker("copy", single, f"oci:{tmp_path}/any").last == both.images[1].manifest
    stacker.refused(2, "copy", "--all", "--platform", "linux/arm64", place, back)


@needs_registry
@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_docker_archive_is_copied(
    stacker: Stacker, registry: str, layout: images.Layout, tmp_path: Path
) -> None:
    archive = f"docker-archive:{tmp_path}/saved.tar:app:1.0"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", layout.source, archive],
        check=True,
        capture_output=True,
    )
    place = f"docker://{registry}/saved:1.0"
    stacker("copy", archive, place)
    assert inspect("--raw", place)["layers"][0]["digest"] == layout.image.diff_ids[0]
    stacker("pull", place)
    assert {f"sha256:{p.name}" for p in stacker.layers()} == set(layout.image.diff_ids)


def test_manifest_of_attestations_is_copied(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path
) -> None:
    def attested(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["mediaType"] = "application/vnd.in-toto+json"

    layout = images.layout(tmp_path / "one", [b"{}"], compression="none", manifest=attested)
    place = f"docker://{server.host}/attested:1.0"
    assert stacker("copy", layout.source, place).last == layout.image.manifest
