"""Send a signal to a command's process group at a random instant."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.sweep import Disturbance, prepared_world, run_sweep, sample
from tests.torture.world import World

POINTS = 1
INSTANTS = 16
"""Instants of a whole run, for each scenario."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


def start(scenario: Scenario, world: World) -> subprocess.Popen[str]:
    return world.stacker.start(*scenario.command(world), text=scenario.text)


def signals(scenario: Scenario, tmp_path: Path) -> Iterator[Disturbance]:
    with prepared_world(tmp_path / "dry", scenario) as world:
        started = time.monotonic()
        start(scenario, world).communicate()
        duration = time.monotonic() - started
    chance = random.Random(scenario.name)
    instants = [(chance.random() * duration, SIGNALS[n % 4]) for n in range(INSTANTS)]

    def disturb(world: World, instant: float, number: signal.Signals) -> None:
        process = start(scenario, world)
        time.sleep(instant)
        if process.poll() is None:
            os.killpg(process.pid, number)
        _, stderr = process.communicate(timeout=60)
        assert "Traceback" not in stderr or is_importing(stderr), stderr

    for instant, number in sample(instants, POINTS, scenario.name):
        yield (
            f"{number.name} after {instant:.3f} s",
            partial(disturb, instant=instant, number=number),
        )


def is_importing(stderr: str) -> bool:
    """Return whether a traceback ends in an import: no function of stacker runs yet.

    Python ignores an exception in the callback that frees the lock of an import.
    """
    if stderr.startswith("Exception ignored in: <function _get_module_lock."):
        return True
    frames = [line for line in stderr.splitlines() if line.startswith("  File ")]
    ours = [line for line in frames if "/stacker/" in line]
    return all(line.endswith("in <module>") for line in ours)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_signal_at_any_instant_leaves_the_store_correct(
    scenario: Scenario, tmp_path: Path
) -> None:
    run_sweep("signals", scenario, signals(scenario, tmp_path), tmp_path)
