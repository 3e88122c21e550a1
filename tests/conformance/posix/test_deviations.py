"""The table of deviations itself: each is documented, and some case holds each driver to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.deviations import Deviation
from tests.support.subjects import SUBJECTS

HERE = Path(__file__)
CASES = "\n".join(
    path.read_text() for path in HERE.parents[1].rglob("test_*.py") if path.name != HERE.name
)


@pytest.mark.parametrize("deviation", Deviation, ids=lambda deviation: deviation.name)
def test_each_is_looked_at_by_a_case_and_says_where_it_is_written(deviation: Deviation) -> None:
    what, document = deviation.value
    assert f"Deviation.{deviation.name}" in CASES
    assert what
    assert ".rst" in document or "fs/" in document or document.startswith("docs/")


def test_the_control_has_none() -> None:
    (plain,) = (subject for subject in SUBJECTS if subject.words is None)
    assert not plain.deviations
    assert not plain.refuses
