"""Where the time goes when an image is pulled on this machine.

In: a source, and an empty store on the disk in question.  Out: a :class:`Report`: seconds and
bytes of every stage, each alone; what the whole takes when they run side by side, as a pull lets
them; and which of them sets the pace.  Knows how layers are put on processors; measures nothing
that a pull does not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Final

from stacker.errors import NotFoundError
from stacker.events import Emit, Event, LayerTimed, LayerUnpacked
from stacker.image.digest import DiffID
from stacker.image.platform import Platform
from stacker.jobs.tasks import UnpackOptions, UnpackTask
from stacker.jobs.unpack_layer import unpack_layer
from stacker.layer.record import LayerRecord
from stacker.operations.pull import pull
from stacker.source.protocol import Source
from stacker.store.store import Store
from stacker.stream import stages
from stacker.stream.stages import StageClock

THREADS: Final = (
    (stages.READ, stages.INFLATE),
    (stages.HASH_BLOB, stages.HASH_LAYER),
    (stages.PARSE, stages.APPLY, stages.COMMIT),
)
"""The stages that follow each other in one thread when a layer is unpacked."""

_COMPRESSED: Final = {stages.READ, stages.HASH_BLOB}


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """What one layer takes: seconds by stage, medians; bytes of its blob and of its tar."""

    diff_id: DiffID
    entries: int
    blob_bytes: int
    tar_bytes: int
    seconds: Mapping[str, float]

    @property
    def slowest_thread(self) -> tuple[str, ...]:
        """The stages of the thread that the others wait for."""
        return max(THREADS, key=self.spent)

    def spent(self, names: Iterable[str]) -> float:
        """Sum up seconds of stages."""
        return sum(self.seconds[name] for name in names)


@dataclass(frozen=True, slots=True)
class Report:
    """What an image takes.

    :param pull: seconds of a whole pull, a median.
    :param jobs: layers that were unpacked at the same time.
    """

    layers: tuple[LayerFigures, ...]
    pull: float
    processors: int
    jobs: int
    runs: int

    def seconds(self, stage: str) -> float:
        """Give the seconds of a stage, of all layers together."""
        return sum(layer.seconds[stage] for layer in self.layers)

    def bytes(self, stage: str) -> int:
        """Give the bytes that a stage takes in; inflating counts what it gives out."""
        if stage in _COMPRESSED:
            return sum(layer.blob_bytes for layer in self.layers)
        return sum(layer.tar_bytes for layer in self.layers)

    @property
    def shared(self) -> float:
        """Seconds that the processors need for all stages, when none is ever idle."""
        total = sum(map(self.seconds, stages.STAGES))
        return total / min(self.processors, len(THREADS) * min(self.jobs, len(self.layers)))

    @property
    def longest(self) -> LayerFigures:
        """The layer with the thread that takes longest."""
        return max(self.layers, key=lambda layer: layer.spent(layer.slowest_thread))

    @property
    def is_bound_by_one_layer(self) -> bool:
        """Whether one layer's slowest thread takes longer than all the work shared out."""
        return self.longest.spent(self.longest.slowest_thread) > self.shared

    @property
    def limit(self) -> str:
        """The stage that sets the pace."""
        if self.is_bound_by_one_layer:
            return max(self.longest.slowest_thread, key=lambda name: self.longest.seconds[name])
        return max(stages.STAGES, key=self.seconds)


def bench(
    source: Source,
    rooms: Callable[[], AbstractContextManager[Store]],
    *,
    platform: Platform,
    options: UnpackOptions,
    jobs: int,
    processors: int,
    runs: int,
    emit: Emit,
) -> Report:
    """Pull an image into empty stores, with a clock in every stage and without.

    :param rooms: makes an empty store and takes it away again.
    :param runs: times that it is done; figures are medians.
    :param emit: called with the events of every pull, and with :class:`LayerTimed`.
    :raises NotFoundError: it has no layers.
    """
    timed: list[LayerTimed] = []
    records: dict[DiffID, LayerRecord] = {}
    walls: list[float] = []

    def collect(event: Event) -> None:
        match event:
            case LayerTimed():
                timed.append(event)
            case LayerUnpacked(diff_id=diff_id, record=LayerRecord() as record):
                records[diff_id] = record
        emit(event)

    for work, at_once in ((_timed_layer, 1), (unpack_layer, jobs)) * runs:
        with rooms() as store:
            started = perf_counter()
            pull(
                store,
                source,
                platform=platform,
                options=options,
                jobs=at_once,
                origin="",
                emit=collect,
                work=work,
            )
            if work is unpack_layer:
                walls.append(perf_counter() - started)
    if not timed:
        raise NotFoundError("nothing to measure: got an image without layers, want at least one")
    layers = tuple(_figures(timed, records))
    return Report(layers, median(walls), processors, jobs, runs)


def _timed_layer(task: UnpackTask, emit: Emit) -> LayerUnpacked:
    clock = StageClock()
    unpacked = unpack_layer(task, emit, clock)
    emit(LayerTimed(unpacked.diff_id, clock.seconds, task.blob.size))
    return unpacked


def _figures(
    timed: Sequence[LayerTimed], records: Mapping[DiffID, LayerRecord]
) -> Iterator[LayerFigures]:
    for diff_id in dict.fromkeys(event.diff_id for event in timed):
        mine, record = [event for event in timed if event.diff_id == diff_id], records[diff_id]
        yield LayerFigures(
            diff_id,
            record.entries,
            mine[0].blob_bytes,
            record.tar_bytes,
            {name: median(event.seconds[name] for event in mine) for name in stages.STAGES},
        )
