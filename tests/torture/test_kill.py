"""Kill a command's process group before one of its system calls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.torture.faults import Fault, Injector
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.sweep import Disturbance, prepared_world, run_sweep, sample

POINTS = 2


def kills(scenario: Scenario, tmp_path: Path) -> Iterator[Disturbance]:
    injector = Injector(tmp_path)
    with prepared_world(tmp_path / "dry", scenario) as world:
        calls, _ = injector.trace(scenario, world)
    faults = [Fault(number, call) for number, call in enumerate(calls, 1)]
    for fault in sample(faults, POINTS, scenario.name):
        yield str(fault), partial(injector.disturb, scenario, fault=fault)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_killed_command_leaves_the_store_correct_and_can_be_repeated(
    scenario: Scenario, tmp_path: Path
) -> None:
    run_sweep("kill", scenario, kills(scenario, tmp_path), tmp_path)
