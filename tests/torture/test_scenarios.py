"""Every verb of the command line, and every action of a verb, is disturbed by the sweeps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from stacker.cli.options import whole_parser
from tests.torture.scenarios import SCENARIOS
from tests.torture.world import World

WITHOUT_SCENARIO: dict[tuple[str, ...], str] = {
    ("help",): "it prints a text, or starts man",
    ("completion",): "it prints a file of the package",
    ("snapshotter",): "it is a server, which the conformance suite kills before every third call",
}
"""The verbs without a scenario, each with the reason."""


def verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    """Yield the words that select each verb, and each action of a verb."""
    choices = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not choices:
        yield ()
    for action in choices:
        for word, below in action.choices.items():
            yield from ((word, *words) for words in verbs(below))


def test_every_verb_has_a_scenario_or_a_stated_reason(tmp_path: Path) -> None:
    world = World(tmp_path)
    commands = [scenario.command(world) for scenario in SCENARIOS]
    without = {
        verb for verb in verbs(whole_parser()) if all(c[: len(verb)] != verb for c in commands)
    }
    assert without == set(WITHOUT_SCENARIO)
    assert all(WITHOUT_SCENARIO.values())


def test_scenarios_have_different_names() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
