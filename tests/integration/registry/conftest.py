"""A command with an empty store, and a registry that has an image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import images
from tests.support.registries import (
    FakeRegistry,
    fake_registry,
)
from tests.support.registry_images import LAYERS


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    return images.layout(tmp_path_factory.mktemp("layout") / "app", LAYERS)


@pytest.fixture
def server(layout: images.Layout) -> Iterator[FakeRegistry]:
    """Yield a server in this process with the image."""
    with fake_registry() as server:
        server.put("app", "1.0", layout.path)
        yield server
