"""A registry with an image, and the source that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stacker.image import mediatype
from tests.support.registries import FakeRegistry, fake_registry
from tests.support.registry_images import announce


@pytest.fixture
def server(make_image: Any) -> Iterator[FakeRegistry]:
    """Yield a registry with an image of one layer, app:1.0."""
    with fake_registry() as server:
        image = make_image(b"one")
        for name, data in image.blobs.items():
            server.content[f"/v2/app/blobs/sha256:{name}"] = ("application/octet-stream", data)
        announce(server, "1.0", mediatype.OCI_MANIFEST, image.manifest)
        yield server
