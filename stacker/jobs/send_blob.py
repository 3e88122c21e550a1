"""Send the blobs of an image to a destination, several at once.

A `SendTask` for each blob comes in; a `BlobStored` for each blob that the destination has goes out.
This module must not read manifests or decide which blobs an image needs.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import StackerError, path_of
from stacker.events import BlobProgress, BlobStored, Throttle, Transfer
from stacker.jobs.pool import run_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.destination.protocol import Destination
    from stacker.events import Emit
    from stacker.image.descriptor import Descriptor
    from stacker.source.protocol import Source
    from stacker.stream.compression import BlobOpener


@dataclass(frozen=True, slots=True)
class SendTask:
    """One blob to send; a plain value that travels between processes.

    :param mount_from: repositories, as ``HOST/REPO``, that are known to have the blob.
    """

    source: Source
    destination: Destination
    blob: Descriptor
    mount_from: tuple[str, ...] = ()


def send_blobs(
    tasks: Sequence[SendTask], *, is_sequential: bool, jobs: int, emit: Emit
) -> Iterator[BlobStored]:
    """Yield an event for each blob as soon as the destination has it.

    :param is_sequential: send one blob after the other, in this process.
    :param jobs: the number of blobs to send at the same time.
    :param emit: receives `BlobProgress`.
    :raises IntegrityError: a blob differs from its descriptor.
    """
    if is_sequential or jobs == 1 or len(tasks) == 1:
        for task in tasks:
            yield send_blob(task, emit)
    elif tasks:
        largest_first = sorted(tasks, key=lambda task: -task.blob.size)
        yield from run_tasks(
            largest_first,
            send_blob,
            jobs=jobs,
            emit=emit,
            what=lambda task: f"blob {task.blob.digest}",
        )


def send_blob(task: SendTask, emit: Emit) -> BlobStored:
    """Send one blob, unless the destination has it or can mount it.

    :param emit: receives `BlobProgress`.
    :raises IntegrityError: the blob differs from its descriptor.
    :raises StackerError: the destination cannot be written.
    """
    blob = task.blob
    throttle = Throttle(blob.size)

    def report(done: int) -> None:
        if throttle.is_due(done):
            emit(BlobProgress(blob.digest, done, blob.size))

    try:
        transfer = task.destination.put_blob(
            blob, _opener(task.source, blob), mount_from=task.mount_from, report=report
        )
    except OSError as error:
        where = f" {path}:" if (path := path_of(error)) else ""
        raise StackerError(f"cannot send: blob {blob.digest}:{where} {error.strerror}") from error
    return BlobStored(blob.digest, transfer or Transfer.SENT)


def _opener(source: Source, blob: Descriptor) -> BlobOpener:
    """Return the function that opens a blob; a descriptor may embed the bytes."""
    if (content := blob.data) is not None:
        return lambda: io.BytesIO(content)
    return lambda: source.open_blob(blob)
