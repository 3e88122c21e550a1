"""Fetching a blob: resumed, verified, kept or discarded, and reported."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from stacker.errors import (
    AuthenticationError,
    IntegrityError,
    LayerError,
    NetworkError,
    NotFoundError,
)
from stacker.events import Event, LayerProgress
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.jobs.fetch_blob import (
    BlobFetch,
    DamagedPartialError,
    ProgressReporter,
    discarding_damage,
    open_fetch,
)
from stacker.store.store import Store
from stacker.stream.compression import Readable
from stacker.stream.stages import HASH_BLOB, NO_OBSERVER, READ, StageClock
from stacker.stream.verify import Hash

LARGE = random.Random(1).randbytes(3 << 20)
SMALL = b"small"


@dataclass
class PlainSource:
    """A source that opens the blob from its first byte only."""

    content: bytes
    names: tuple[str, ...] = ()
    opened: list[BinaryIO] = field(default_factory=list)

    def root(self) -> Descriptor:
        raise AssertionError("a fetch needs no root")

    def document(self, descriptor: Descriptor) -> bytes:
        raise AssertionError(f"a fetch needs no document: {descriptor}")

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        del descriptor
        self.opened.append(io.BytesIO(self.content))
        return self.opened[-1]


@dataclass
class ResumingSource(PlainSource):
    """A source that resumes a blob after its first bytes."""

    resumed: list[int] = field(default_factory=list)

    def resume_blob(self, descriptor: Descriptor, have: Readable) -> BinaryIO:
        del descriptor
        start = have.read(len(self.content))
        self.resumed.append(len(start))
        return io.BytesIO(start + self.content[len(start) :])


def descriptor(content: bytes) -> Descriptor:
    return Descriptor("application/x", Digest.of(content), len(content))


def opened(
    store: Store, source: PlainSource, *, keep: bool = False, resume: bool = True
) -> AbstractContextManager[BlobFetch]:
    """Return the fetch of the source's content."""
    blob = descriptor(source.content)
    return open_fetch(source, blob, store, copy=store.root / "copy", keep=keep, resume=resume)


def in_place(running: Hash) -> Hash:
    return running


def progress(blob: Descriptor) -> ProgressReporter:
    return ProgressReporter(blob, blob.digest, lambda _: None)


def read(fetch: BlobFetch) -> bytes:
    with ExitStack() as stages:
        return b"".join(fetch.chunks(stages, progress(fetch.blob), NO_OBSERVER, in_place))


def partials(store: Store) -> list[Path]:
    return sorted((store.root / "partial").glob("*"))


@pytest.fixture
def earlier(store: Store) -> bytes:
    """Leave the first MiB of `LARGE` as the partial blob of an earlier pull."""
    start = LARGE[: 1 << 20]
    with store.partials.locked(Digest.of(LARGE)) as partial:
        assert partial is not None
        partial.path.write_bytes(start)
    return start


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", [PlainSource, ResumingSource])
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_only_a_kept_blob_stays_after_the_layer_is_committed(
    store: Store, content: bytes, kind: type[PlainSource], resume: bool, keep: bool
) -> None:
    blob, source = descriptor(content), kind(content)
    copy = store.root / "copy"
    with open_fetch(source, blob, store, copy=copy, keep=keep, resume=resume) as fetch:
        assert read(fetch) == content
        fetch.keep_blob(store)
        fetch.discard_partial()
    assert store.blobs.has(blob.digest) is keep
    if keep:
        assert store.blobs.path(blob.digest).read_bytes() == content
    assert not copy.exists()
    assert not partials(store)
    assert all(file.closed for file in source.opened)


@pytest.mark.parametrize(
    ("content", "kind", "resume"),
    [(SMALL, ResumingSource, True), (LARGE, PlainSource, True), (LARGE, ResumingSource, False)],
    ids=["small blob", "source that cannot resume", "without resume"],
)
def test_no_partial_blob_is_written_if_resuming_is_useless(
    store: Store, content: bytes, kind: type[PlainSource], resume: bool
) -> None:
    blob, copy = descriptor(content), store.root / "copy"
    with open_fetch(kind(content), blob, store, copy=copy, keep=False, resume=resume) as fetch:
        assert fetch.partial is None
        assert read(fetch) == content
    assert not partials(store)
    assert not copy.exists()


def test_partial_blob_of_an_earlier_pull_is_resumed(store: Store, earlier: bytes) -> None:
    source = ResumingSource(LARGE)
    with opened(store, source, keep=True) as fetch:
        assert read(fetch) == LARGE
        fetch.keep_blob(store)
    assert source.resumed == [len(earlier)]
    assert not source.opened
    assert store.blobs.path(Digest.of(LARGE)).read_bytes() == LARGE


