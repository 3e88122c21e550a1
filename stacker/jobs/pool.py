"""Run a function for many tasks, several at once, each in its own process.

Tasks and a function come in; results go out, and events while the function runs.
Workers are processes because some of the code holds the GIL; they are forked because a fork keeps
the modules that the parent imported.  A process with several threads starts new interpreters
instead: a fork copies locks that other threads hold (fork(2), "Notes").  Both kinds of workers
have the inheritable descriptors of the parent (fcntl(2), FD_CLOEXEC), so a task can contain the
number of one.  If the parent ends for any reason, the kernel kills the workers: they hold no state
worth keeping.  This module must not depend on layers or blobs.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from typing import Any, Generic, NoReturn, TypeVar

from stacker.errors import StackerError, full_disk_hint, path_of
from stacker.events import Emit
from stacker.linux import process

Task = TypeVar("Task")
Result = TypeVar("Result")

_LENGTH = struct.Struct("!I")
EVENT, RESULT, ERROR = range(3)
"""The kinds of answers of a worker."""
_ENDING_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_AGAIN = "run the command again; if the worker dies again, use --jobs 1"
_OUT_OF_MEMORY = "the kernel kills a process when memory runs out (see dmesg): use fewer --jobs"


class WorkerDiedError(StackerError):
    """A worker process ended without a result, for example because it was killed."""


def run_tasks(
    tasks: Iterable[Task],
    work: Callable[[Task, Emit], Result],
    *,
    jobs: int,
    emit: Emit,
    what: Callable[[Task], str] = str,
) -> Iterator[Result]:
    """Run ``work(task, emit)`` for every task in at most ``jobs`` processes.

    :param emit: receives the events of all workers, in this process.
    :param what: names a task in the message about a dead worker, such as ``layer sha256:…``.
    :returns: the results, in the order in which the workers finish.
    :raises StackerError: the first error of a worker; it ends all workers.
    :raises WorkerDiedError: a worker died, and no other worker has reported an error.
    """
    waiting = list(tasks)[::-1]
    with _processes(min(jobs, len(waiting)), work) as workers:
        busy = 0

        def start(worker: Worker[Task, Result]) -> None:
            task = waiting.pop()
            worker.start(task, what(task))

        for worker in workers.values():
            start(worker)
            busy += 1
        while busy:
            readable, _, _ = select.select(list(workers), [], [])
            for descriptor in readable:
                worker = workers[descriptor]
                for kind, value in _answers(worker, workers):
                    if kind == EVENT:
                        emit(value)
                        continue
                    busy -= 1
                    if kind == ERROR:
                        raise value
                    if waiting:
                        start(worker)
                        busy += 1
                    yield value


def _answers(
    worker: Worker[Any, Any], workers: dict[int, Worker[Any, Any]]
) -> Iterator[tuple[int, Any]]:
    """Read from a worker; if it died, prefer the error of another worker, which may be the cause.

    For example, a full tmpfs is an error in one worker and the end of memory for another.
    """
    try:
        yield from worker.answers()
    except WorkerDiedError as death:
        for descriptor in select.select(list(workers), [], [], 0)[0]:
            with suppress(WorkerDiedError):
                for kind, value in workers[descriptor].answers():
                    if kind == ERROR:
                        raise value from death
        raise


@contextmanager
def _processes(
    count: int, work: Callable[[Any, Emit], Any]
) -> Iterator[dict[int, Worker[Any, Any]]]:
    workers: dict[int, Worker[Any, Any]] = {}
    try:
        for _ in range(count):
            worker = Worker(work)
            workers[worker.answers_from] = worker
        yield workers
    finally:
        for worker in workers.values():
            worker.end()


class Worker(Generic[Task, Result]):
    """One process, with a pipe each way; a message is a pickle after its length.

    :param work: runs one task.
    """

    def __init__(self, work: Callable[[Task, Emit], Result]) -> None:
        tasks, self._tasks_to = os.pipe()
        self.answers_from, answers = os.pipe()
        try:
            if process.has_threads():
                self._pid = self._started(work, tasks, answers)
            else:
                self._pid = self._forked(work, tasks, answers)
        finally:
            os.close(tasks)
            os.close(answers)
        self._received = b""
        self._what = ""

    def _forked(self, work: Callable[[Task, Emit], Result], tasks: int, answers: int) -> int:
        parent = os.getpid()
        with _without_signals() as before:
            pid = os.fork()
            if pid == 0:
                os.close(self._tasks_to)
                os.close(self.answers_from)
                _serve(work, tasks, answers, parent, before)
        return pid

    def _started(self, work: Callable[[Task, Emit], Result], tasks: int, answers: int) -> int:
        message = _message(work)
        with _without_signals():  # until the worker has handlers of its own
            pid = process.start_python(
                f"from stacker.jobs import pool; pool.serve_stdin({os.getpid()})",
                stdin=tasks,
                stdout=answers,
            )
        with suppress(BrokenPipeError):  # `answers` reports that the worker died
            _write(self._tasks_to, message)
        return pid

    def start(self, task: Task, what: str) -> None:
        """Send a task; the worker has answered the previous one.

        :param what: names the task in the message about a dead worker.
        """
        self._what = what
        with suppress(BrokenPipeError):  # `answers` reports that the worker died
            _send(self._tasks_to, task)

    def answers(self) -> Iterator[tuple[int, Any]]:
        """Read from `answers_from`, and yield each complete answer: its kind and its value.

        :raises WorkerDiedError: the worker has ended.
        """
        data = os.read(self.answers_from, 1 << 16)
        if not data:
            raise self._death()
        self._received += data
        while len(self._received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
            if len(self._received) < end:
                return
            message = self._received[_LENGTH.size : end]
            self._received = self._received[end:]
            yield pickle.loads(message)  # noqa: S301 - the worker sent it

    def _death(self) -> WorkerDiedError:
        # WNOWAIT leaves the process for `end`, which must not kill a reused process ID.
        died = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        code = died.si_status if died else 0
        if died is None or died.si_code == os.CLD_EXITED:
            got, hint = f"exit code {code}", _AGAIN
        else:
            got = signal.Signals(code).name
            hint = _OUT_OF_MEMORY if code == signal.SIGKILL else _AGAIN
        return WorkerDiedError(f"worker died: {self._what}: got {got}, want a result", hint=hint)

    def end(self) -> None:
        """Kill the worker, and close both pipes."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.close(self._tasks_to)
        os.close(self.answers_from)
        os.waitpid(self._pid, 0)


