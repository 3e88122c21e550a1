"""One layer from the store to a blob: put together again, verified, compressed anew.

    skeleton + tree -> tar -> verified(diff_id) -> compressed -> blob, and its digest

In: a task, a plain value that may come from another process.  Out: a file and its descriptor's
numbers.  Knows neither manifests nor destinations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import StackerError
from stacker.events import Emit, LayerPacked, PackProgress, Throttle
from stacker.image.digest import DiffID, Digest
from stacker.layer.skeleton import reassembled
from stacker.store.store import Store
from stacker.stream.compression import Compression, compressed
from stacker.stream.pipe import threaded
from stacker.stream.verify import metered, verified

if TYPE_CHECKING:
    from stacker.layer.record import LayerRecord

_WORTH_THREADS = 64 * 1024
_ALIKE = Digest.of(b"")  # names the algorithm of blobs made here


@dataclass(frozen=True, slots=True)
class PackTask:
    """A layer of the store at ``store`` to be written to the directory ``room``.

    :param level: of the compression; ``None`` for the usual one.
    """

    store: Path
    room: Path
    diff_id: DiffID
    compression: Compression
    level: int | None


def pack_layer(task: PackTask, emit: Emit) -> LayerPacked:
    """Make a layer's blob; the caller keeps the layer from being removed.

    :param emit: called with `PackProgress` now and then.
    :raises NotFoundError: the layer is not here.
    :raises IntegrityError: what lies on disk is not the layer any more.
    :raises StackerError: the machine cannot do it.
    """
    what = f"layer {task.diff_id}"
    path = task.room / f"{task.diff_id.algorithm}-{task.diff_id.hex}"
    try:
        with ExitStack() as stages, path.open("wb") as file:
            hashed, size = _ALIKE.new_hash(), 0
            for chunk in _compressed(task, stages, what, emit):
                hashed.update(chunk)
                file.write(chunk)
                size += len(chunk)
    except OSError as error:
        raise StackerError(f"cannot pack: {what}: {error.strerror or error}") from error
    return LayerPacked(task.diff_id, Digest(_ALIKE.algorithm, hashed.hexdigest()), size, path)


def _compressed(task: PackTask, stages: ExitStack, what: str, emit: Emit) -> Iterator[bytes]:
    store = Store.open(task.store)
    record = store.layers.record(task.diff_id)
    chunks = reassembled(store.layers.paths(task.diff_id), record, what=what)
    chunks = metered(chunks, _reporter(task, record, emit))
    chunks = _in_a_thread(chunks, record, stages)
    chunks = verified(chunks, digest=task.diff_id, what=what)
    chunks = _in_a_thread(chunks, record, stages)
    return _in_a_thread(compressed(chunks, task.compression, task.level), record, stages)


def _in_a_thread(
    chunks: Iterator[bytes], record: LayerRecord, stages: ExitStack
) -> Iterator[bytes]:
    """Let a stage run beside the others, unless the layer is too small to gain by it."""
    if record.tar_bytes < _WORTH_THREADS:
        return chunks
    return stages.enter_context(threaded(chunks))


def _reporter(task: PackTask, record: LayerRecord, emit: Emit) -> Callable[[int], None]:
    done, throttle = 0, Throttle(record.tar_bytes)

    def report(size: int) -> None:
        nonlocal done
        done += size
        if throttle.is_due(done):
            emit(PackProgress(task.diff_id, done, record.tar_bytes))

    return report
