"""A store, an image of two layers, and its tree as a snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import at_home
from tests.support.forms import LOWER, UPPER
from tests.support.images import layout
from tests.support.snapshot import Node, snapshot


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return layout(tmp_path / "app", [LOWER, UPPER])


@pytest.fixture
def wanted(tmp_path: Path, app: images.Layout) -> dict[bytes, Node]:
    trees = at_home(tmp_path, store="trees")
    trees("pull", "--no-sync", app.source)
    trees("unpack", app.image.config, tmp_path / "wanted")
    return snapshot(tmp_path / "wanted")
