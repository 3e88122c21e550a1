"""The sweeps run without coverage: they start hundreds of processes, which coverage slows down."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.scenarios import Scenario

_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.unmeasured)


@pytest.fixture(autouse=True)
def alone_if_it_mounts(request: pytest.FixtureRequest) -> None:
    """Run the scenarios that mount apart from the tests that copy every mount."""
    callspec = getattr(request.node, "callspec", None)
    scenario = callspec.params.get("scenario") if callspec else None
    if isinstance(scenario, Scenario) and "mount" in scenario.name:
        request.getfixturevalue("alone_among_mounts")
