"""Parsers of hostile bytes raise `StackerError` only, and stay in bounds of time and memory."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from stacker.errors import StackerError
from tests.fuzz import run
from tests.fuzz.run import fuzz, wait
from tests.fuzz.targets import TARGETS, Target
from tests.torture.sweep import write_counts

SECONDS = int(os.environ.get("STACKER_FUZZ_SECONDS", "20")) / len(TARGETS)
"""Seconds for each target; ``STACKER_FUZZ_SECONDS`` is for all of them."""


@pytest.mark.timeout(
    0
)  # `fuzz` has a limit, which ignores the time in which a machine stands still
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_random_bytes_raise_only_stacker_errors(target: Target, tmp_path: Path) -> None:
    outcome = fuzz(target.name, max(1, round(SECONDS)), tmp_path / "fuzz")
    write_counts("fuzz", target.name, outcome.inputs, int(bool(outcome.finding)), outcome.seconds)
    assert not outcome.finding, outcome.finding


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_each_seed_is_parsed_or_refused(target: Target) -> None:
    for seed in target.seeds():
        with suppress(StackerError):
            target.run(seed)


def test_fuzzer_that_does_not_end_is_aborted() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    assert wait(process, 1) == -signal.SIGABRT


def test_fuzzer_that_waits_for_a_processor_is_not_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, a fuzzer may get less processor time than its limit in any time."""
    monkeypatch.setattr(run, "_is_runnable", lambda _: True)
    process = subprocess.Popen(["sleep", "2"])
    assert wait(process, 0.5) == 0
