"""Worker processes for an event loop, forked before the process has any thread.

Functions with one plain argument come in; awaitable results go out.  A cancelled call does not
interrupt its worker, because another client may wait for the same layer.  The kernel kills the
workers when this process ends.  This module must not know what a function does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from stacker.events import Emit
from stacker.jobs.pool import RESULT, Worker, WorkerDiedError

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Workers:
    """Processes that run one function at a time each.

    :param count: the number of processes.
    """

    def __init__(self, count: int) -> None:
        self._all = {Worker(_call) for _ in range(count)}
        self._idle = list(self._all)
        self._free = asyncio.Semaphore(count)
        self._running: set[asyncio.Task[Any]] = set()

    async def run(
        self, function: Callable[[Argument], Result], argument: Argument, what: str
    ) -> Result:
        """Run ``function(argument)`` in an idle worker, and return its result.

        :param function: a function of a module, since the worker imports it by its name.
        :param what: names the work in the message about a dead worker.
        :raises StackerError: the error of the function.
        :raises WorkerDiedError: the worker died; a new one replaces it.
        """
        task = asyncio.ensure_future(self._run((function, argument), what))
        self._running.add(task)
        task.add_done_callback(self._done)
        result: Result = await asyncio.shield(task)
        return result

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the caller of a cancelled call does not retrieve it

    async def _run(self, work: tuple[Callable[[Any], Any], Any], what: str) -> Any:
        async with self._free:
            worker = self._idle.pop()
            try:
                worker.start(work, what)
                kind, value = await self._answer(worker)
            except WorkerDiedError:
                worker.end()
                self._all.discard(worker)
                worker = Worker(_call)
                self._all.add(worker)
                raise
            finally:
                self._idle.append(worker)
        if kind != RESULT:
            raise value
        return value

    async def _answer(self, worker: Worker[Any, Any]) -> tuple[int, Any]:
        loop = asyncio.get_running_loop()
        while True:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(worker.answers_from, _resolve, readable)
            try:
                await readable
            finally:
                loop.remove_reader(worker.answers_from)
            for kind, value in worker.answers():
                return kind, value

    def end(self) -> None:
        """Kill the workers."""
        for worker in self._all:
            with suppress(ChildProcessError):
                worker.end()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _call(work: tuple[Callable[[Any], Any], Any], _emit: Emit) -> Any:
    function, argument = work
    return function(argument)
