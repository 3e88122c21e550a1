"""Two images in layouts, and a registry that answers for docker.io."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.registries import FakeRegistry
from tests.support.tars import file, tar

HUB = """
[[registry]]
prefix = "docker.io"
location = "{host}"
"""
BASE, TOP = tar(file("base", b"1")), tar(file("top", b"2"))


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    return Stacker(tmp_path / "store", environ={"HOME": str(tmp_path)})


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [BASE], name="app:1.0")


@pytest.fixture
def other(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "other", [TOP], name="other:1.0")


@pytest.fixture
def hub(stacker: Stacker, server: FakeRegistry, tmp_path: Path) -> FakeRegistry:
    """Let a registry on loopback answer for docker.io."""
    conf = tmp_path / "registries.conf"
    conf.write_text(HUB.format(host=server.host))
    stacker.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
    return server
