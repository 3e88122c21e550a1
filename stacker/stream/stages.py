"""The stages a layer passes on its way to the store, as somebody watches them.

In: the iterators that the stages are.  Out: the same; and with a :class:`StageClock` the seconds
that were spent in each, without those it waited for the one before.  Knows no layer and no store.
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
"""Every stage, in the order in which a byte passes them."""


class Watch:
    """Lets stages pass; this one does not look.

    ``one_thread`` asks for all stages in the thread of the watch.
    """

    one_thread = False

    def passing(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """Give what ``items``, the outcome of ``stage``, gives."""
        del stage
        return items

    def during(self, stage: str) -> AbstractContextManager[object]:
        """Give a context for a stage that is no iterator."""
        del stage
        return nullcontext()


UNWATCHED: Final = Watch()


class StageClock(Watch):
    """Measures stages that run in one thread: ``seconds`` by stage.

    A stage's own time is what passes in it but not in the stages it asks for more.
    """

    one_thread = True

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._running: list[str] = []
        self._since = perf_counter()

    def passing(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """Give what ``items`` gives, and count the time it takes for it."""
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
    def during(self, stage: str) -> Iterator[None]:
        """Count the time that passes in the context."""
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
