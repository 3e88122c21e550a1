"""Write OCI image layouts of finished layers.

In: layers with their blobs.  Out: an OCI image layout (image-spec, image-layout.md) with one image
tagged ``latest``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TAG = "latest"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer in one compressed form; sizes in bytes."""

    diff_id: str
    digest: str
    size: int
    media_type: str
    plain_bytes: int
    entries: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a layout of its own."""

    layout: Path
    layers: tuple[Layer, ...]

    @property
    def plain_bytes(self) -> int:
        """Return the uncompressed size of all layers in bytes."""
        return sum(layer.plain_bytes for layer in self.layers)

    @property
    def blob_bytes(self) -> int:
        """Return the compressed size of all layers in bytes."""
        return sum(layer.size for layer in self.layers)

    @property
    def entries(self) -> int:
        """Return the number of tar entries in all layers."""
        return sum(layer.entries for layer in self.layers)

    def blob(self, layer: Layer) -> Path:
        """Return the path of a layer's blob."""
        return blob_path(self.layout, layer.digest)

    def blobs(self) -> list[Path]:
        """Return the path of every layer's blob, each once, in the image's order."""
        return list(dict.fromkeys(self.blob(layer) for layer in self.layers))


def blob_path(layout: Path, digest: str) -> Path:
    """Return the path of the blob ``digest`` in a layout."""
    return layout / "blobs" / digest.replace(":", "/")


def write_layout(layout: Path, layers: Sequence[Layer], blobs: Sequence[Path]) -> Image:
    """Write the layout and hard-link ``blobs`` into it, one for each of ``layers``."""
    shutil.rmtree(layout, ignore_errors=True)
    (layout / "blobs" / "sha256").mkdir(parents=True)
    for layer, blob in zip(layers, blobs, strict=True):
        place = blob_path(layout, layer.digest)
        if not place.exists():
            os.link(blob, place)
    config = _document(
        layout,
        "application/vnd.oci.image.config.v1+json",
        {
            "created": "2023-11-14T22:13:20Z",
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created_by": f"layer {index}"} for index, _ in enumerate(layers)],
        },
    )
    manifest = _document(
        layout,
        "application/vnd.oci.image.manifest.v1+json",
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [
                {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
                for layer in layers
            ],
        },
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    _write_json(layout / "index.json", {"schemaVersion": 2, "manifests": [manifest]})
    _write_json(layout / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    return Image(layout, tuple(layers))


def _document(layout: Path, media_type: str, value: object) -> dict[str, object]:
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob_path(layout, digest).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, sort_keys=True))
