"""From a source to a destination, without unpacking: blobs first, then manifests, then the name.

In come a source, a destination and the document that is wanted, out comes what arrived and how.
Knows the order and the workers; how bytes are read or kept, others know.
Source: distribution-spec 1.1, "Pushing manifests": what a manifest refers to is pushed before.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stacker.destination.protocol import Destination
from stacker.errors import IntegrityError
from stacker.events import BlobProgress, BlobsFound, BlobStored, Emit, Throttle, Transfer
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.manifest import references
from stacker.jobs.pool import run_tasks
from stacker.source.protocol import Source
from stacker.stream.compression import BlobOpener

_DOCUMENTS_LIMIT = 1_000
_DEEPEST = 8  # indexes in one another
MountSources = Mapping[Digest, tuple[str, ...]]
"""Repositories, as ``HOST/REPO``, that are known to have a blob."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of a delivery.

    :param root: the manifest or index that has the name now.
    :param documents: manifests and indexes, the root among them.
    :param left: foreign layers, which stay at the addresses that their descriptors give.
    """

    root: Descriptor
    documents: int = 0
    transfers: Mapping[Transfer, int] = field(default_factory=dict, hash=False)
    left: tuple[Descriptor, ...] = ()


@dataclass(frozen=True, slots=True)
class BlobTask:
    """One blob to bring from ``source`` to ``destination``."""

    source: Source
    destination: Destination
    blob: Descriptor
    mount_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Document:
    descriptor: Descriptor
    content: bytes
    blobs: tuple[Descriptor, ...]


def deliver(
    source: Source,
    destination: Destination,
    *,
    root: Descriptor,
    jobs: int,
    emit: Emit,
    places: MountSources | None = None,
    named: bool = True,
) -> Delivered:
    """Bring the manifest or index `root`, and all that it refers to, to `destination`.

    :param jobs: blobs that travel at the same time.
    :param places: where else in the registry the blobs are.
    :param named: give it the destination's name; else it is there by its digest only.
    :param emit: called with `BlobsFound`, `BlobProgress` and `BlobStored`.
    :raises IntegrityError: something is not what its descriptor says.
    """
    *others, last = _documents(source, root)
    blobs = {blob.digest: blob for doc in (*others, last) for blob in doc.blobs}
    left = tuple(blob for blob in blobs.values() if stays(blob))
    wanted = [blob for blob in blobs.values() if not stays(blob)]
    emit(BlobsFound(tuple(wanted)))
    known = {} if places is None else places
    tasks = [BlobTask(source, destination, b, known.get(b.digest, ())) for b in wanted]
    transfers: Counter[Transfer] = Counter()
    for event in _sent(tasks, destination, jobs, emit):
        emit(event)
        transfers[event.transfer] += 1
    for document in others:
        destination.put_document(document.descriptor, document.content)
    if named:
        destination.finish(last.descriptor, last.content)
    else:
        destination.put_document(last.descriptor, last.content)
    return Delivered(last.descriptor, len(others) + 1, dict(transfers), left)


def stays(blob: Descriptor) -> bool:
    """Return whether a blob must not be sent: a foreign layer that is to be had elsewhere.

    Source: image-spec layer.md, "Non-Distributable Layers".
    """
    return blob.is_foreign and bool(blob.urls)


def send_blob(task: BlobTask, emit: Emit) -> BlobStored:
    """Bring one blob; see `Destination.put_blob`.

    :param emit: called with `BlobProgress` now and then.
    """
    throttle = Throttle(task.blob.size)

    def report(done: int) -> None:
        if throttle.is_due(done):
            emit(BlobProgress(task.blob.digest, done, task.blob.size))

    how = task.destination.put_blob(
        task.blob, _opener(task.source, task.blob), mount_from=task.mount_from, report=report
    )
    return BlobStored(task.blob.digest, how or Transfer.SENT)


def _sent(
    tasks: list[BlobTask], destination: Destination, jobs: int, emit: Emit
) -> Iterator[BlobStored]:
    if destination.is_sequential or jobs == 1 or len(tasks) == 1:
        for task in tasks:
            yield send_blob(task, emit)
        return
    if tasks:
        largest_first = sorted(tasks, key=lambda task: -task.blob.size)
        yield from run_tasks(largest_first, send_blob, jobs=jobs, emit=emit)


def _opener(source: Source, blob: Descriptor) -> BlobOpener:
    if blob.data is not None:
        content = blob.data
        return lambda: io.BytesIO(content)
    return lambda: source.open_blob(blob)


def _documents(source: Source, root: Descriptor) -> list[_Document]:
    """Return the documents below `root` and itself, each after those that it refers to."""
    found: dict[Digest, _Document] = {}

    def visit(descriptor: Descriptor, above: tuple[Digest, ...]) -> None:
        if descriptor.digest in found:
            return
        if len(above) > _DEEPEST or len(found) + len(above) >= _DOCUMENTS_LIMIT:
            raise IntegrityError(
                f"too much in an index: {root.digest}: got more than {_DOCUMENTS_LIMIT} documents "
                f"or {_DEEPEST} indexes in one another, want fewer"
            )
        content = source.document(descriptor)
        refers = references(content, f"{descriptor.digest}")
        for below in refers.documents:
            visit(below, (*above, descriptor.digest))
        found[descriptor.digest] = _Document(descriptor, content, refers.blobs)

    visit(root, ())
    return list(found.values())


class _Everywhere(Mapping[Digest, tuple[str, ...]]):
    """Says of every blob that it is at one place; see `MountSources`."""

    def __init__(self, place: str) -> None:
        self._places = (place,)

    def __getitem__(self, digest: Digest) -> tuple[str, ...]:
        return self._places

    def __iter__(self) -> Iterator[Digest]:
        return iter(())

    def __len__(self) -> int:
        return 0


def mounted_from(place: str) -> MountSources:
    """Return that every blob asked for is at `place`, the ``HOST/REPO`` it comes from."""
    return _Everywhere(place)
