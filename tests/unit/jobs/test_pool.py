"""Worker processes: their results, their events, and how they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, StackerError
from stacker.events import BlobProgress, BlobsFound, Emit, Event
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.jobs.pool import WorkerDiedError, run_tasks

BLOB = Digest.of(b"blob")


@pytest.fixture(params=["forked", "started"], autouse=True)
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with forked workers, and with new interpreters as workers."""
    if request.param == "forked":
        request.getfixturevalue("forks")
    else:
        monkeypatch.setattr("stacker.linux.process.has_threads", lambda: True)


def ignore(event: Event) -> None:
    del event


def double(task: int, emit: Emit) -> int:
    emit(BlobProgress(BLOB, done=task, total=0))
    return 2 * task


def emit_process_id(emit: Emit) -> None:
    emit(BlobProgress(BLOB, done=os.getpid(), total=0))


def state_of(process: int) -> str:
    """Return the state that proc(5) shows: Z after the end, S during a wait."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def until(is_true: Callable[[], bool]) -> None:
    while not is_true():
        os.sched_yield()


def is_running(event: Event) -> bool:
    assert isinstance(event, BlobProgress)
    return Path(f"/proc/{event.done}").exists()


LARGE_EVENT = BlobsFound((Descriptor("e" * 300_000, BLOB, 4),))


def large(task: int, emit: Emit) -> bytes:
    emit(LARGE_EVENT)
    return b"r" * task


def refuse(task: int, emit: Emit) -> None:
    del emit
    raise IntegrityError(f"wrong: {task}", hint="look")


def divide(task: int, emit: Emit) -> float:
    del emit
    return 1 / task


def die(task: int, emit: Emit) -> None:
    del task, emit
    os.kill(os.getpid(), signal.SIGKILL)


def leave(task: int, emit: Emit) -> None:
    del emit
    os._exit(task)


def lambda_of(task: int, emit: Emit) -> object:
    del emit
    return lambda: task


def exhaust(task: int, emit: Emit) -> None:
    del task, emit
    raise MemoryError


def link_of(task: int, emit: Emit) -> str:
    del emit
    return str(Path(f"/proc/self/fd/{task}").readlink())


def echo(task: int, emit: Emit) -> int:
    """Return how many bytes a program that copies stdin to stdout, and more, has read."""
    del task, emit
    os.write(1, b"output of a program\n")
    return len(os.read(0, 1))


def name_and_wait(task: int, emit: Emit) -> None:
    emit_process_id(emit)
    if task:
        signal.pause()


def fail_or_wait(task: int, emit: Emit) -> None:
    emit_process_id(emit)
    if task == 0:
        raise IntegrityError("no")
    signal.pause()


@pytest.mark.parametrize("jobs", [1, 2, 50])
def test_each_task_has_one_result(jobs: int) -> None:
    assert sorted(run_tasks(range(6), double, jobs=jobs, emit=ignore)) == [0, 2, 4, 6, 8, 10]


def test_a_process_with_threads_starts_workers_without_a_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fork() -> int:
        raise AssertionError("a process with threads forked")

    monkeypatch.undo()
    monkeypatch.setattr("os.fork", fork)
    with ThreadPoolExecutor(2) as threads:
        pools = [
            threads.submit(lambda: sorted(run_tasks(range(5), double, jobs=2, emit=ignore)))
            for _ in range(2)
        ]
        assert [pool.result() for pool in pools] == [[0, 2, 4, 6, 8]] * 2


def test_worker_has_the_inheritable_descriptors(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+") as file:
        os.set_inheritable(file.fileno(), True)
        assert list(run_tasks([file.fileno()], link_of, jobs=1, emit=ignore)) == [file.name]


def test_program_of_a_started_worker_reads_no_tasks_and_writes_no_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stacker.linux.process.has_threads", lambda: True)
    assert list(run_tasks([1, 2], echo, jobs=1, emit=ignore)) == [0, 0]


def test_no_task_starts_no_worker() -> None:
    assert list(run_tasks([], double, jobs=4, emit=ignore)) == []


def test_events_of_all_workers_arrive() -> None:
    events: list[Event] = []
    list(run_tasks([1, 2, 3], double, jobs=2, emit=events.append))
    assert sorted(events, key=str) == [BlobProgress(BLOB, done, 0) for done in (1, 2, 3)]


def test_messages_larger_than_a_pipe_are_complete() -> None:
    events: list[Event] = []
    results = list(run_tasks([1_000_000, 2], large, jobs=2, emit=events.append))
    assert sorted(map(len, results)) == [2, 1_000_000]
    assert events == [LARGE_EVENT] * 2


def test_first_error_keeps_its_class_and_hint() -> None:
    with pytest.raises(IntegrityError, match="wrong: 7") as caught:
        list(run_tasks([7], refuse, jobs=1, emit=ignore))
    assert caught.value.hint == "look"


def test_unexpected_exception_is_an_error_with_a_traceback() -> None:
    with pytest.raises(StackerError, match="internal error: ZeroDivisionError") as caught:
        list(run_tasks([0], divide, jobs=1, emit=ignore))
    assert "1 / task" in (caught.value.hint or "")


def test_killed_worker_is_an_error() -> None:
    with pytest.raises(WorkerDiedError, match="layer 1: got SIGKILL, want a result") as caught:
        list(run_tasks([1], die, jobs=2, emit=ignore, what=lambda task: f"layer {task}"))
    assert "use fewer --jobs" in (caught.value.hint or "")


def test_worker_that_exits_is_an_error_with_its_exit_code() -> None:
    with pytest.raises(WorkerDiedError, match="worker died: 7: got exit code 7, want a result"):
        list(run_tasks([7], leave, jobs=1, emit=ignore))


def test_result_that_cannot_be_sent_is_an_error_with_a_traceback() -> None:
    with pytest.raises(StackerError, match=r"internal error: .*lambda") as caught:
        list(run_tasks([1], lambda_of, jobs=1, emit=ignore))
    assert "Traceback" in (caught.value.hint or "")


def test_worker_without_memory_names_the_option_to_use() -> None:
    with pytest.raises(StackerError, match="out of memory") as caught:
        list(run_tasks([1], exhaust, jobs=1, emit=ignore))
    assert caught.value.hint == "use fewer --jobs"


class MarkingError(IntegrityError):
    """Writes the process ID to a file while it is pickled."""

    marker: Path

    def __reduce__(self) -> tuple[object, ...]:
        self.marker.write_text(f"{os.getpid()}\n")
        return (IntegrityError, (self.message,))


def die_or_fail(marker: Path, task: int, emit: Emit) -> None:
    if task == 0:
        emit_process_id(emit)
        os.kill(os.getpid(), signal.SIGKILL)
    error = MarkingError("the cause")
    error.marker = marker
    raise error


def test_error_of_a_worker_is_preferred_to_the_death_of_another(tmp_path: Path) -> None:
    marker = tmp_path / "sent"

    def wait_for_both(event: Event) -> None:
        """Read nothing until the first worker is dead and the second waits for a task."""
        assert isinstance(event, BlobProgress)
        until(lambda: marker.exists() and marker.read_text().endswith("\n"))
        until(lambda: state_of(event.done) == "Z" and state_of(int(marker.read_text())) == "S")

    work = partial(die_or_fail, marker)
    with pytest.raises(IntegrityError, match="the cause"):
        list(run_tasks([0, 1], work, jobs=2, emit=wait_for_both))


def test_no_process_remains_when_the_caller_stops_early() -> None:
    events: list[Event] = []
    results = run_tasks([0, 1], name_and_wait, jobs=2, emit=events.append)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert events
    assert not any(map(is_running, events))


def test_no_process_remains_after_an_error() -> None:
    events: list[Event] = []
    with pytest.raises(IntegrityError):
        list(run_tasks([1, 0], fail_or_wait, jobs=2, emit=events.append))
    assert events
    assert not any(map(is_running, events))
