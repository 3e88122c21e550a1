"""Images of schema 1 for tests: manifests with a history, signed or not.

    manifest([step(blob, "make it"), step(EMPTY, "ENV a=b", throwaway=True)])

The lowest step comes first, as a person would tell it.  Knows nothing of the package under test.
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
"""The layer that Docker wrote for a step without one."""


@dataclass(frozen=True)
class Step:
    """A step of a history: a layer's blob and the image after it."""

    blob: bytes
    image: dict[str, Any]

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.blob).hexdigest()}"


def step(blob: bytes, command: str, **image: Any) -> Step:
    """Make a step; its id and its parent come when it stands in a manifest."""
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
    """Give the images of steps, each the parent of the next."""
    images: list[dict[str, Any]] = []
    for number, one in enumerate(steps):
        parent = {"parent": images[-1]["id"]} if images else {}
        name = hashlib.sha256(b"%d" % number).hexdigest()
        images.append({"id": name, **parent, **one.image})
    return images


def manifest(steps: Sequence[Step], **changes: Any) -> bytes:
    """Write a manifest, as Docker indented it."""
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
    """Put signatures into a manifest, as libtrust does; nobody checks whose they are.

    :param payloads: what each of them claims to be of; the manifest when left out.
    """
    cut = plain.rstrip(b"}").rstrip()
    signatures = [
        {
            "header": {"jwk": {"crv": "P-256", "kid": "K", "kty": "EC"}, "alg": "ES256"},
            "signature": encoded(b"of nobody"),
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
