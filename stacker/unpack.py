"""One layer from its source to the store: the chain of readers that everything else serves.

    blob -> verified(digest, size) -> decompressed -> verified(diff_id)
         -> entries -> apply -> commit

In: a task, a plain value that may come from another process.  Out: a committed layer and what
there is to say about it.  Knows neither how many layers there are nor who works on them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stacker.errors import IntegrityError, LayerError, StackerError
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID
from stacker.layer.apply import apply
from stacker.layer.entry import Entry
from stacker.layer.idmap import IdMap
from stacker.layer.limits import Limits
from stacker.layer.record import LayerRecord
from stacker.layer.skeleton import SkeletonWriter
from stacker.layer.tar import TarReader
from stacker.layer.whiteout import WhiteoutFormat
from stacker.source.protocol import Source
from stacker.stages import (
    APPLY,
    COMMIT,
    HASH_BLOB,
    HASH_LAYER,
    INFLATE,
    PARSE,
    READ,
    UNWATCHED,
    Watch,
)
from stacker.store.layers import LayerPlace
from stacker.store.store import Store
from stacker.stream.decompress import chunks_of, decompressed
from stacker.stream.pipe import threaded
from stacker.stream.verify import bounded, metered, verified

_WORTH_THREADS: Final = 64 * 1024
_REPORT_EVERY: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerForm:
    """How layers are written: deletions, owners, bounds, and whether to wait for the disk."""

    whiteouts: WhiteoutFormat
    idmap: IdMap
    limits: Limits = field(default_factory=Limits)
    sync: bool = False
    keep_blobs: bool = False


@dataclass(frozen=True, slots=True)
class LayerTask:
    """One layer to unpack from ``source`` into the store at ``store``."""

    source: Source
    store: Path
    blob: Descriptor
    diff_id: DiffID
    form: LayerForm


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """``done`` of a layer's ``total`` compressed bytes have been read."""

    diff_id: DiffID
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class LayerUnpacked:
    """A layer is in the store; ``record`` is ``None`` when somebody else put it there."""

    diff_id: DiffID
    record: LayerRecord | None


def unpack_layer(
    task: LayerTask, emit: Callable[[object], None], watch: Watch = UNWATCHED
) -> LayerUnpacked:
    """Unpack one layer and commit it, unless it is there by the time its lock is ours.

    :param emit: called with :class:`LayerProgress` now and then.
    :param watch: sees every stage.
    :raises IntegrityError: size, digest or diff_id differ, or the compression is corrupt.
    :raises LayerError: the tar is malformed, hostile, or over a limit.
    :raises StackerError: the machine cannot do it.
    """
    what = f"layer {task.diff_id}"
    try:
        store = Store.opened(task.store)
        with store.layers.unpacking(task.diff_id) as place:
            if place is None:
                return LayerUnpacked(task.diff_id, None)
            record = _unpack(task, place, what, emit, watch)
            with watch.during(COMMIT):
                if task.form.keep_blobs:
                    store.blobs.adopt(task.blob.digest, _kept_blob(place))
                store.layers.commit(task.diff_id, place, record, sync=task.form.sync)
            return LayerUnpacked(task.diff_id, record)
    except OSError as error:
        if isinstance(error, StackerError):
            raise
        raise StackerError(f"cannot unpack: {what}: {error.strerror or error}") from error


class _Entries(TarReader):
    """A reader whose watch sees each entry come."""

    watch = UNWATCHED

    def __iter__(self) -> Iterator[Entry]:
        return self.watch.passing(PARSE, super().__iter__())


def _unpack(
    task: LayerTask, place: LayerPlace, what: str, emit: Callable[[object], None], watch: Watch
) -> LayerRecord:
    limits, length = task.form.limits, 0

    def measure(size: int) -> None:
        nonlocal length
        length += size

    with ExitStack() as stages:
        blob = _read(task, place, stages, emit, watch)
        chunks = _blaming(blob, watch.passing(INFLATE, decompressed(blob, what=what)))
        limit = limits.expanded(task.blob.size)
        flag = "--max-bytes" if limit == limits.unpacked_bytes else "--max-ratio"
        chunks = bounded(chunks, limit=limit, what=what, flag=flag)
        chunks = _in_a_thread(chunks, task, stages, watch)
        chunks = verified(metered(chunks, measure), digest=task.diff_id, what=what)
        chunks = _in_a_thread(watch.passing(HASH_LAYER, chunks), task, stages, watch)
        skeleton = SkeletonWriter(stages.enter_context(place.skeleton.open("wb")))
        entries = _Entries(chunks, what=what, limits=limits, keep=skeleton.keep)
        entries.watch = watch
        try:
            with watch.during(APPLY):
                record = apply(
                    entries,
                    place.diff,
                    aside=place.aside,
                    form=task.form.whiteouts,
                    idmap=task.form.idmap,
                    limits=limits,
                )
        except LayerError:
            _drain(chunks)
            raise
        skeleton.finish()
    return record.seen_as(str(task.blob.digest), length)


def _read(
    task: LayerTask,
    place: LayerPlace,
    stages: ExitStack,
    emit: Callable[[object], None],
    watch: Watch,
) -> Iterator[bytes]:
    """Give the blob's bytes, checked against its descriptor, kept and reported as wished."""
    blob = task.blob
    file = stages.enter_context(closing(task.source.open_blob(blob)))
    chunks = metered(watch.passing(READ, chunks_of(file)), _reporter(task, emit))
    chunks = verified(chunks, digest=blob.digest, size=blob.size, what=f"blob {blob.digest}")
    chunks = watch.passing(HASH_BLOB, chunks)
    if task.form.keep_blobs:
        chunks = _copied(chunks, _kept_blob(place))
    return chunks


def _in_a_thread(
    chunks: Iterator[bytes], task: LayerTask, stages: ExitStack, watch: Watch
) -> Iterator[bytes]:
    """Let a stage run beside the others, unless the layer is too small to gain by it."""
    if watch.one_thread or task.blob.size < _WORTH_THREADS:
        return chunks
    return stages.enter_context(threaded(chunks))


def _blaming(blob: Iterator[bytes], chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass ``chunks`` on; if they are corrupt, let the blob's digest be the first to say so."""
    try:
        yield from chunks
    except IntegrityError:
        _drain(blob)
        raise


def _drain(chunks: Iterator[bytes]) -> None:
    """Read on after a malformed entry: if a digest differs, that is the error to report."""
    for _ in chunks:
        pass


def _kept_blob(place: LayerPlace) -> Path:
    return place.root / "blob"


def _copied(chunks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    with path.open("wb", buffering=0) as file:
        for chunk in chunks:
            file.write(chunk)
            yield chunk


def _reporter(task: LayerTask, emit: Callable[[object], None]) -> Callable[[int], None]:
    done = reported = 0

    def report(size: int) -> None:
        nonlocal done, reported
        done += size
        if done - reported >= _REPORT_EVERY or done == task.blob.size:
            reported = done
            emit(LayerProgress(task.diff_id, done, task.blob.size))

    return report


def usable_processors() -> int:
    """Say how many processors this process may use."""
    return len(os.sched_getaffinity(0))
