"""An image in a store, for the tests of messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.tars import dir, file, tar  # noqa: A004 - tests write `dir` in tars


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [tar(file("a", b"1")), tar(dir("d"), file("d/b", b"2"))])


@pytest.fixture
def pulled(app: images.Layout, tmp_path: Path) -> Stacker:
    """Return the command with an image in its store, beside a file and an empty directory."""
    stacker = at_home(tmp_path)
    stacker("pull", "--sync", app.source)
    (tmp_path / "file").write_text("no archive\n" * 100)
    (tmp_path / "target").mkdir()
    return stacker
