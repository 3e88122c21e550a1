"""The stages of unpacking a layer, and the time that each of them takes.

An observer wraps the iterator of each stage.  `StageObserver` returns the iterator unchanged;
`StageClock` measures the seconds in each stage, without the stages that it pulls from.  This module
does not use layers or the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Final, TypeVar

Item = TypeVar("Item")

READ: Final = "read"
HASH_BLOB: Final = "hash blob"
INFLATE: Final = "inflate"
HASH_LAYER: Final = "hash layer"
PARSE: Final = "parse"
APPLY: Final = "apply"
COMMIT: Final = "commit"
STAGES: Final = (READ, HASH_BLOB, INFLATE, HASH_LAYER, PARSE, APPLY, COMMIT)
"""Every stage, in the order of the data flow."""


class StageObserver:
    """An observer that does nothing.

    ``single_thread``: whether the puller must run all stages in one thread.
    """

    single_thread = False

    def iterate(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """Return an iterator over the items that a stage produces."""
        del stage
        return items

    def measure(self, stage: str) -> AbstractContextManager[object]:
        """Return a context for a stage that is not an iterator."""
        del stage
        return nullcontext()


NO_OBSERVER: Final = StageObserver()


class StageClock(StageObserver):
    """Measures the seconds of each stage, when all stages run in one thread.

    The time of a stage excludes the stages that it pulls items from.
    """

    single_thread = True

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._running: list[str] = []
        self._since = perf_counter()

    def iterate(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items, and count the time that each ``next`` takes."""
        while True:
            self._enter(stage)
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self._leave()
            yield item

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time inside the context."""
        self._enter(stage)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, stage: str) -> None:
        self._count()
        self._running.append(stage)

    def _leave(self) -> None:
        self._count()
        self._running.pop()

    def _count(self) -> None:
        now = perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