def serve_stdin(parent: int) -> NoReturn:
    """Serve as a worker that reads its function and its tasks from stdin, and answers on stdout.

    :param parent: the process ID of the process that started this one.
    """
    tasks, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # programs that a task starts must not read tasks,
    os.dup2(2, 1)  # or write between the answers
    with os.fdopen(os.dup(tasks), "rb", buffering=0) as incoming:
        work = pickle.loads(_read(incoming, _LENGTH.unpack(_read(incoming, _LENGTH.size))[0]))  # noqa: S301
    _serve(work, tasks, answers, parent, set())


def _read(incoming: FileIO, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = incoming.read(size - len(data))
        if not part:
            os._exit(1)  # the parent has ended
        data += part
    return data


def _send(descriptor: int, value: object) -> None:
    _write(descriptor, _message(value))


def _message(value: object) -> bytes:
    data = pickle.dumps(value)
    return _LENGTH.pack(len(data)) + data


def _write(descriptor: int, message: bytes) -> None:
    data = memoryview(message)
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def _without_signals() -> Iterator[set[int]]:
    """Block signals during a fork, so that a new worker does not run the parent's handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        yield {int(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    work: Callable[[Any, Emit], Any], tasks: int, answers: int, parent: int, mask: set[int]
) -> NoReturn:
    """Work until the parent closes the pipe; never return into the parent's code."""
    status = 1
    try:
        # The terminal sends SIGINT to the whole process group; the parent handles it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) set it
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        process.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == parent:
            _work_through(work, tasks, answers)
        status = 0
    except BaseException as error:  # noqa: BLE001 - it would hide the cause from the parent
        with suppress(OSError):  # the parent has ended
            _send(answers, (ERROR, _unexpected(error)))
    finally:
        os._exit(status)


def _work_through(work: Callable[[Any, Emit], Any], tasks: int, answers: int) -> None:
    with os.fdopen(tasks, "rb") as incoming:
        while header := incoming.read(_LENGTH.size):
            task = pickle.loads(incoming.read(_LENGTH.unpack(header)[0]))  # noqa: S301
            try:
                answer = RESULT, work(task, lambda event: _send(answers, (EVENT, event)))
            except StackerError as error:
                answer = ERROR, error
            except Exception as error:  # noqa: BLE001 - a bug must not look like a killed worker
                answer = ERROR, _unexpected(error)
            _send(answers, answer)


def _unexpected(error: BaseException) -> StackerError:
    import traceback

    if isinstance(error, MemoryError):
        return StackerError("out of memory: a worker got no memory", hint="use fewer --jobs")
    if isinstance(error, OSError):  # of the pipe, or one that the work did not translate
        where = f"{path}: " if (path := path_of(error)) else ""
        return StackerError(
            f"a worker failed: {where}{error.strerror or error}", hint=full_disk_hint(error)
        )
    where = "".join(traceback.format_exception(error))
    return StackerError(f"internal error: {type(error).__name__}: {error}", hint=where)
