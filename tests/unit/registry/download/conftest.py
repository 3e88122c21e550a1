"""A registry with one blob, and the source that downloads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stacker.registry.settings import Timeouts
from tests.support.downloads import (
    CONTENT,
    PATH,
)
from tests.support.registries import FakeRegistry, fake_registry


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.content[PATH] = ("application/octet-stream", CONTENT)
        yield server


@pytest.fixture
def waits() -> list[float]:
    """Return the seconds of every requested sleep; no test sleeps."""
    return []


@pytest.fixture
def timeouts(waits: list[float]) -> Timeouts:
    return Timeouts(connect=5, read=5, sleep=waits.append)
