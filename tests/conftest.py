"""Settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from stacker.linux import lock
from tests.support.unprivileged import startable_python

# Laws look at new examples wherever a person runs them; builds are judged by the same ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture
def alone_among_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run no two tests at once of those that make mounts and those that copy all mounts.

    A new mount namespace has a copy of every mount there is; to whoever undoes one meanwhile it is
    still mounted elsewhere, and so it is to the program.
    """
    with lock.exclusive(tmp_path_factory.getbasetemp().parent / "mounts.lock"):
        yield


@pytest.fixture(scope="session")
def unprivileged_python() -> str:
    """Give an interpreter that an unprivileged user can start."""
    python = startable_python()
    if python is None:
        pytest.skip("no interpreter that an unprivileged user can start")
    return python
