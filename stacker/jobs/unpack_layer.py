"""Unpack one layer from its source into the store, in one pipeline of iterators.

    blob -> verified(digest, size) -> decompressed -> verified(diff_id)
         -> write_layer -> commit

An `UnpackTask`, a plain value from this process or another, comes in; a committed layer and a
`LayerUnpacked` go out.  `BlobFetch` opens the blob.  This module must not depend on the number of
layers or on the processes that unpack them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from stacker.errors import IntegrityError, LayerError, StackerError, full_disk_hint
from stacker.events import Emit, LayerUnpacked
from stacker.image.digest import DiffID
from stacker.jobs.fetch_blob import (
    BlobFetch,
    DamagedPartialError,
    ProgressReporter,
    discarding_damage,
    open_fetch,
)
from stacker.jobs.tasks import UnpackTask
from stacker.jobs.write_layer import write_layer
from stacker.layer.paths import LayerPaths
from stacker.layer.record import LayerRecord
from stacker.store.store import Store
from stacker.stream.compression import decompressed
from stacker.stream.pipe import threaded
from stacker.stream.stages import (
    COMMIT,
    HASH_LAYER,
    INFLATE,
    NO_OBSERVER,
    StageObserver,
)
from stacker.stream.verify import Hash, bounded, hash_inline, hash_thread, metered, verified

_WORTH_THREADS: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class DeclaredDiffID:
    """A layer whose diff_id a config declares; see `LayerIdentity`.

    :param replace: unpack the layer even if the store has it, and exchange the two.
    """

    diff_id: DiffID
    replace: bool = False

    @property
    def name(self) -> DiffID:
        """The diff_id."""
        return self.diff_id

    @property
    def what(self) -> str:
        """The layer's name for messages."""
        return f"layer {self.diff_id}"

    @contextmanager
    def reserve(self, store: Store) -> Iterator[LayerPaths | DiffID]:
        """Yield the staging paths, or the diff_id if the layer is in the store."""
        with store.layers.unpacking(self.diff_id, replace=self.replace) as paths:
            yield self.diff_id if paths is None else paths

    def check(
        self, chunks: Iterator[bytes], offload: Callable[[Hash], Hash]
    ) -> tuple[Iterator[bytes], Callable[[], DiffID]]:
        """Check the bytes against the diff_id; see `LayerIdentity`."""
        checked = verified(chunks, digest=self.diff_id, what=self.what, offload=offload)
        return checked, lambda: self.diff_id

    def commit(
        self, store: Store, paths: LayerPaths, record: LayerRecord, diff_id: DiffID, *, sync: bool
    ) -> bool:
        """Commit the layer, whose lock `reserve` holds; see `LayerIdentity`."""
        store.layers.commit(diff_id, paths, record, sync=sync)
        return True


def unpack_layer(
    task: UnpackTask, emit: Emit, observer: StageObserver = NO_OBSERVER
) -> LayerUnpacked:
    """Unpack one layer and commit it, unless another process commits it first.

    :param emit: called with `LayerProgress`.
    :param observer: observes every stage.
    :raises IntegrityError: size, digest or diff_id differ, or the compression is corrupt.
    :raises LayerError: the tar is malformed or hostile, or exceeds a limit.
    :raises StackerError: the kernel refuses a system call, e.g. because the disk is full.
    """
    try:
        store = task.store
        try:
            return _attempt(task, store, emit, observer)
        except DamagedPartialError:  # it has been removed
            return _attempt(task, store, emit, observer, afresh=True)
    except OSError as error:
        text = f"cannot unpack: {task.what}: {error.strerror or error}"
        raise StackerError(text, hint=full_disk_hint(error)) from error


