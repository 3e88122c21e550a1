"""An image in a store, and damage to the files of its layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import images
from tests.support.damage import LOWER, UNUSUAL, UPPER
from tests.support.images import layout


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return layout(tmp_path / "app", [LOWER, UPPER, UNUSUAL])
