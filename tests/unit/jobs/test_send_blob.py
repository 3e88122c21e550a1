"""Blobs on their way to a destination: events, order, and parallel transfers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stacker.destination.open import open_destination
from stacker.errors import IntegrityError, NotFoundError
from stacker.events import BlobProgress, BlobStored, Event, Transfer
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.jobs.send_blob import SendTask, send_blob, send_blobs
from stacker.registry.settings import RegistryAccess
from tests.support.transfer import MemoryDestination, MemorySource


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


def task(
    source: MemorySource, data: bytes, destination: MemoryDestination | None = None
) -> SendTask:
    source.add(data)
    return SendTask(source, destination or MemoryDestination(), source.root())


def test_progress_ends_with_the_size(source: MemorySource) -> None:
    events: list[Event] = []
    sending = task(source, b"blob")
    stored = send_blob(sending, events.append)
    assert events == [BlobProgress(sending.blob.digest, 4, 4)]
    assert stored == BlobStored(sending.blob.digest, Transfer.SENT)


def test_blob_at_the_destination_is_not_sent(source: MemorySource) -> None:
    events: list[Event] = []
    sending = task(source, b"blob")
    send_blob(sending, events.append)
    events.clear()
    assert send_blob(sending, events.append).transfer is Transfer.PRESENT
    assert events == []


def test_embedded_blob_is_not_read_from_the_source(source: MemorySource) -> None:
    destination = MemoryDestination()
    embedded = Descriptor("x", Digest.of(b"{}"), 2, data=b"{}")
    send_blob(SendTask(source, destination, embedded), list[Event]().append)
    assert destination.writes == [("blob", b"{}")]


def test_missing_blob_is_not_found(source: MemorySource) -> None:
    gone = replace(task(source, b"blob"), blob=Descriptor("x", Digest.of(b"gone"), 4))
    with pytest.raises(NotFoundError):
        send_blob(gone, list[Event]().append)


def test_damaged_blob_is_refused(source: MemorySource) -> None:
    sending = task(source, b"blob")
    source.content[sending.blob.digest] = b"bulb"
    with pytest.raises(IntegrityError):
        send_blob(sending, list[Event]().append)


def test_sequential_destination_gets_the_blobs_in_order(source: MemorySource) -> None:
    destination = MemoryDestination()
    tasks = [task(source, data, destination) for data in (b"1", b"333", b"22")]
    events: list[Event] = []
    stored = list(send_blobs(tasks, is_sequential=True, jobs=4, emit=events.append))
    assert [data for _, data in destination.writes] == [b"1", b"333", b"22"]
    assert [event.digest for event in stored] == [each.blob.digest for each in tasks]
    assert len(events) == 3


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_blobs_are_sent_in_parallel(
    source: MemorySource,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    *,
    jobs: int,
    threads: bool,
) -> None:
    if threads:
        monkeypatch.setattr("stacker.linux.process.has_threads", lambda: True)
    else:
        request.getfixturevalue("forks")
    blobs = [bytes([number]) * (number + 1) for number in range(5)]
    events: list[Event] = []
    with open_destination(f"oci:{tmp_path}/layout", access=RegistryAccess()) as destination:
        tasks = []
        for data in blobs:
            source.add(data)
            tasks.append(SendTask(source, destination, source.root()))
        stored = list(send_blobs(tasks, is_sequential=False, jobs=jobs, emit=events.append))
    assert {event.digest for event in stored} == set(map(Digest.of, blobs))
    assert {event.transfer for event in stored} == {Transfer.SENT}
    written = {path.name for path in (tmp_path / "layout/blobs/sha256").iterdir()}
    assert written == {Digest.of(data).hex for data in blobs}
    assert len(events) == len(blobs)


def test_no_blob_starts_no_process() -> None:
    assert list(send_blobs([], is_sequential=False, jobs=2, emit=list[Event]().append)) == []
