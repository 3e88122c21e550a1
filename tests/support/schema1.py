"""Images of schema 1 for tests: manifests with a history, signed or not.

    manifest([step(blob, "make it"), step(EMPTY, "ENV a=b", throwaway=True)])

The base step comes first.  This module does not import the package under test.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

PLAIN: Final = "application/vnd.docker.distribution.manifest.v1+json"
SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
EMPTY: Final = gzip.compress(bytes(1024), mtime=0)
"""The layer that Docker wrote for a step without a layer."""


@dataclass(frozen=True)
class Step:
    """A step of a history: a layer's blob and the image that results."""

    blob: bytes
    image: dict[str, Any]

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.blob).hexdigest()}"


def step(blob: bytes, command: str, **image: Any) -> Step:
    """Return a step; `chained` adds its ID and its parent."""
    plain = {
        "created": "2015-10-31T22:22:55.613815829Z",
        "container_config": {"Cmd": ["/bin/sh", "-c", command]},
        "docker_version": "1.9.1",
        "architecture": "amd64",
        "os": "linux",
        "Size": len(blob),
    }
    return Step(blob, {**plain, **image})


def chained(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the images of steps, each the parent of the next."""
    images: list[dict[str, Any]] = []
    for number, one in enumerate(steps):
        parent = {"parent": images[-1]["id"]} if images else {}
        name = hashlib.sha256(b"%d" % number).hexdigest()
        images.append({"id": name, **parent, **one.image})
    return images


def manifest(steps: Sequence[Step], **changes: Any) -> bytes:
    """Return a manifest with Docker's indentation."""
    document = {
        "schemaVersion": 1,
        "name": "app",
        "tag": "1.0",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": one.digest} for one in reversed(steps)],
        "history": [{"v1Compatibility": json.dumps(i)} for i in reversed(chained(steps))],
        **changes,
    }
    return json.dumps(document, indent=3).encode()


def signed(plain: bytes, *payloads: bytes) -> bytes:
    """Add signatures to a manifest, as libtrust does; stacker does not verify them.

    :param payloads: the document that each signature claims to cover (default: the manifest).
    """
    cut = plain.rstrip(b"}").rstrip()
    signatures = [
        {
            "header": {"jwk": {"crv": "P-256", "kid": "K", "kty": "EC"}, "alg": "ES256"},
            "signature": encoded(b"no signature"),
            "protected": encoded(
                json.dumps(
                    {
                        "formatLength": len(cut),
                        "formatTail": encoded(payload[len(cut) :]),
                        "time": "2015-10-31T22:22:56Z",
                    }
                ).encode()
            ),
        }
        for payload in payloads or (plain,)
    ]
    return cut + b',\n   "signatures": ' + json.dumps(signatures).encode() + b"\n}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
