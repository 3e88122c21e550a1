"""Every deviation is documented, and a case checks it for each driver."""

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
def test_every_deviation_has_a_case_and_a_source(deviation: Deviation) -> None:
    what, document = deviation.value
    assert f"Deviation.{deviation.name}" in CASES
    assert what
    assert ".rst" in document or "fs/" in document or document.startswith("docs/")


def test_plain_directory_has_no_deviations() -> None:
    (plain,) = (subject for subject in SUBJECTS if subject.words is None)
    assert not plain.deviations
    assert not plain.refuses
