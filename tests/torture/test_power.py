"""Cut the power of ext4 and xfs during a command, or after it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.support.forkserver import BOOT_ID
from tests.torture.checks import Trees, check_world
from tests.torture.disk import Disk
from tests.torture.forkserver import shared_server
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.sweep import Findings, expected_trees, is_whole
from tests.torture.world import World

Names = set[str] | None

MAIN = ("pull", "push-layout", "commit", "rm", "gc")
MORE = (
    *("pull-sync", "copy-layout", "copy-archive", "unpack", "repair"),
    *("mount", "mount-upper", "umount", "umount-upper"),
    *("pull-erofs", "mount-erofs", "umount-erofs", "convert", "convert-tree"),
)
CHOSEN = [scenario for scenario in SCENARIOS if scenario.name in MAIN + MORE]
INSTANTS = {**dict.fromkeys(MAIN, 40), **dict.fromkeys(MORE, 10)}
"""Instants of a whole run on each filesystem, half of them during the command."""
SAMPLE = {**dict.fromkeys(MAIN, 2), **dict.fromkeys(MORE, 1)}
"""Instants of other runs."""
LONGEST = 6.0  # seconds after the command; ext4 commits its journal every 5 s

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
    :param reboot: the machine loses its power; otherwise, only the disk does.
    """

    during: float | None
    after: float
    journal: bool
    reboot: bool

    def __str__(self) -> str:
        end = "the command's end" if self.during is None else f"{self.during:.0%} of the command"
        journal = ", journal committed" if self.journal else ""
        what = "power cut" if self.reboot else "disk unplugged"
        return f"{what} {self.after:.1f} s after {end}{journal}"


def power_cuts(name: str) -> list[PowerCut]:
    """Return the instants of a run for a scenario, the worst ones first.

    Every second one is after the command's end.  A committed journal is worse than none: names
    and sizes are on the disk, and data are not.
    """
    chance = random.Random(name)
    cuts = [
        PowerCut(chance.uniform(0.2, 1), 0, journal=n % 4 != 2, reboot=n % 8 < 4)
        if n % 2 == 0
        else PowerCut(
            None,
            chance.choice((0, chance.uniform(0, LONGEST))),
            journal=n % 4 != 3,
            reboot=n % 8 < 4,
        )
        for n in range(INSTANTS[name])
    ]
    return cuts if is_whole() else cuts[: SAMPLE[name]]


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
        scenario.prepare(world)
        disk.sync()
        yield world
    finally:
        world.unmount()
        disk.unmount()


def duration(disk: Disk, scenario: Scenario) -> float:
    """Return the seconds that a scenario's command takes."""
    with prepared_disk(disk, scenario) as world:
        started = time.monotonic()
        world.stacker(*scenario.command(world))
        return time.monotonic() - started


def lose_power(
    disk: Disk, world: World, scenario: Scenario, cut: PowerCut, seconds: float
) -> Names:
    """Run the command, cut the power, and mount the filesystem again.

    :returns: the names in the store before the cut, if the command had ended.
    """
    process = world.stacker.start(*scenario.command(world))
    listed = None
    try:
        if cut.during is None:
            process.communicate()
            listed = names(world)
            time.sleep(cut.after)
        else:
            time.sleep(cut.during * seconds)
        if cut.journal:
            disk.commit_journal()
        disk.cut_power()
    finally:
        kill_group(process)
    world.unmount()
    disk.unmount()
    disk.mount()
    return listed


def names(world: World) -> Names:
    return {name for image in world.stacker("images", "--json").items for name in image["names"]}


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
    with Findings(f"power-{disk.kind}", scenario.name) as findings:
        for cut in power_cuts(scenario.name):
            with findings.point(str(cut)), prepared_disk(disk, scenario) as world:
                listed = lose_power(disk, world, scenario, cut, seconds)
                if scenario.unpacks and world.tree.exists():
                    remove_tree(world.tree)  # a tree outside the store is as durable as cp's
                with world_after(cut, world, tmp_path) as later:
                    if listed is not None:
                        check_durability(later, scenario, expected, listed)
                    check_world(later, scenario, expected, cut)


@contextmanager
def world_after(cut: PowerCut, world: World, tmp_path: Path) -> Iterator[World]:
    """Yield the world as a command after the cut sees it: in a new boot, or in the same one."""
    if not cut.reboot:
        yield world
        return
    with world.server.after_a_boot(tmp_path) as server:
        yield World(world.path, server)


def check_durability(world: World, scenario: Scenario, expected: Trees, listed: set[str]) -> None:
    """Check what a command that had ended before the power cut promises."""
    assert names(world) == listed, "the list of images"
    if scenario.writes is not None:
        written = world.pulled_elsewhere(scenario.writes(world))
        assert written == expected["app"], "what the command wrote"


def test_commands_after_a_power_cut_see_another_boot(tmp_path: Path) -> None:
    with shared_server().after_a_boot(tmp_path) as server:
        World(tmp_path, server).stacker("images")  # the server is ready once it has answered
        seen = Path(f"/proc/{server.process.pid}/root{BOOT_ID}").read_text()
    assert seen == (tmp_path / "boot_id").read_text() != Path(BOOT_ID).read_text()