def test_partial_blob_that_is_too_large_is_truncated(store: Store) -> None:
    digest = Digest.of(LARGE)
    with store.partials.locked(digest) as partial:
        assert partial is not None
        partial.path.write_bytes(LARGE + b"x")
    source = ResumingSource(LARGE)
    with opened(store, source) as fetch:
        assert read(fetch) == LARGE
    assert not source.resumed


def test_partial_blob_that_another_process_writes_is_not_used(store: Store) -> None:
    source = ResumingSource(LARGE)
    with (
        store.partials.locked(Digest.of(LARGE)),
        opened(store, source, keep=True) as fetch,
    ):
        assert fetch.partial is None
        assert read(fetch) == LARGE
        fetch.keep_blob(store)
    assert store.blobs.has(Digest.of(LARGE))


@pytest.mark.parametrize("served", [LARGE[:-1], LARGE + b"x", b"x" + LARGE[1:]])
@pytest.mark.parametrize("kind", [PlainSource, ResumingSource])
def test_wrong_bytes_are_refused(store: Store, kind: type[PlainSource], served: bytes) -> None:
    with (
        open_fetch(
            kind(served), descriptor(LARGE), store, copy=store.root / "c", keep=True, resume=True
        ) as fetch,
        pytest.raises(IntegrityError),
        discarding_damage(fetch),
    ):
        read(fetch)
    assert not store.blobs.has(Digest.of(LARGE))
    assert not partials(store)


@pytest.mark.parametrize("error", [NetworkError, AuthenticationError, NotFoundError])
def test_interruption_keeps_the_partial_blob(
    store: Store, earlier: bytes, error: type[Exception]
) -> None:
    with (
        opened(store, ResumingSource(LARGE)) as fetch,
        pytest.raises(error),
        discarding_damage(fetch),
    ):
        raise error("interrupted")
    (path,) = partials(store)
    assert path.read_bytes() == earlier


@pytest.mark.parametrize("error", [IntegrityError("wrong"), LayerError("malformed")])
def test_damage_that_an_earlier_pull_may_have_caused_is_removed_and_reported(
    store: Store, earlier: bytes, error: Exception
) -> None:
    assert earlier
    with (
        opened(store, ResumingSource(LARGE)) as fetch,
        pytest.raises(DamagedPartialError),
        discarding_damage(fetch),
    ):
        raise error
    assert not partials(store)


def test_error_of_a_new_download_is_raised_unchanged(store: Store) -> None:
    error = IntegrityError("wrong")
    with (
        opened(store, ResumingSource(LARGE)) as fetch,
        pytest.raises(IntegrityError) as caught,
        discarding_damage(fetch),
    ):
        raise error
    assert caught.value is error


def test_error_after_a_complete_blob_does_not_blame_the_partial_one(
    store: Store, earlier: bytes
) -> None:
    assert earlier
    with (
        opened(store, ResumingSource(LARGE)) as fetch,
    ):
        read(fetch)  # the digest is right: the layer itself is malformed
        with pytest.raises(LayerError), discarding_damage(fetch):
            raise LayerError("malformed")
    assert not partials(store)


def test_reading_and_hashing_are_observed(store: Store) -> None:
    clock, blob = StageClock(), descriptor(LARGE)
    fetch = BlobFetch(PlainSource(LARGE), blob, None, store.root / "copy", keep=False)
    with ExitStack() as stages:
        assert b"".join(fetch.chunks(stages, progress(blob), clock, in_place)) == LARGE
    assert clock.seconds[READ] > 0
    assert clock.seconds[HASH_BLOB] > 0


def test_progress_counts_blob_bytes_and_entries() -> None:
    blob, events = descriptor(LARGE), list[Event]()
    reporter = ProgressReporter(blob, DiffID.of(b"layer"), events.append)
    counter = SimpleNamespace(count=0)
    reporter.watch(counter)

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            reporter.count(1 << 20)
            counter.count += 7
            yield b"uncompressed"

    assert list(reporter.passing(chunks())) == [b"uncompressed"] * 3
    found = [event for event in events if isinstance(event, LayerProgress)]
    assert found == events
    assert [event.done for event in found] == [1 << 20, 2 << 20, 3 << 20, 3 << 20]
    assert [event.entries for event in found] == [7, 14, 21, 21]
    assert {(event.name, event.blob, event.total) for event in found} == {
        (DiffID.of(b"layer"), blob.digest, blob.size)
    }


def test_progress_is_reported_once_for_a_small_layer() -> None:
    blob, events = descriptor(SMALL), list[Event]()
    reporter = ProgressReporter(blob, blob.digest, events.append)
    assert list(reporter.passing(iter([b"a", b"b"]))) == [b"a", b"b"]
    assert events == [LayerProgress(blob.digest, blob.digest, 0, blob.size, 0)]
