"""Let one system call of a command that only reads, or one on a socket, fail with an errno."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from stacker.cli.verbs import FAILURES
from tests.support.command import Result
from tests.torture.checks import check_world
from tests.torture.faults import Fault, Injector
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.sweep import (
    Disturbance,
    Findings,
    expected_trees,
    prepared_world,
    run_sweep,
    sample,
)
from tests.torture.world import World

POINTS = 2
DAMAGED = 5  # the exit code of `verify` that has found damage; its report is on stdout
INTERRUPTED: Final = (errno.EINTR,)
NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENOMEM)
ON_SOCKETS: Final = (errno.ECONNRESET, errno.EINTR, errno.ETIMEDOUT)
ERRORS: Final = {
    "connect": (errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EINTR),
    "dup": NO_DESCRIPTOR,
    "dup2": INTERRUPTED,
    "dup3": INTERRUPTED,
    "epoll_create1": NO_DESCRIPTOR,
    "epoll_wait": INTERRUPTED,
    "ioctl": (errno.EIO, errno.ENOMEM, errno.EINTR),
    "memfd_create": NO_DESCRIPTOR,
    "mmap": (errno.ENOMEM,),
    "mmap64": (errno.ENOMEM,),
    "openat2": (errno.EIO, errno.EMFILE, errno.EAGAIN, errno.ENOMEM),  # EAGAIN: openat2(2)
    "pipe": NO_DESCRIPTOR,
    "pipe2": NO_DESCRIPTOR,
    "poll": (errno.EINTR, errno.ENOMEM),
    "pthread_create": (errno.EAGAIN,),
    "select": (errno.EINTR, errno.ENOMEM),
    "socket": NO_DESCRIPTOR,
    "socketpair": NO_DESCRIPTOR,
    **dict.fromkeys(("open", "open64", "openat", "openat64"), (errno.EIO, *NO_DESCRIPTOR)),
    **dict.fromkeys(("opendir", "fdopendir"), (errno.EIO, *NO_DESCRIPTOR)),
}
"""The errors of a call, whatever it is called on."""
OF_KINDS: Final = {
    "socket": ON_SOCKETS,
    "pipe": INTERRUPTED,
    "device": INTERRUPTED,
}
"""The errors of other calls, by the kind of their descriptor."""
COMMON: Final = (errno.EIO, errno.EINTR, errno.ENOMEM)
"""The errors of all other calls."""
IGNORED: Final = re.compile(r"lseek|.*(/lib/python|/LC_MESSAGES/)")
"""Calls that cannot fail, and those of Python's imports."""


def errors(call: str) -> tuple[int, ...]:
    """Return the errors that a call can have."""
    name, kind, _ = call.split(" ", 2)
    return ERRORS.get(name) or OF_KINDS.get(kind) or COMMON


def distinct(calls: list[str]) -> dict[str, int]:
    """Return the number of the first call of each name on each file, whatever its digest."""
    found: dict[str, int] = {}
    for number, call in enumerate(calls, 1):
        if not IGNORED.match(call):
            found.setdefault(re.sub(r"[0-9a-f]{32,}|\d+", "N", call), number)
    return found


def faults_of(scenario: Scenario, world: World, injector: Injector) -> tuple[list[Fault], Result]:
    """Run a scenario without a fault; return the faults to try, and its result."""
    calls, undisturbed = injector.trace(scenario, world)
    found = distinct(calls)
    faults = [
        Fault(number, calls[number - 1], errors(call)[turn % len(errors(call))])
        for turn, (call, number) in enumerate(found.items())
    ]
    return sample(faults, POINTS, scenario.name), undisturbed


def failures(scenario: Scenario, tmp_path: Path) -> Iterator[Disturbance]:
    injector = Injector(tmp_path, reads=True)
    with prepared_world(tmp_path / "dry", scenario) as world:
        faults, _ = faults_of(scenario, world, injector)

    def disturb(world: World, fault: Fault) -> None:
        assert_sensible(injector.disturb(scenario, world, fault))

    for fault in faults:
        yield str(fault), partial(disturb, fault=fault)


def assert_sensible(done: Result) -> None:
    """Check that a command succeeded, or failed with one message and a documented exit code."""
    assert "Traceback" not in done.err, done.err
    assert "internal error" not in done.err, done.err
    messages = [line for line in done.err.splitlines() if line.startswith("stacker: error:")]
    codes = {*range(11), *FAILURES.values()}
    assert done.code in codes, done
    assert len(messages) == (done.code not in (0, DAMAGED)) or done.code == DAMAGED, done


CHANGING = [scenario for scenario in SCENARIOS if not scenario.queries]
PRINTING = [scenario for scenario in SCENARIOS if scenario.queries]


@pytest.mark.parametrize("scenario", CHANGING, ids=lambda scenario: scenario.name)
def test_a_failed_read_ends_in_a_message_and_accepts_no_wrong_file(
    scenario: Scenario, tmp_path: Path
) -> None:
    run_sweep("reads", scenario, failures(scenario, tmp_path), tmp_path)


@pytest.mark.parametrize("scenario", PRINTING, ids=lambda scenario: scenario.name)
def test_a_failed_read_never_changes_what_a_command_prints_without_a_message(
    scenario: Scenario, tmp_path: Path
) -> None:
    injector = Injector(tmp_path, reads=True)
    with (
        Findings("reads", scenario.name) as findings,
        prepared_world(tmp_path / "world", scenario) as world,
    ):
        faults, undisturbed = faults_of(scenario, world, injector)
        for fault in faults:
            with findings.point(str(fault)):
                done = injector.disturb(scenario, world, fault)
                assert_sensible(done)
                assert done.out == undisturbed.out or done.code or done.err, done
        check_world(world, scenario, expected_trees(), "all faults")
