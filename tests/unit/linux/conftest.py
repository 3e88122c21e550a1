"""Programs that the tests start find the package under test, also when nobody starts them."""

from __future__ import annotations

import pytest

from tests.nobody import IMPORT_PATH


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", IMPORT_PATH)
