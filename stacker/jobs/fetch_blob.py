"""How a layer's blob arrives: opened or gone on with, checked, kept, and reported.

In: a source and a descriptor.  Out: the blob's bytes, checked against size and digest while they
come; in the store what is to stay of them; and events that say how far it is.  Knows nothing of
what the bytes unpack to.
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

_WORTH_RESUMING: Final = 1 << 20  # bytes; what is smaller comes again as fast
_BROKEN_OFF = (NetworkError, AuthenticationError, NotFoundError)


class DamagedPartialError(Exception):
    """What an earlier pull left of the blob may be at fault; it is gone."""


@dataclass(frozen=True, slots=True)
class BlobFetch:
    """One blob on its way.

    :param partial: the file that holds what has come of it, if there is one.
    :param copy: where it is written to without one, when ``keep`` asks for it.
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
        """Give the blob's bytes, checked against its descriptor, kept and reported as wished.

        :param offload: moves the blob's hash to where it is to run.
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
        """Put the whole blob, of which the layer is about to be there, where it is to stay."""
        if self.keep:
            store.blobs.adopt(self.blob.digest, self.partial.path if self.partial else self.copy)

    def discard_partial(self) -> None:
        """Leave nothing that a later pull would go on with: the layer is there."""
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
    """Let a blob arrive; what has come of it when the context ends stays for a later pull.

    :param copy: a path of ours, for a blob that is kept but not resumed.
    :param keep: the blob is to be in the store's ``blobs/``, too.
    :param resume: go on with what an earlier pull left, and leave the like.
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
    """Leave a partial blob only where the source is at fault, and time may help.

    :raises DamagedPartialError: what an earlier pull left may be; without it there is hope.
    """
    partial = fetch.partial
    try:
        yield
    except _BROKEN_OFF:
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
    """Tells how far a layer has come; speaks from the thread that unpacks, and no other.

    :param name: the layer's, as in :class:`LayerProgress`, which ``emit`` is called with.
    :param counter: whoever knows how many entries there were.
    """

    def __init__(self, blob: Descriptor, name: DiffID | Digest, emit: Emit) -> None:
        self._blob = blob
        self._name = name
        self._emit = emit
        self._throttle = Throttle()
        self._done = 0
        self.counter: _Counter | None = None

    def count(self, size: int) -> None:
        """Count bytes of the blob, in whichever thread they are read."""
        self._done += size

    def passing(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass a layer's ``chunks`` on, and tell now and then, and at the end."""
        for chunk in chunks:
            yield chunk
            if self._throttle.is_due(self._done, self._entries):
                self._report()
        self._report()

    @property
    def _entries(self) -> int:
        return self.counter.count if self.counter else 0

    def _report(self) -> None:
        digest, total = self._blob.digest, self._blob.size
        self._emit(LayerProgress(self._name, digest, self._done, total, self._entries))
