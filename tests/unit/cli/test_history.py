"""Steps of an image's history are paired with the layers they made."""

from __future__ import annotations

from stacker.cli.verbs.history import paired
from stacker.image.config import History, ImageConfig
from stacker.image.digest import DiffID
from stacker.image.platform import Platform

A, B = DiffID.of(b"a"), DiffID.of(b"b")


def pairs(*history: History) -> list[tuple[str, DiffID | None]]:
    config = ImageConfig(Platform("linux", "amd64"), (A, B), history)
    return [(step.created_by, diff_id) for step, diff_id in paired(config)]


def test_steps_without_a_layer_take_none() -> None:
    found = pairs(History(created_by="1"), History(created_by="2", empty_layer=True))
    assert found[:2] == [("1", A), ("2", None)]


def test_layers_that_no_step_tells_of_are_listed() -> None:
    assert pairs() == [("", A), ("", B)]
    assert pairs(History(created_by="1"))[1:] == [("", B)]


def test_steps_beyond_the_layers_have_none() -> None:
    steps = [History(created_by=str(n)) for n in range(3)]
    assert pairs(*steps) == [("0", A), ("1", B), ("2", None)]
