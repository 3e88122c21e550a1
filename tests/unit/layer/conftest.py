"""What the tests of this room share: a place to unpack in, removed at any depth afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.unit.layer.room import Room


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    path = tmp_path / "room"
    path.mkdir()
    yield Room(path)
    remove_tree(path)  # trees here may be deeper than pytest's own removal can go
