"""Run a command on a tmpfs that runs out of bytes or of inodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.torture.checks import check_world
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.sweep import Findings, expected_trees, prepared_world, sample
from tests.torture.world import World

POINTS = 1
STEPS = 3
pytestmark = pytest.mark.usefixtures("alone_among_mounts")


@contextmanager
def tmpfs(path: Path) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)
        path.rmdir()


def used(path: Path) -> tuple[int, int]:
    """Return the bytes and the inodes in use on a filesystem."""
    status = os.statvfs(path)
    blocks = status.f_blocks - status.f_bfree
    return blocks * status.f_frsize, status.f_files - status.f_ffree


def limits(scenario: Scenario, tmp_path: Path) -> list[str]:
    """Return tmpfs options with fewer bytes, or fewer inodes, than a command needs."""
    with tmpfs(tmp_path / "disk") as path, prepared_world(path / "world", scenario) as world:
        before = used(path)
        done = scenario.run(world)
        assert done.code == 0, done.err
        after = used(path)
    needed = [max(0, b - a) for a, b in zip(before, after, strict=True)]
    parts = [part / STEPS for part in range(STEPS)]
    return [f"size={before[0] + int(needed[0] * part)}" for part in parts] + [
        f"nr_inodes={before[1] + int(needed[1] * part) + 1}" for part in parts
    ]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_full_filesystem_ends_in_a_message_and_leaves_the_store_correct(
    scenario: Scenario, tmp_path: Path
) -> None:
    expected = expected_trees()
    options = sample(limits(scenario, tmp_path), POINTS, scenario.name)
    with Findings("full", scenario.name) as findings:
        for option in options:
            with (
                findings.point(option),
                tmpfs(tmp_path / "disk") as path,
                prepared_world(path / "world", scenario) as world,
            ):
                disturb(world, scenario, path, option)
                check_world(world, scenario, expected, option)


def disturb(world: World, scenario: Scenario, path: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", path], check=True)
    result = scenario.run(world)
    assert "internal error" not in result.err, result.err
    subprocess.run(["mount", "-o", "remount,size=100%,nr_inodes=0", path], check=True)
