"""One layer from its source to the store: the chain of readers that everything else serves.

    blob -> verified(digest, size) -> decompressed -> verified(diff_id)
         -> entries -> apply -> commit

In: a task, a plain value that may come from another process.  Out: a committed layer and what
there is to say about it.  Knows neither how many layers there are nor who works on them, nor
where a blob comes from: ``arrival`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Final, cast

from stacker.errors import IntegrityError, LayerError, StackerError
from stacker.image.digest import DiffID
from stacker.jobs.fetch_blob import DamagedPartialError, Incoming, Report, blamed, incoming
from stacker.jobs.tasks import LayerTask, LayerUnpacked
from stacker.layer.apply import apply
from stacker.layer.record import LayerRecord
from stacker.layer.skeleton import SkeletonWriter
from stacker.store.layers import LayerPlace
from stacker.store.store import Store
from stacker.stream.decompress import decompressed
from stacker.stream.pipe import threaded
from stacker.stream.stages import APPLY, COMMIT, HASH_LAYER, INFLATE, PARSE, UNWATCHED, Watch
from stacker.stream.verify import Hash, bounded, hashed, hashing_beside, in_place, metered, verified
from stacker.tar.entry import Entry
from stacker.tar.reader import TarReader

_WORTH_THREADS: Final = 64 * 1024


def unpack_layer(
    task: LayerTask, emit: Callable[[object], None], watch: Watch = UNWATCHED
) -> LayerUnpacked:
    """Unpack one layer and commit it, unless it is there by the time its lock is ours.

    :param emit: called with :class:`~stacker.jobs.fetch_blob.LayerProgress` now and then.
    :param watch: sees every stage.
    :raises IntegrityError: size, digest or diff_id differ, or the compression is corrupt.
    :raises LayerError: the tar is malformed, hostile, or over a limit.
    :raises StackerError: the machine cannot do it.
    """
    try:
        store = Store.open(task.store)
        try:
            return _attempt(task, store, emit, watch)
        except DamagedPartialError:  # and it is gone now
            return _attempt(task, store, emit, watch, afresh=True)
    except OSError as error:
        raise StackerError(f"cannot unpack: {task.what}: {error.strerror or error}") from error


def _attempt(
    task: LayerTask,
    store: Store,
    emit: Callable[[object], None],
    watch: Watch,
    *,
    afresh: bool = False,
) -> LayerUnpacked:
    """Unpack and commit; ``afresh`` makes no use of what an earlier pull left."""
    blob, form = task.blob, task.form
    with _place(task, store) as place:
        if place is None:
            # Nobody can have unpacked a layer meanwhile whose diff_id nobody knows.
            return LayerUnpacked(cast("DiffID", task.diff_id), blob.digest, None)
        copy = place.root / "blob"
        with incoming(
            task.source, blob, store, copy=copy, keep=form.keep_blobs, resume=form.resume
        ) as arrival:
            if afresh and arrival.partial:
                arrival.partial.clear()
            with blamed(arrival):
                record, diff_id = _unpack(task, place, arrival, emit, watch)
            with watch.during(COMMIT):
                arrival.settle(store)
                is_mine = _commit(task, store, place, record, diff_id)
            arrival.forget()
    return LayerUnpacked(diff_id, blob.digest, record if is_mine else None)


def _place(task: LayerTask, store: Store) -> AbstractContextManager[LayerPlace | None]:
    if task.diff_id is None:
        return store.layers.unpacking_blob(task.blob.digest)
    return store.layers.unpacking(task.diff_id)


def _commit(
    task: LayerTask, store: Store, place: LayerPlace, record: LayerRecord, diff_id: DiffID
) -> bool:
    """Give the layer its name; say whether nobody else did so meanwhile."""
    if task.diff_id is not None:
        store.layers.commit(diff_id, place, record, sync=task.form.sync)
        return True
    with store.layers.unpacking(diff_id) as free:
        if free is not None:
            store.layers.commit(diff_id, place, record, sync=task.form.sync)
        return free is not None


class _Entries(TarReader):
    """A reader whose watch sees each entry come."""

    watch = UNWATCHED

    def __iter__(self) -> Iterator[Entry]:
        return self.watch.passing(PARSE, super().__iter__())


def _unpack(
    task: LayerTask,
    place: LayerPlace,
    arrival: Incoming,
    emit: Callable[[object], None],
    watch: Watch,
) -> tuple[LayerRecord, DiffID]:
    limits, what, length = task.form.limits, task.what, 0
    report = Report(task.blob, task.diff_id, emit)

    def measure(size: int) -> None:
        nonlocal length
        length += size

    with ExitStack() as stages:
        in_threads = not watch.one_thread and task.blob.size >= _WORTH_THREADS
        moved = stages.enter_context(hashing_beside()) if in_threads else in_place
        blob = arrival.chunks(stages, report, watch, moved)
        chunks = _blaming(blob, watch.passing(INFLATE, decompressed(blob, what=what)))
        limit = limits.expanded(task.blob.size)
        flag = "--max-bytes" if limit == limits.unpacked_bytes else "--max-ratio"
        chunks = bounded(chunks, limit=limit, what=what, flag=flag)
        chunks, identity = _identified(metered(chunks, measure), task, moved)
        chunks = watch.passing(HASH_LAYER, chunks)
        if in_threads:
            chunks = stages.enter_context(threaded(chunks))
        chunks = report.passing(chunks)
        skeleton = SkeletonWriter(stages.enter_context(place.skeleton.open("wb")))
        entries = _Entries(chunks, what=what, limits=limits, keep=skeleton.keep)
        entries.watch, report.counter = watch, entries
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
    return record.seen_as(str(task.blob.digest), length), identity()


def _identified(
    chunks: Iterator[bytes], task: LayerTask, moved: Callable[[Hash], Hash]
) -> tuple[Iterator[bytes], Callable[[], DiffID]]:
    """Check ``chunks`` against the diff_id; where no document says it, compute it."""
    if (known := task.diff_id) is not None:
        return verified(chunks, digest=known, what=task.what, moved=moved), lambda: known
    from hashlib import sha256  # loads OpenSSL

    running = moved(sha256())
    return hashed(chunks, running), lambda: DiffID("sha256", running.hexdigest())


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