def _attempt(
    task: UnpackTask,
    store: Store,
    emit: Emit,
    observer: StageObserver,
    *,
    afresh: bool = False,
) -> LayerUnpacked:
    """Unpack and commit; ``afresh`` ignores the partial blob of an earlier pull."""
    blob, options = task.blob, task.options
    with task.identity.reserve(store) as paths:
        if isinstance(paths, DiffID):
            if options.keep_blobs and not store.blobs.has(blob.digest):
                _keep_blob(task, store, emit, observer, afresh=afresh)
            return LayerUnpacked(paths, blob.digest, None)
        copy = paths.root / "blob"
        with open_fetch(
            task.source, blob, store, copy=copy, keep=options.keep_blobs, resume=options.resume
        ) as fetch:
            if afresh and fetch.partial:
                fetch.partial.clear()
            with discarding_damage(fetch):
                record, diff_id = _unpack(task, paths, fetch, emit, observer)
            with observer.measure(COMMIT):
                fetch.keep_blob(store)
                is_mine = task.identity.commit(store, paths, record, diff_id, sync=options.sync)
            fetch.discard_partial()
    return LayerUnpacked(diff_id, blob.digest, record if is_mine else None)


def _keep_blob(
    task: UnpackTask, store: Store, emit: Emit, observer: StageObserver, *, afresh: bool
) -> None:
    """Fetch the blob of a layer that the store has; verify both digests, and keep the blob."""
    report = ProgressReporter(task.blob, task.identity.name, emit)
    with (
        store.staging.directory("blob") as directory,
        open_fetch(
            task.source,
            task.blob,
            store,
            copy=directory / "blob",
            keep=True,
            resume=task.options.resume,
        ) as fetch,
    ):
        if afresh and fetch.partial:
            fetch.partial.clear()
        with discarding_damage(fetch), ExitStack() as stages:
            chunks, _ = _plain(task, fetch, stages, report, observer=observer)
            _drain(report.passing(chunks))
        fetch.keep_blob(store)


def _unpack(
    task: UnpackTask,
    paths: LayerPaths,
    fetch: BlobFetch,
    emit: Emit,
    observer: StageObserver,
) -> tuple[LayerRecord, DiffID]:
    length = 0
    report = ProgressReporter(task.blob, task.identity.name, emit)

    def measure(size: int) -> None:
        nonlocal length
        length += size

    with ExitStack() as stages:
        chunks, diff_id = _plain(task, fetch, stages, report, observer=observer, measure=measure)
        chunks = report.passing(chunks)
        try:
            record = write_layer(
                chunks,
                paths,
                task.options.form or "tree",
                task.options,
                what=task.what,
                started=report.watch,
                observer=observer,
            )
        except LayerError:
            _drain(chunks)
            raise
    return record.with_blob(str(task.blob.digest), length), diff_id()


def _plain(
    task: UnpackTask,
    fetch: BlobFetch,
    stages: ExitStack,
    report: ProgressReporter,
    *,
    observer: StageObserver,
    measure: Callable[[int], None] = lambda _: None,
) -> tuple[Iterator[bytes], Callable[[], DiffID]]:
    """Return the bytes of a layer's tar, verified, and its diff_id after the last of them.

    :param stages: closes the file and ends the threads.
    :param measure: called with the size of each chunk.
    """
    limits, what = task.options.limits, task.what
    in_threads = not observer.single_thread and task.blob.size >= _WORTH_THREADS
    offload = stages.enter_context(hash_thread()) if in_threads else hash_inline
    blob = fetch.chunks(stages, report, observer, offload)
    plain = decompressed(blob, what=what, max_window=limits.window)
    chunks = _prefer_digest_error(blob, observer.iterate(INFLATE, plain))
    limit = limits.expanded(task.blob.size)
    flag = "--max-bytes" if limit == limits.unpacked_bytes else "--max-ratio"
    chunks = bounded(chunks, limit=limit, what=what, flag=flag)
    chunks, diff_id = task.identity.check(metered(chunks, measure), offload)
    chunks = observer.iterate(HASH_LAYER, chunks)
    return stages.enter_context(threaded(chunks)) if in_threads else chunks, diff_id


def _prefer_digest_error(blob: Iterator[bytes], chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield ``chunks``; if they are corrupt, check the blob's digest first and report that."""
    try:
        yield from chunks
    except IntegrityError:
        _drain(blob)
        raise


def _drain(chunks: Iterator[bytes]) -> None:
    """Read the rest after a malformed entry: a wrong digest is the error to report instead."""
    for _ in chunks:
        pass
