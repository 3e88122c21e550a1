from __future__ import annotations
from tests.tars import tar
def test_x() -> None:
    assert tar()
