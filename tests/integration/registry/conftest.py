"""A command with an empty store, and a registry that has an image."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.registries import (
    PASSWORD,
    USER,
    FakeRegistry,
    fake_registry,
)
from tests.support.tars import file, tar

LARGE = random.Random(0).randbytes(1_500_000)


LAYERS = [tar(file("a", b"1"), file("large", LARGE)), tar(file("b", b"2"))]


CREDENTIALS = f"{USER}:{PASSWORD}"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    return images.layout(tmp_path_factory.mktemp("layout") / "app", LAYERS)


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    """Return the command with an empty home directory."""
    return at_home(tmp_path)


def check_image(stacker: Stacker, image_id: str, tmp_path: Path) -> None:
    stacker("unpack", image_id, tmp_path / "root")
    assert (tmp_path / "root" / "large").read_bytes() == LARGE
    assert (tmp_path / "root" / "b").read_bytes() == b"2"


@pytest.fixture
def server(layout: images.Layout) -> Iterator[FakeRegistry]:
    """Yield a server in this process with the image."""
    with fake_registry() as server:
        server.put("app", "1.0", layout.path)
        yield server
