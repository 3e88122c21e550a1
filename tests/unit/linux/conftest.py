"""Programs that the tests start find the package under test."""

from __future__ import annotations

from pathlib import Path

import pytest

import stacker


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(stacker.__file__).parent.parent))
