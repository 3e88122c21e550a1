"""Worker processes: their results, their events, and how they end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, StackerError
from stacker.events import BlobProgress, BlobsFound, Emit, Event
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.jobs.pool import WorkerDiedError, run_tasks

BLOB = Digest.of(b"blob")


def ignore(event: Event) -> None:
    del event


def double(task: int, emit: Emit) -> int:
    emit(BlobProgress(BLOB, done=task, total=0))
    return 2 * task


def emit_process_id(emit: Emit) -> None:
    emit(BlobProgress(BLOB, done=os.getpid(), total=0))


def is_running(event: Event) -> bool:
    assert isinstance(event, BlobProgress)
    return Path(f"/proc/{event.done}").exists()


@pytest.mark.parametrize("jobs", [1, 2, 8, 50])
def test_each_task_has_one_result(jobs: int) -> None:
    assert sorted(run_tasks(range(20), double, jobs=jobs, emit=ignore)) == [
        2 * n for n in range(20)
    ]


def test_no_task_starts_no_worker() -> None:
    assert list(run_tasks([], double, jobs=4, emit=ignore)) == []


def test_events_of_all_workers_arrive() -> None:
    events: list[Event] = []
    list(run_tasks([1, 2, 3], double, jobs=2, emit=events.append))
    assert sorted(events, key=str) == [BlobProgress(BLOB, done, 0) for done in (1, 2, 3)]


def test_messages_larger_than_a_pipe_are_complete() -> None:
    large_event = BlobsFound((Descriptor("e" * 300_000, BLOB, 4),))

    def large(task: int, emit: Emit) -> bytes:
        emit(large_event)
        return b"r" * task

    events: list[Event] = []
    results = list(run_tasks([1_000_000, 2], large, jobs=2, emit=events.append))
    assert sorted(map(len, results)) == [2, 1_000_000]
    assert events == [large_event] * 2


def test_first_error_keeps_its_class_and_hint() -> None:
    def fail(task: int, emit: Emit) -> None:
        del emit
        raise IntegrityError(f"wrong: {task}", hint="look")

    with pytest.raises(IntegrityError, match="wrong: 7") as caught:
        list(run_tasks([7], fail, jobs=1, emit=ignore))
    assert caught.value.hint == "look"


def test_unexpected_exception_is_an_error_with_a_traceback() -> None:
    def fail(task: int, emit: Emit) -> float:
        del emit
        return 1 / task

    with pytest.raises(StackerError, match="internal error: ZeroDivisionError") as caught:
        list(run_tasks([0], fail, jobs=1, emit=ignore))
    assert "1 / task" in (caught.value.hint or "")


def test_killed_worker_is_an_error() -> None:
    def die(task: int, emit: Emit) -> None:
        del task, emit
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerDiedError):
        list(run_tasks([1, 2], die, jobs=2, emit=ignore))


def test_no_process_remains_when_the_caller_stops_early() -> None:
    def name_and_wait(task: int, emit: Emit) -> None:
        emit_process_id(emit)
        if task:
            signal.pause()

    events: list[Event] = []
    results = run_tasks([0, 1], name_and_wait, jobs=2, emit=events.append)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert events
    assert not any(map(is_running, events))


def test_no_process_remains_after_an_error() -> None:
    def fail_or_wait(task: int, emit: Emit) -> None:
        emit_process_id(emit)
        if task == 0:
            raise IntegrityError("no")
        signal.pause()

    events: list[Event] = []
    with pytest.raises(IntegrityError):
        list(run_tasks([1, 0], fail_or_wait, jobs=2, emit=events.append))
    assert events
    assert not any(map(is_running, events))
