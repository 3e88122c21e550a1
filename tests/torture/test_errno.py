"""Let one system call of a command fail with an errno."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.torture.faults import Fault, Injector
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.sweep import Disturbance, prepared_world, run_sweep, sample
from tests.torture.world import World

POINTS = 2
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT, errno.EINTR, errno.EAGAIN)


def failures(scenario: Scenario, tmp_path: Path) -> Iterator[Disturbance]:
    injector = Injector(tmp_path)
    with prepared_world(tmp_path / "dry", scenario) as world:
        calls, _ = injector.trace(scenario, world)
    # Two errors for each call, in turn, so that each error meets each kind of call.
    faults = [
        Fault(number, call, ERRORS[(number + turn) % len(ERRORS)])
        for turn in range(2)
        for number, call in enumerate(calls, 1)
    ]

    def disturb(world: World, fault: Fault) -> None:
        done = injector.disturb(scenario, world, fault)
        assert "Traceback" not in done.err, done.err
        assert "internal error" not in done.err, done.err
        # Without a message, the failed call wrote that message, or failed before stacker started.
        assert done.code in (0, 1, 4, 5, 9) or done.err.startswith("stacker: error:"), done

    for fault in sample(faults, POINTS, scenario.name):
        yield str(fault), partial(disturb, fault=fault)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_failed_system_call_ends_in_a_message_and_leaves_the_store_correct(
    scenario: Scenario, tmp_path: Path
) -> None:
    run_sweep("errno", scenario, failures(scenario, tmp_path), tmp_path)
