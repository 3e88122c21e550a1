"""Images for tests: OCI layouts written from layers, honest or with one thing wrong.

    layout(path, [tar(file("a", b"1")), tar(whiteout("a"))], compression="zstd")

``config`` and ``manifest`` change a document before its digest is computed; ``Layout.blob`` names a
file to change afterwards.  This module does not import the package under test.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import zstandard

from stacker.image.digest import ImageID

Compression = Literal["none", "gzip", "zstd"]
Change = Callable[[dict[str, Any]], object]
"""Changes a document in place."""

LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
REF_NAME: Final = "org.opencontainers.image.ref.name"
_SUFFIX: Final = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True)
class Image:
    """An image in a layout, by digests; base layer first."""

    manifest: str
    config: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """An OCI image layout in a directory; ``images`` are those of its index."""

    path: Path
    images: tuple[Image, ...]

    @property
    def source(self) -> str:
        """Return the SOURCE argument for this layout."""
        return f"oci:{self.path}"

    @property
    def image(self) -> Image:
        """Return the only image."""
        (image,) = self.images
        return image

    def blob(self, digest: str) -> Path:
        """Return the path of a blob, for a test to damage."""
        return blob_path(self.path, digest)


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_path(layout: Path, digest: str) -> Path:
    """Return the path of a blob in a layout."""
    return layout / "blobs" / "sha256" / digest.partition(":")[2]


def compressed(data: bytes, compression: Compression) -> bytes:
    """Compress a layer; equal layers give equal bytes."""
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        return zstandard.compress(data)
    return data


def layout(
    path: Path,
    layers: Sequence[bytes],
    *,
    compression: Compression = "gzip",
    name: str | None = "app:1.0",
    platform: tuple[str, str] = ("linux", "amd64"),
    config: Change | None = None,
    manifest: Change | None = None,
) -> Layout:
    """Write a layout with one image.

    :param layers: uncompressed tars, base layer first.
    :param config: changes the config before its digest is computed; ``manifest`` likewise.
    """
    image, entry = _image(
        path, layers, compression, platform, change_config=config, change_manifest=manifest
    )
    if name is not None:
        entry["annotations"] = {REF_NAME: name}
    _write_index(path, [entry])
    return Layout(path, (image,))


def several(
    path: Path, images: Sequence[tuple[tuple[str, str], Sequence[bytes]]], *, name: str = "app:1.0"
) -> Layout:
    """Write a layout with one name: an index with an image for each platform."""
    made = [(platform, *_image(path, layers, "gzip", platform)) for platform, layers in images]
    entries = [
        {**entry, "platform": {"os": platform[0], "architecture": platform[1]}}
        for platform, _, entry in made
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    entry = _add(path, INDEX, _json(index))
    entry["annotations"] = {REF_NAME: name}
    _write_index(path, [entry])
    return Layout(path, tuple(image for _, image, _ in made))


def _image(
    path: Path,
    layers: Sequence[bytes],
    compression: Compression,
    platform: tuple[str, str],
    *,
    change_config: Change | None = None,
    change_manifest: Change | None = None,
) -> tuple[Image, dict[str, Any]]:
    diff_ids = [digest_of(layer) for layer in layers]
    config = {
        "os": platform[0],
        "architecture": platform[1],
        "created": "2001-09-09T01:46:40Z",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": {"for": "tests"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": f"step {n}"} for n in range(len(layers))],
    }
    if change_config:
        change_config(config)
    kind = LAYER + _SUFFIX[compression]
    blobs = [_add(path, kind, compressed(layer, compression)) for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _add(path, CONFIG, _json(config)),
        "layers": blobs,
    }
    if change_manifest:
        change_manifest(manifest)
    entry = _add(path, MANIFEST, _json(manifest))
    image = Image(
        entry["digest"],
        digest_of(_json(config)),
        tuple(blob["digest"] for blob in blobs),
        tuple(diff_ids),
    )
    return image, entry


def _add(path: Path, media_type: str, data: bytes) -> dict[str, Any]:
    """Write a blob and return its descriptor."""
    digest = digest_of(data)
    file = blob_path(path, digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _write_index(path: Path, entries: list[dict[str, Any]]) -> None:
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    (path / "index.json").write_bytes(_json(index))
    (path / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


class Pull(Protocol):
    """Creates an image of layers, pulls it and returns its image ID."""

    def __call__(
        self,
        name: str,
        *layers: bytes,
        author: str = "",
        architecture: str = "amd64",
        origin: str = "",
        keep_blobs: bool = False,
    ) -> ImageID: ...
