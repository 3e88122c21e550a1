"""Measure where a pull of an image spends its time on this machine.

A source and empty stores come in; a `Report` goes out.  It has the seconds and bytes of every stage
alone, the seconds of whole pulls with all stages in parallel, and the stage that limits them.  This
module must not measure anything that a pull does not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
from stacker.operations.pull import pull_image
from stacker.source.protocol import Source
from stacker.store.store import Store
from stacker.stream import stages
from stacker.stream.stages import StageClock

THREADS: Final = (
    (stages.READ, stages.INFLATE),
    (stages.HASH_BLOB, stages.HASH_LAYER),
    (stages.PARSE, stages.APPLY, stages.COMMIT),
)
"""The stages that share a thread when a layer is unpacked."""

_COMPRESSED: Final = {stages.READ, stages.HASH_BLOB}


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """The measurements of one layer.

    :param seconds: the median of each stage.
    """

    diff_id: DiffID
    entries: int
    blob_bytes: int
    tar_bytes: int
    seconds: Mapping[str, float]

    @property
    def slowest_thread(self) -> tuple[str, ...]:
        """The stages of the thread that takes longest."""
        return max(THREADS, key=self.total)

    def total(self, names: Iterable[str]) -> float:
        """Return the sum of the seconds of some stages."""
        return sum(self.seconds[name] for name in names)


@dataclass(frozen=True, slots=True)
class Report:
    """The measurements of an image.

    :param pull: seconds of a whole pull, a median.
    :param processors: the number of processors that the process may use.
    :param jobs: the number of layers that were unpacked at the same time.
    :param runs: the number of runs; the other figures are their medians.
    """

    layers: tuple[LayerFigures, ...]
    pull: float
    processors: int
    jobs: int
    runs: int

    def seconds(self, stage: str) -> float:
        """Return the seconds that a stage takes for all layers."""
        return sum(layer.seconds[stage] for layer in self.layers)

    def bytes(self, stage: str) -> int:
        """Return the bytes of all layers that a stage reads; for inflate, the bytes it writes."""
        if stage in _COMPRESSED:
            return sum(layer.blob_bytes for layer in self.layers)
        return sum(layer.tar_bytes for layer in self.layers)

    @property
    def shared(self) -> float:
        """Seconds of all stages if every processor is always busy."""
        total = sum(map(self.seconds, stages.STAGES))
        return total / min(self.processors, len(THREADS) * min(self.jobs, len(self.layers)))

    @property
    def longest(self) -> LayerFigures:
        """The layer with the slowest thread."""
        return max(self.layers, key=lambda layer: layer.total(layer.slowest_thread))

    @property
    def is_bound_by_one_layer(self) -> bool:
        """Whether one layer's slowest thread takes longer than `shared`."""
        return self.longest.total(self.longest.slowest_thread) > self.shared

    @property
    def limit(self) -> str:
        """The stage that limits the speed of a pull."""
        if self.is_bound_by_one_layer:
            return max(self.longest.slowest_thread, key=lambda name: self.longest.seconds[name])
        return max(stages.STAGES, key=self.seconds)


def measure_pull(
    source: Source,
    empty_store: Callable[[], AbstractContextManager[Store]],
    *,
    platform: Platform,
    options: UnpackOptions,
    jobs: int,
    processors: int,
    runs: int,
    emit: Emit,
) -> Report:
    """Pull an image into empty stores, alternately with and without a clock in every stage.

    :param empty_store: creates an empty store that is removed when the context ends.
    :param jobs: the number of layers to unpack at the same time; one if stages are timed.
    :param runs: the number of pulls of each kind; the report has medians.
    :param emit: receives the events of every pull, and `LayerTimed`.
    :raises NotFoundError: the image has no layers.
    """
    measurements = _Measurements(emit)
    pulls: list[float] = []
    for unpack, at_once in ((_unpack_timed, 1), (unpack_layer, jobs)) * runs:
        with empty_store() as store:
            started = perf_counter()
            pull_image(
                store,
                source,
                platform=platform,
                options=options,
                jobs=at_once,
                origin="",
                emit=measurements.collect,
                unpack=unpack,
            )
            if unpack is unpack_layer:
                pulls.append(perf_counter() - started)
    layers = tuple(measurements.layers())
    if not layers:
        raise NotFoundError("cannot measure: got an image without layers, want at least one")
    return Report(layers, median(pulls), processors, jobs, runs)


def _unpack_timed(task: UnpackTask, emit: Emit) -> LayerUnpacked:
    clock = StageClock()
    unpacked = unpack_layer(task, emit, clock)
    emit(LayerTimed(unpacked.diff_id, clock.seconds, task.blob.size))
    return unpacked


class _Measurements:
    """Collects the events of all pulls, and passes them on."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._timed: dict[DiffID, list[LayerTimed]] = {}
        self._records: dict[DiffID, LayerRecord] = {}

    def collect(self, event: Event) -> None:
        match event:
            case LayerTimed(diff_id):
                self._timed.setdefault(diff_id, []).append(event)
            case LayerUnpacked(diff_id=diff_id, record=LayerRecord() as record):
                self._records[diff_id] = record
        self._emit(event)

    def layers(self) -> Iterator[LayerFigures]:
        """Yield the figures of each layer; seconds are medians."""
        for diff_id, timed in self._timed.items():
            record = self._records[diff_id]
            yield LayerFigures(
                diff_id,
                record.entries,
                timed[0].blob_bytes,
                record.tar_bytes,
                {name: median(run.seconds[name] for run in timed) for name in stages.STAGES},
            )
