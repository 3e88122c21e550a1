"""Pack one layer: turn its directory in the store into a compressed blob.

    skeleton + tree -> tar -> verified(diff_id) -> compressed -> file, and its digest

A `PackTask` comes in, a plain value that travels between processes; a `LayerPacked` goes out.
This module must not read manifests or write to a destination.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import StackerError, full_disk_hint
from stacker.events import Emit, LayerPacked, PackProgress, Throttle
from stacker.image.digest import DiffID, Digest
from stacker.layer.tar_stream import layer_tar
from stacker.store.store import Store
from stacker.stream.compression import Compression, compressed
from stacker.stream.pipe import threaded
from stacker.stream.verify import metered, verified

if TYPE_CHECKING:
    from stacker.layer.record import LayerRecord

_WORTH_THREADS: Final = 64 * 1024
"""Bytes of a layer's tar; with fewer, starting threads takes longer than they save."""
_EMPTY: Final = Digest.of(b"")
"""Any digest in the algorithm of the blobs that this module creates."""


@dataclass(frozen=True, slots=True)
class PackOptions:
    """How layers are compressed.

    :param level: the compression level; ``None`` for the default of the compression.
    """

    compression: Compression = "gzip"
    level: int | None = None


@dataclass(frozen=True, slots=True)
class PackTask:
    """One layer of the store at ``store`` to pack into a file in ``directory``."""

    store: Store
    directory: Path
    diff_id: DiffID
    options: PackOptions


def pack_layer(task: PackTask, emit: Emit) -> LayerPacked:
    """Write a layer's blob to a file; the caller has locked the layer.

    :param emit: receives `PackProgress`.
    :raises NotFoundError: the store lacks the layer.
    :raises IntegrityError: the layer on disk differs from its diff_id.
    :raises StackerError: the file cannot be written.
    """
    what = f"layer {task.diff_id}"
    path = task.directory / f"{task.diff_id.algorithm}-{task.diff_id.hex}"
    try:
        with ExitStack() as stages, path.open("wb") as file:
            blob_hash, size = _EMPTY.new_hash(), 0
            for chunk in _compressed(task, stages, what, emit):
                blob_hash.update(chunk)
                file.write(chunk)
                size += len(chunk)
    except OSError as error:
        text = f"cannot pack: {what}: {error.strerror or error}"
        raise StackerError(text, hint=full_disk_hint(error)) from error
    return LayerPacked(task.diff_id, Digest(_EMPTY.algorithm, blob_hash.hexdigest()), size, path)


def _compressed(task: PackTask, stages: ExitStack, what: str, emit: Emit) -> Iterator[bytes]:
    store, options = task.store, task.options
    record = store.layers.record(task.diff_id)
    chunks = layer_tar(store.layers.paths(task.diff_id), record, what=what)
    chunks = metered(chunks, pack_reporter(task.diff_id, record, emit))
    chunks = _in_a_thread(chunks, record, stages)
    chunks = verified(chunks, digest=task.diff_id, what=what)
    chunks = _in_a_thread(chunks, record, stages)
    return _in_a_thread(compressed(chunks, options.compression, options.level), record, stages)


def _in_a_thread(
    chunks: Iterator[bytes], record: LayerRecord, stages: ExitStack
) -> Iterator[bytes]:
    """Run a stage in a thread, unless the layer is too small for threads."""
    if record.tar_bytes < _WORTH_THREADS:
        return chunks
    return stages.enter_context(threaded(chunks))


def pack_reporter(diff_id: DiffID, record: LayerRecord, emit: Emit) -> Callable[[int], None]:
    """Return a function that counts bytes of a layer's tar and emits `PackProgress`."""
    done, throttle = 0, Throttle(record.tar_bytes)

    def report(size: int) -> None:
        nonlocal done
        done += size
        if throttle.is_due(done):
            emit(PackProgress(diff_id, done, record.tar_bytes))

    return report
