"""A store and an image in a layout for the tests of the library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker import Store
from tests.support import images
from tests.support.mounts import unmount_below
from tests.support.sample import BASE, MIDDLE, TOP


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    """Make a layout with an image of three layers."""
    return images.layout(tmp_path / "app", [BASE, MIDDLE, TOP])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Open a new store; unmount at the end what a failed test left."""
    yield Store.open(tmp_path / "store")
    unmount_below(tmp_path)
