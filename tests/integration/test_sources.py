"""Layouts and archives of real images, written by skopeo."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from stacker.errors import NotFoundError, UsageError
from stacker.image.config import ImageConfig, pair_layers, parse_config
from stacker.image.digest import DiffID
from stacker.image.manifest import Manifest, parse_document
from stacker.image.platform import Platform
from stacker.source.open import open_source
from stacker.source.protocol import Source
from stacker.stream.compression import decompressed, read_chunks
from stacker.stream.verify import verified

CORPORA = Path(os.environ.get("STACKER_CORPORA", Path(__file__).parents[2] / "../shared/corpora"))
IMAGES = CORPORA.resolve() / "images"
BUSYBOX = f"oci:{IMAGES}/busybox-musl-oci"
ALPINE = f"docker-archive:{IMAGES}/alpine-3.11-docker-archive.tar.gz"
DIVE = f"docker-archive:{IMAGES}/dive-14-layers-docker-archive.tar"
ALPINE_ID = "sha256:a187dde48cd289ac374ad8539930628314bc581a481cdb41409c9289419ddb72"
DIVE_ID = "sha256:75ae28b8ebf89b203319069ddcbecdf5c3838503bbebc0d0d85e4b8589c5de3a"

pytestmark = pytest.mark.skipif(not IMAGES.is_dir(), reason=f"no images in {IMAGES}")
needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")


def skopeo(*words: str) -> str:
    """Run skopeo and return its output."""
    return subprocess.run(
        ["skopeo", "--insecure-policy", *words], check=True, capture_output=True, text=True
    ).stdout


def copy(place: str, target: str, spool: Path, *options: str) -> None:
    """Copy an image with skopeo; 1.9 does not read the gzipped archive, so it gets a plain one."""
    if place.endswith(".gz"):
        plain = spool / "plain.tar"
        plain.write_bytes(gzip.decompress(Path(place.partition(":")[2]).read_bytes()))
        place = f"docker-archive:{plain}"
    skopeo("copy", "-q", *options, place, target)


def read_whole(source: Source) -> tuple[Manifest, ImageConfig]:
    """Read every blob of an image, and verify both digests of every layer."""
    root = source.root()
    manifest = parse_document(source.document(root), media_type=root.media_type, what="manifest")
    assert isinstance(manifest, Manifest)
    config = parse_config(source.document(manifest.config), "config")
    for layer, diff_id in pair_layers(manifest, config):
        with source.open_blob(layer) as blob:
            stored = verified(read_chunks(blob), digest=layer.digest, size=layer.size, what="blob")
            for _ in verified(decompressed(stored, what="blob"), digest=diff_id, what="layer"):
                pass
    return manifest, config


def diff_ids(text: str, spool: Path) -> tuple[DiffID, ...]:
    """Read a whole image, and return the diff_ids of its layers."""
    with open_source(text, spool=spool) as source:
        return read_whole(source)[1].diff_ids


@pytest.mark.parametrize(
    ("text", "image_id", "layers", "names"),
    [
        (
            BUSYBOX,
            "sha256:654fc8fd836e35f4a64586bddf8f59b9029b48cf80f520834c6c98ca8ab5def9",
            1,
            ("busybox:1.38.0-musl",),
        ),
        (ALPINE, ALPINE_ID, 1, ("alpine:3.11",)),
        (DIVE, DIVE_ID, 14, ("dive-test:latest",)),
    ],
)
def test_real_image_is_read_to_its_last_byte(
    tmp_path: Path, text: str, image_id: str, layers: int, names: tuple[str, ...]
) -> None:
    with open_source(text, spool=tmp_path) as source:
        assert source.names == names
        manifest, config = read_whole(source)
    assert str(manifest.image_id) == image_id
    assert config.platform == Platform("linux", "amd64")
    assert len(manifest.layers) == layers
    assert sum(not step.empty_layer for step in config.history) == layers
    assert not list(tmp_path.iterdir())


@needs_skopeo
@pytest.mark.parametrize("place", [ALPINE, DIVE, BUSYBOX])
@pytest.mark.parametrize("form", ["oci:{}:1.0", "oci-archive:{}:team/app:1.0"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_copy_has_the_same_layers(
    tmp_path: Path, place: str, form: str, compression: str
) -> None:
    target = form.format(tmp_path / "copy")
    copy(place, target, tmp_path, "--dest-compress", f"--dest-compress-format={compression}")
    for text in (target, target.split(":")[0] + f":{tmp_path}/copy"):
        with open_source(text, spool=tmp_path) as source:
            assert source.names == (form.split(":", 2)[2],)
        assert diff_ids(text, tmp_path) == diff_ids(place, tmp_path)


@needs_skopeo
@pytest.mark.parametrize(("place", "image_id"), [(ALPINE, ALPINE_ID), (DIVE, DIVE_ID)])
def test_docker_archive_of_skopeo_keeps_the_image_id(
    tmp_path: Path, place: str, image_id: str
) -> None:
    target = f"docker-archive:{tmp_path}/copy.tar"
    copy(place, f"{target}:registry.example/team/app:1.0", tmp_path)
    for name in ("", ":registry.example/team/app:1.0", ":team/app:1.0", ":@0"):
        with open_source(target + name, spool=tmp_path) as source:
            assert source.names == ("registry.example/team/app:1.0",)
            assert str(read_whole(source)[0].image_id) == image_id


@needs_skopeo
@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_compressed_archive_is_the_same_image(
    tmp_path: Path, transport: str, compress: object
) -> None:
    assert callable(compress)
    plain = tmp_path / "copy.tar"
    skopeo("copy", "-q", DIVE, f"{transport}:{plain}:app:1.0")
    (tmp_path / "packed.tar").write_bytes(compress(plain.read_bytes()))
    (tmp_path / "spool").mkdir()
    packed = f"{transport}:{tmp_path}/packed.tar:app:1.0"
    assert diff_ids(packed, tmp_path / "spool") == diff_ids(DIVE, tmp_path)
    assert not list((tmp_path / "spool").iterdir())


@needs_skopeo
def test_archive_with_dot_slash_names_is_the_same_image(tmp_path: Path) -> None:
    skopeo("copy", "-q", DIVE, f"oci:{tmp_path}/layout:1.0")
    for n, options in enumerate(
        (["-C", f"{tmp_path}/layout", "."], ["--format=v7"], ["-H", "pax"])
    ):
        archive = f"{tmp_path}/{n}.tar"
        members = [] if "." in options else ["-C", f"{tmp_path}/layout", "oci-layout", "index.json"]
        members += [] if "." in options else ["blobs"]
        subprocess.run(["tar", "-cf", archive, *options, *members], check=True)
        assert diff_ids(f"oci-archive:{archive}", tmp_path) == diff_ids(DIVE, tmp_path)


@needs_skopeo
def test_layout_of_several_images_needs_a_tag(tmp_path: Path) -> None:
    copy(DIVE, f"oci:{tmp_path}/layout:dive", tmp_path)
    copy(ALPINE, f"oci:{tmp_path}/layout:alpine", tmp_path)
    text = f"oci:{tmp_path}/layout"
    assert diff_ids(f"{text}:dive", tmp_path) == diff_ids(DIVE, tmp_path)
    assert diff_ids(f"{text}:alpine", tmp_path) == diff_ids(ALPINE, tmp_path)
    with pytest.raises(UsageError, match=r"got 'dive', 'alpine', want one"):
        diff_ids(text, tmp_path)
    with pytest.raises(NotFoundError, match=r"got 'dive', 'alpine', want 'busybox'"):
        diff_ids(f"{text}:busybox", tmp_path)


@needs_skopeo
def test_skopeo_and_stacker_name_the_same_manifest_and_layers(tmp_path: Path) -> None:
    target = f"oci:{tmp_path}/layout:1.0"
    skopeo("copy", "-q", DIVE, target)
    seen = json.loads(skopeo("inspect", target))
    with open_source(target, spool=tmp_path) as source:
        manifest, config = read_whole(source)
        assert str(source.root().digest) == seen["Digest"]
    assert [str(layer.digest) for layer in manifest.layers] == seen["Layers"]
    assert config.platform == Platform(seen["Os"], seen["Architecture"])
    assert list(config.execution.env) == seen["Env"]


@needs_skopeo
def test_docker_manifest_of_skopeo_is_read(tmp_path: Path) -> None:
    skopeo("copy", "-q", "--format=v2s2", DIVE, f"dir:{tmp_path}/dir")
    raw = (tmp_path / "dir" / "manifest.json").read_bytes()
    manifest = parse_document(raw, media_type=None, what="manifest")
    assert isinstance(manifest, Manifest)
    assert manifest.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert len(manifest.layers) == 14
