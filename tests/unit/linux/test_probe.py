"""Probes run in child processes, and end with a time limit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from stacker.errors import StackerError
from stacker.linux.probe import Answer, run_probes

YES = Answer(works=True, reason="it does")


def sleep() -> Answer:
    time.sleep(3600)
    return YES


def test_each_probe_runs_in_a_process_of_its_own() -> None:
    def own() -> Answer:
        return Answer(works=True, reason=str(os.getpid()))

    found = run_probes({"a": own, "b": own})
    assert len({each.reason for each in found.values()} | {str(os.getpid())}) == 3


def test_a_probe_that_hangs_is_killed_and_its_answer_is_unknown() -> None:
    before = children()
    found = run_probes({"hangs": sleep, "ends": lambda: YES}, seconds=2)
    assert found["hangs"] == Answer(None, "no answer from the kernel within 2 s")
    assert found["ends"] == YES
    assert children() == before


def test_a_probe_that_ignores_signals_is_killed() -> None:
    def deaf() -> Answer:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        return sleep()

    before = children()
    assert run_probes({"deaf": deaf}, seconds=0.3)["deaf"].works is None
    assert children() == before


def test_an_error_of_the_kernel_is_a_reason() -> None:
    def missing() -> Answer:
        os.stat("/nowhere")
        return YES

    def refused() -> Answer:
        raise StackerError("refused: x: got a, want b")

    found = run_probes({"missing": missing, "refused": refused})
    assert found["missing"] == Answer(False, "/nowhere: No such file or directory")
    assert found["refused"] == Answer(False, "refused: x: got a, want b")


def test_a_bug_or_a_killed_probe_is_an_unknown_answer() -> None:
    def bug() -> Answer:
        raise KeyError("key")

    def killed() -> Answer:
        os.kill(os.getpid(), signal.SIGKILL)
        return YES

    found = run_probes({"bug": bug, "killed": killed})
    assert found["bug"] == Answer(None, "internal error: KeyError: 'key'")
    assert found["killed"] == Answer(None, "the probe died")


def test_the_signals_of_the_caller_stay_as_they_were() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    run_probes({"a": lambda: YES})
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
