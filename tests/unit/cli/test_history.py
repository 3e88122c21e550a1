"""Build steps of an image and their layers."""

from __future__ import annotations

from stacker.cli.verbs.history import paired
from stacker.image.config import History
from stacker.image.digest import DiffID

A, B = DiffID.of(b"a"), DiffID.of(b"b")


def pairs(*history: History) -> list[tuple[str, DiffID | None]]:
    return [(step.created_by, diff_id) for step, diff_id in paired((A, B), history)]


def test_empty_layer_steps_have_no_diff_id() -> None:
    found = pairs(History(created_by="1"), History(created_by="2", empty_layer=True))
    assert found[:2] == [("1", A), ("2", None)]


def test_layers_without_steps_are_listed() -> None:
    assert pairs() == [("", A), ("", B)]
    assert pairs(History(created_by="1"))[1:] == [("", B)]


def test_more_steps_than_layers_have_no_diff_id() -> None:
    steps = [History(created_by=str(n)) for n in range(3)]
    assert pairs(*steps) == [("0", A), ("1", B), ("2", None)]
