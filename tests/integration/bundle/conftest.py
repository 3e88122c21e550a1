"""A store with an image that runtimes can run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stacker import Store
from stacker.mount.detach import detach
from stacker.mount.table import Table
from tests.support import runtimes
from tests.support.command import Stacker, at_home
from tests.support.mounts import unmount_below


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    runtimes.skip_below(Path(__file__).parent, items)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the image ``app:1.0``, which the tests share."""
    base = tmp_path_factory.mktemp("bundles")
    source = runtimes.layout(
        base / "layout",
        Entrypoint=["/bin/sh", "-c"],
        Cmd=["id -u; pwd"],
        Env=["GREETING=hello"],
        User="app",
        WorkingDir="/srv",
    ).source
    Store.open(base / "store").pull(source, sync=False)
    return base / "store"


@pytest.fixture
def app(store: Path, tmp_path: Path) -> Iterator[Stacker]:
    """Return a command with the image ``app:1.0``; its mounts end with the test."""
    yield replace(at_home(tmp_path), store=store)
    unmount_below(tmp_path)
    for entry in Table(store / "mounts").entries():
        detach(Table(store / "mounts"), entry.record.target, lazy=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return the directory of a bundle that does not exist yet."""
    return tmp_path / "bundle"
