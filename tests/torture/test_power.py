"""Cut the power of ext4 and xfs during a command, or after it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.torture.checks import check_world
from tests.torture.disk import Disk, as_after_a_boot
from tests.torture.forkserver import Server
from tests.torture.sweep import Findings, expected_trees, is_whole
from tests.torture.world import GC, SCENARIOS, Scenario, World

POINTS = 2
INSTANTS = 20
"""Instants of a whole run, for each scenario and filesystem; others take `POINTS`."""
LONGEST = 6.0  # seconds after the command; ext4 commits its journal every 5 s
COMMANDS = ("pull", "pull-sync", "push-layout", "copy-archive", "rm", "unpack")
CHOSEN = [scenario for scenario in SCENARIOS if scenario.name in COMMANDS] + GC

pytestmark = [
    pytest.mark.usefixtures("alone_among_mounts"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts filesystems: needs root"),
    pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="xfsprogs is not installed"),
]


@dataclass(frozen=True)
class PowerCut:
    """An instant to cut the power at.

    :param during: the part of the command's duration after which to cut; ``None`` lets it end.
    :param after: seconds to wait once the command has ended.
    :param journal: commit the journal just before, as a neighbour's fsync does.
    """

    during: float | None
    after: float
    journal: bool

    def __str__(self) -> str:
        end = "the command's end" if self.during is None else f"{self.during:.0%} of the command"
        journal = ", journal committed" if self.journal else ""
        return f"power cut {self.after:.1f} s after {end}{journal}"


def power_cuts(seed: str) -> list[PowerCut]:
    """Return the instants of a run, the worst ones first.

    Every second one is after the command's end.  A committed journal is worse than none: names
    and sizes are on the disk, and data are not.
    """
    chance = random.Random(seed)
    cuts = [
        PowerCut(chance.uniform(0.2, 1), 0, journal=n % 4 != 2)
        if n % 2 == 0
        else PowerCut(None, chance.choice((0, chance.uniform(0, LONGEST))), journal=n % 4 != 3)
        for n in range(INSTANTS)
    ]
    return cuts if is_whole() else cuts[:POINTS]


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    directory = Path("/dev/shm") if os.path.isdir("/dev/shm") else tmp_path
    disk = Disk(directory / f"stacker-power-{os.getpid()}", tmp_path / "disk", request.param)
    try:
        yield disk
    finally:
        disk.remove()


@contextmanager
def prepared_disk(disk: Disk, scenario: Scenario) -> Iterator[World]:
    """Yield a world on a new filesystem, with everything written to the image."""
    disk.format()
    disk.mount()
    path = disk.path / "world"
    path.mkdir()
    world = World(path)
    try:
        world.prepare()
        for arguments in scenario.first(world):
            world.stacker(*arguments)
        disk.sync()
        yield world
    finally:
        disk.unmount()


def duration(disk: Disk, scenario: Scenario) -> float:
    """Return the seconds that a scenario's command takes."""
    with prepared_disk(disk, scenario) as world:
        started = time.monotonic()
        world.stacker(*scenario.command(world))
        return time.monotonic() - started


def lose_power(disk: Disk, world: World, scenario: Scenario, cut: PowerCut, seconds: float) -> None:
    """Run the command, cut the power, and mount the filesystem again."""
    process = world.stacker.start(*scenario.command(world))
    try:
        if cut.during is None:
            process.communicate()
            time.sleep(cut.after)
        else:
            time.sleep(cut.during * seconds)
        if cut.journal:
            disk.commit_journal()
        disk.cut_power()
    finally:
        kill_group(process)
    disk.unmount()
    disk.mount()


def kill_group(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("scenario", CHOSEN, ids=lambda scenario: scenario.name)
def test_a_power_cut_leaves_no_wrong_file_and_blocks_no_command(
    scenario: Scenario, disk: Disk, tmp_path: Path
) -> None:
    expected = expected_trees()
    seconds = duration(disk, scenario)
    boot = as_after_a_boot(tmp_path)
    with Findings(f"power-{disk.kind}", scenario.name) as findings:
        for cut in power_cuts(scenario.name):
            with findings.point(str(cut)), prepared_disk(disk, scenario) as world:
                lose_power(disk, world, scenario, cut, seconds)
                if scenario.unpacks and world.tree.exists():
                    remove_tree(world.tree)  # a tree outside the store is as durable as cp's
                with closing(Server(boot)) as server:
                    check_world(World(world.path, server), scenario, expected, cut)


def test_commands_after_a_power_cut_see_another_boot(tmp_path: Path) -> None:
    path = "/proc/sys/kernel/random/boot_id"
    command = [*as_after_a_boot(tmp_path), "cat", path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == (tmp_path / "boot_id").read_text() != Path(path).read_text()
