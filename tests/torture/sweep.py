"""Run a command once per fault, each time in a new world, and check the world afterwards.

In come a scenario and its faults: a text and a function that runs the command.  An
`AssertionError` with every finding comes out.  A run takes a sample of the faults;
``STACKER_TORTURE=all`` takes all of them.  ``STACKER_TORTURE_COUNTS`` names a file that gets the
counts of each sweep as one JSON document per line.
"""

from __future__ import annotations

import errno
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from stacker.linux.removal import remove_tree
from tests.torture.checks import Trees, check_world
from tests.torture.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.torture.scenarios import Scenario

Item = TypeVar("Item")
Disturbance = tuple[str, Callable[["World"], object]]
"""The name of a fault, and a function that runs the command with it."""
_LONGEST: Final = 1500  # characters of a finding


def is_whole() -> bool:
    """Return whether a run takes all faults."""
    return os.environ.get("STACKER_TORTURE") == "all"


def sample(items: Sequence[Item], few: int, seed: str) -> list[Item]:
    """Return all items in a whole run, else a few that depend on the seed only."""
    if is_whole() or len(items) <= few:
        return list(items)
    return random.Random(seed).sample(items, few)


@contextmanager
def prepared_world(path: Path, scenario: Scenario) -> Iterator[World]:
    """Yield a world in which a scenario's command can run; remove it afterwards."""
    path.mkdir(exist_ok=True)
    world = World(path)
    try:
        scenario.prepare(world)
        yield world
    finally:
        world.unmount()
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a world, although a command that has ended may still flush its store."""
    for attempt in range(10):
        try:
            remove_tree(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or attempt == 9:
                raise
            time.sleep(0.2)
        else:
            return


@cache
def expected_trees() -> Trees:
    """Return the trees of all images, unpacked from a store without faults."""
    with tempfile.TemporaryDirectory(prefix="stacker-torture-") as directory:
        world = World(Path(directory))
        world.prepare()
        sources = {name: getattr(world, name) for name in ("app", "old", "other")}
        for layout in sources.values():
            world.stacker("pull", layout.source)
        return {name: world.unpacked(each.image.config) for name, each in sources.items()}


def run_sweep(
    sweep: str, scenario: Scenario, disturbances: Iterable[Disturbance], tmp_path: Path
) -> None:
    """Run a scenario's command once per disturbance, each time in a new world.

    :raises AssertionError: a check failed; the message has every finding.
    """
    expected = expected_trees()
    with Findings(sweep, scenario.name) as findings:
        for name, disturb in disturbances:
            with findings.point(name), prepared_world(tmp_path / "world", scenario) as world:
                disturb(world)
                check_world(world, scenario, expected, name)


class Findings:
    """The findings of one sweep over one scenario.

    On exit, write the counts and raise the findings.
    """

    def __init__(self, sweep: str, scenario: str) -> None:
        self._sweep = sweep
        self._scenario = scenario
        self._points = 0
        self._texts: list[str] = []
        self._started = time.monotonic()

    def __enter__(self) -> Findings:
        return self

    @contextmanager
    def point(self, name: str) -> Iterator[None]:
        """Count a point; note the `AssertionError` that ends it."""
        self._points += 1
        try:
            yield
        except AssertionError as error:
            self._texts.append(f"{name}: {error}"[:_LONGEST])

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            seconds = round(time.monotonic() - self._started, 1)
            write_counts(self._sweep, self._scenario, self._points, len(self._texts), seconds)
            assert not self._texts, "\n\n".join(self._texts)


def write_counts(sweep: str, scenario: str, points: int, findings: int, seconds: float) -> None:
    """Append the counts of a sweep to the file that ``STACKER_TORTURE_COUNTS`` names."""
    if path := os.environ.get("STACKER_TORTURE_COUNTS"):
        counts = {"sweep": sweep, "scenario": scenario, "points": points}
        with Path(path).open("a") as file:
            file.write(json.dumps({**counts, "findings": findings, "seconds": seconds}) + "\n")
