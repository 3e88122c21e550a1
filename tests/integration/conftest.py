"""The command, registries and a mount point that several modules use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Stacker, at_home
from tests.support.mounts import unmount_below
from tests.support.registries import FakeRegistry, debian_registry, fake_registry


@pytest.fixture(autouse=True)
def unmounted(tmp_path: Path) -> Iterator[None]:
    """Unmount everything after each test."""
    yield
    unmount_below(tmp_path)


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    """Return the command with an empty store, in a home directory without credentials."""
    return at_home(tmp_path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Make an empty directory to mount on."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    """Run a registry in this process."""
    with fake_registry() as server:
        yield server


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Debian's registry, which asks for no credentials."""
    with debian_registry(tmp_path_factory.mktemp("plain") / "registry") as host:
        yield host
