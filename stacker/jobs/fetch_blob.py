"""Fetch the blob of a layer: open or resume it, verify it, keep it, and report its progress.

A source and a descriptor come in; the blob's bytes go out, verified by size and digest.  On
request, the store keeps the blob, or the part of it that was received.  This module must not know
what the blob contains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from stacker.errors import (
    AuthenticationError,
    IntegrityError,
    LayerError,
    NetworkError,
    NotFoundError,
)
from stacker.events import Emit, LayerProgress, Throttle
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.source.protocol import ResumableSource, Source
from stacker.store.partials import Partial
from stacker.store.store import Store
from stacker.stream.compression import read_chunks
from stacker.stream.stages import HASH_BLOB, READ, StageObserver
from stacker.stream.verify import Hash, metered, verified

_WORTH_RESUMING: Final = 1 << 20  # bytes; resuming a smaller blob saves nothing
_INTERRUPTED = (NetworkError, AuthenticationError, NotFoundError)


class DamagedPartialError(Exception):
    """The partial blob of an earlier pull may be damaged; it has been removed."""


@dataclass(frozen=True, slots=True)
class BlobFetch:
    """The transfer of one blob.

    :param partial: the file with the bytes received so far, if the transfer can be resumed.
    :param copy: the file for a blob that is kept but cannot be resumed.
    :param keep: keep the blob in the store.
    """

    source: Source
    blob: Descriptor
    partial: Partial | None
    copy: Path
    keep: bool

    def chunks(
        self,
        stages: ExitStack,
        report: ProgressReporter,
        observer: StageObserver,
        offload: Callable[[Hash], Hash],
    ) -> Iterator[bytes]:
        """Return the blob's bytes, verified; count them, and keep a copy if requested.

        :param stages: closes the source's file.
        :param offload: moves a hash to the thread that runs it.
        """
        blob, what = self.blob, f"blob {self.blob.digest}"
        file = stages.enter_context(closing(self._opened()))
        chunks = metered(observer.iterate(READ, read_chunks(file)), report.count)
        chunks = verified(chunks, digest=blob.digest, size=blob.size, what=what, offload=offload)
        chunks = observer.iterate(HASH_BLOB, chunks)
        if self.partial is not None:
            return self.partial.tee(chunks, is_needed=self.keep)
        return _copied(chunks, self.copy) if self.keep else chunks

    def keep_blob(self, store: Store) -> None:
        """Move the complete blob into the store, if it is kept."""
        if self.keep:
            store.blobs.adopt(self.blob.digest, self.partial.path if self.partial else self.copy)

    def discard_partial(self) -> None:
        """Remove the partial blob: the store has the layer."""
        if self.partial and not self.keep:
            self.partial.remove()

    def _opened(self) -> BinaryIO:
        if self.partial and self.partial.size and isinstance(self.source, ResumableSource):
            return self.source.resume_blob(self.blob, self.partial)
        return self.source.open_blob(self.blob)


@contextmanager
def open_fetch(
    source: Source, blob: Descriptor, store: Store, *, copy: Path, keep: bool, resume: bool
) -> Iterator[BlobFetch]:
    """Yield the transfer of a blob; if it fails, a later pull can use the bytes received.

    :param copy: the file for a blob that is kept but cannot be resumed.
    :param keep: also keep the blob in the store's ``blobs/``.
    :param resume: resume the transfer of an earlier pull, and let a later one resume this.
    """
    if not (resume and blob.size >= _WORTH_RESUMING and isinstance(source, ResumableSource)):
        yield BlobFetch(source, blob, None, copy, keep)
        return
    with store.partials.locked(blob.digest) as partial:
        if partial and partial.size > blob.size:
            partial.clear()
        yield BlobFetch(source, blob, partial, copy, keep)


@contextmanager
def discarding_damage(fetch: BlobFetch) -> Iterator[None]:
    """Remove the partial blob after an error, unless the transfer was merely interrupted.

    :raises DamagedPartialError: the partial blob of an earlier pull may be at fault, so another
        attempt without it may succeed.
    """
    partial = fetch.partial
    try:
        yield
    except _INTERRUPTED:
        raise
    except BaseException as error:
        if partial:
            partial.remove()
            if partial.is_suspect and isinstance(error, (IntegrityError, LayerError)):
                raise DamagedPartialError from error
        raise


def _copied(chunks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    with path.open("wb", buffering=0) as file:
        for chunk in chunks:
            file.write(chunk)
            yield chunk


class _Counter(Protocol):
    @property
    def count(self) -> int: ...


class ProgressReporter:
    """Reports the progress of a layer; only the thread that unpacks it emits events.

    :param name: the layer's name in `LayerProgress`.
    :param emit: called with `LayerProgress`.
    """

    def __init__(self, blob: Descriptor, name: DiffID | Digest, emit: Emit) -> None:
        self._blob = blob
        self._name = name
        self._emit = emit
        self._throttle = Throttle()
        self._done = 0
        self._counter: _Counter | None = None

    def watch(self, counter: _Counter) -> None:
        """Report the entries that a tar reader has counted, too."""
        self._counter = counter

    def count(self, size: int) -> None:
        """Count bytes of the blob; called in the thread that reads them."""
        self._done += size

    def passing(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield a layer's ``chunks``; report progress at intervals (`Throttle`) and at the end."""
        for chunk in chunks:
            yield chunk
            if self._throttle.is_due(self._done, self._entries):
                self._report()
        self._report()

    @property
    def _entries(self) -> int:
        return self._counter.count if self._counter else 0

    def _report(self) -> None:
        digest, total = self._blob.digest, self._blob.size
        self._emit(LayerProgress(self._name, digest, self._done, total, self._entries))
