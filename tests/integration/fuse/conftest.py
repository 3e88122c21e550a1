"""An image in a store, its FUSE mounts and their servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.fuse.options import FuseAdapter
from tests.support import images
from tests.support.adapters import ADAPTERS, skip_without
from tests.support.command import Stacker
from tests.support.fuse_mounts import LAYERS
from tests.support.mounts import unmount_below


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> FuseAdapter:
    adapter: FuseAdapter = request.param
    skip_without(adapter)
    return adapter


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    stacker = Stacker(tmp_path / "store")
    stacker("pull", images.layout(tmp_path / "app", LAYERS).source)
    yield stacker
    unmount_below(tmp_path)
