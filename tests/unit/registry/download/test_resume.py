"""A download resumes after an interruption, in the same pull or a later one."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace

import pytest

from stacker.errors import IntegrityError, NetworkError
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.mediatype import OCI_LAYER
from stacker.registry.settings import Timeouts
from tests.support.downloads import (
    CONTENT,
    DESCRIPTOR,
    always,
    fetch,
    ranges,
    source_of,
    times,
)
from tests.support.registries import FakeRegistry, Handler


def test_whole_blob_is_downloaded(server: FakeRegistry, timeouts: Timeouts) -> None:
    assert fetch(server, timeouts) == CONTENT
    assert ranges(server) == [""]


def test_empty_blob_needs_no_request(server: FakeRegistry, timeouts: Timeouts) -> None:
    empty = Descriptor(OCI_LAYER, Digest.of(b""), 0)
    assert fetch(server, timeouts, empty) == b""
    assert not server.asked


def test_a_blob_can_be_read_like_any_file(server: FakeRegistry, timeouts: Timeouts) -> None:
    with source_of(server, timeouts) as source, source.open_blob(DESCRIPTOR) as blob:
        assert blob.readable()
        start = bytearray(10)
        count = blob.readinto(start)  # type: ignore[attr-defined]
        assert bytes(start[:count]) + blob.read() == CONTENT
        assert blob.read(1) == b""


def test_pickled_source_opens_its_own_connections(server: FakeRegistry, timeouts: Timeouts) -> None:
    with source_of(server, replace(timeouts, sleep=print)) as source:
        source.client.get(f"blobs/{DESCRIPTOR.digest}", {}, "").close()
        copy = pickle.loads(pickle.dumps(source))
        with copy.open_blob(DESCRIPTOR) as blob:
            assert blob.read() == CONTENT
        assert copy == source
        copy.client.close()


@pytest.mark.parametrize("at", [0, 1, 70_000, 399_999])
def test_dropped_connection_resumes_by_range(
    server: FakeRegistry, timeouts: Timeouts, at: int
) -> None:
    server.quirk = times(1, lambda request: request.broken(CONTENT, at))
    assert fetch(server, timeouts) == CONTENT
    assert ranges(server) == ["", f"bytes={at}-399999" if at else ""]


def test_transfer_with_progress_may_be_interrupted_often(
    server: FakeRegistry, timeouts: Timeouts, waits: list[float]
) -> None:
    def drop(request: Handler) -> bool:
        start, _ = request.wanted(len(CONTENT)) or (0, 0)
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(CONTENT) - start))
        request.send_header("Content-Range", f"bytes {start}-399999/400000")
        request.end_headers()
        request.wfile.write(CONTENT[start : start + 70_000])
        request.close_connection = True
        return True

    server.quirk = drop
    assert fetch(server, replace(timeouts, attempts=2)) == CONTENT
    assert len(server.asked) == 6
    assert waits == [0.5] * 5


def test_transfer_without_progress_ends(
    server: FakeRegistry, timeouts: Timeouts, waits: list[float]
) -> None:
    server.quirk = always(lambda request: request.broken(CONTENT, 10))
    with pytest.raises(
        NetworkError, match=f"transfer interrupted: .*{DESCRIPTOR.digest}.*; got 10 of 400"
    ):
        fetch(server, timeouts)
    assert waits == [0.5, 1, 2, 4]
    assert len(server.asked) == 5


@pytest.mark.parametrize("at", [1, 300_000])
def test_server_without_ranges_restarts_and_known_bytes_are_skipped(
    server: FakeRegistry, timeouts: Timeouts, at: int
) -> None:
    first = times(1, lambda request: request.broken(CONTENT, at))

    def ignore(request: Handler) -> bool:
        if not first(request):
            request.answer(200, CONTENT)
        return True

    server.quirk = ignore
    assert fetch(server, timeouts) == CONTENT
    assert len(server.asked) == 2


def test_changed_first_bytes_are_an_error(server: FakeRegistry, timeouts: Timeouts) -> None:
    first = times(1, lambda request: request.broken(CONTENT, 100))

    def change(request: Handler) -> bool:
        if not first(request):
            request.answer(200, b"!" + CONTENT[1:])
        return True

    server.quirk = change
    with pytest.raises(
        IntegrityError, match=r"changed during the transfer: .* the first 100 bytes"
    ):
        fetch(server, timeouts)


def test_short_range_is_followed_by_another_request(
    server: FakeRegistry, timeouts: Timeouts, waits: list[float]
) -> None:
    first = times(1, lambda request: request.broken(CONTENT, 1000))

    def shorten(request: Handler) -> bool:
        if not first(request):
            start, _ = request.wanted(len(CONTENT)) or (0, 0)
            end = min(start + 100_000, len(CONTENT))
            request.part(start, end, CONTENT[start:end], len(CONTENT))
        return True

    server.quirk = shorten
    assert fetch(server, timeouts) == CONTENT
    assert len(server.asked) == 5
    assert waits == [0.5]


def test_ranges_of_one_byte_each_are_an_error(server: FakeRegistry, timeouts: Timeouts) -> None:
    first = times(1, lambda request: request.broken(CONTENT, 1000))

    def shorten(request: Handler) -> bool:
        if not first(request):
            start, _ = request.wanted(len(CONTENT)) or (0, 0)
            request.part(start, start + 1, CONTENT[start : start + 1], len(CONTENT))
        return True

    server.quirk = shorten
    with pytest.raises(NetworkError, match="short ranges; got 1004 of 400000 bytes"):
        fetch(server, timeouts)


# Resume the download of an earlier pull


def resumed(server: FakeRegistry, timeouts: Timeouts, have: bytes) -> bytes:
    with (
        source_of(server, timeouts) as source,
        source.resume_blob(DESCRIPTOR, io.BytesIO(have)) as blob,
    ):
        return b"".join(iter(lambda: blob.read(50_000), b""))


@pytest.mark.parametrize("had", [0, 1, 70_000, 399_999])
def test_only_the_missing_bytes_are_requested(
    server: FakeRegistry, timeouts: Timeouts, had: int
) -> None:
    assert resumed(server, timeouts, CONTENT[:had]) == CONTENT
    assert ranges(server) == [f"bytes={had}-399999" if had else ""]


def test_complete_earlier_download_needs_no_request(
    server: FakeRegistry, timeouts: Timeouts
) -> None:
    assert resumed(server, timeouts, CONTENT) == CONTENT
    assert not server.asked


def test_rest_of_a_resumed_blob_may_be_interrupted(
    server: FakeRegistry, timeouts: Timeouts
) -> None:
    server.quirk = times(1, lambda request: request.part(90_000, 400_000, b"", 400_000))
    assert resumed(server, timeouts, CONTENT[:90_000]) == CONTENT
    assert ranges(server) == ["bytes=90000-399999"] * 2


def test_server_without_ranges_sends_the_whole_blob_again(
    server: FakeRegistry, timeouts: Timeouts
) -> None:
    server.quirk = always(lambda request: request.answer(200, CONTENT))
    assert resumed(server, timeouts, CONTENT[:90_000]) == CONTENT
    with pytest.raises(IntegrityError, match="changed during the transfer"):
        resumed(server, timeouts, b"?" + CONTENT[1:90_000])
