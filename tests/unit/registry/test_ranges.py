"""Parallel range requests: in order, bounded, and with a fallback to ordinary requests."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stacker.errors import IntegrityError, NetworkError
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.mediatype import OCI_LAYER
from stacker.registry.client import Client
from stacker.registry.settings import RegistryAccess, Timeouts
from stacker.source.registry_image import RegistryImage
from tests.support.registries import FakeRegistry, Handler, fake_registry

CONTENT = random.Random(0).randbytes(1_000_003)
DESCRIPTOR = Descriptor(OCI_LAYER, Digest.of(CONTENT), len(CONTENT))
PATH = f"/v2/app/blobs/{DESCRIPTOR.digest}"
PART = 100_000
WHOLE = f"bytes={{}}-{len(CONTENT) - 1}"
TIMEOUTS = Timeouts(connect=5, read=5, attempts=2, sleep=lambda _: None)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.content[PATH] = ("application/octet-stream", CONTENT)
        yield server


@contextmanager
def opened(server: FakeRegistry, count: int = 3, have: bytes = b"") -> Iterator[Any]:
    access = RegistryAccess(timeouts=TIMEOUTS, parallel_ranges=count, range_bytes=PART)
    client = Client(f"http://{server.host}", "app", access=access, credentials=None)
    source = RegistryImage(client, DESCRIPTOR, ())
    try:
        with (
            source.resume_blob(DESCRIPTOR, io.BytesIO(have))
            if have
            else source.open_blob(DESCRIPTOR)
        ) as blob:
            yield blob
    finally:
        client.close()


def fetch(server: FakeRegistry, count: int = 3, have: bytes = b"", size: int = 7777) -> bytes:
    with opened(server, count, have) as blob:
        return b"".join(iter(lambda: blob.read(size), b""))


def ranges(server: FakeRegistry) -> list[str]:
    return [asked.headers.get("range", "") for asked in server.asked]


def parts(start: int = 0) -> list[str]:
    ends = [min(at + PART, len(CONTENT)) for at in range(start, len(CONTENT), PART)]
    starts = range(start, len(CONTENT), PART)
    return [f"bytes={a}-{b - 1}" for a, b in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("count", [2, 3, 50])
@pytest.mark.parametrize("size", [1000, PART, 10 * PART])
def test_ranges_are_read_in_order(server: FakeRegistry, count: int, size: int) -> None:
    assert fetch(server, count, size=size) == CONTENT
    assert sorted(ranges(server)) == sorted(parts())


def test_late_range_is_read_in_order(server: FakeRegistry) -> None:
    others = threading.Event()

    def late(request: Handler) -> bool:
        if len(server.asked) > 4:
            others.set()
        if request.headers["Range"] == parts()[1]:
            assert others.wait(5)
        return False

    server.quirk = late
    assert fetch(server) == CONTENT


def test_read_ahead_is_bounded(server: FakeRegistry) -> None:
    six = threading.Event()

    def count(request: Handler) -> bool:
        if len(server.asked) >= 6:
            six.set()
        return False

    server.quirk = count
    with opened(server, count=3) as blob:
        assert six.wait(5)
        assert len(server.asked) == 6  # two parts read ahead for each of three requests
        assert blob.read() == CONTENT


def test_single_range_uses_ordinary_requests(server: FakeRegistry) -> None:
    assert fetch(server, count=1) == CONTENT
    assert ranges(server) == [""]


def test_small_blob_is_not_split(server: FakeRegistry) -> None:
    had = CONTENT[: len(CONTENT) - 4 * PART + 1]
    assert fetch(server, have=had) == CONTENT
    assert ranges(server) == [WHOLE.format(len(had))]


def test_rest_of_a_resumed_blob_comes_in_ranges(server: FakeRegistry) -> None:
    assert fetch(server, have=CONTENT[:12_345]) == CONTENT
    assert sorted(ranges(server)) == sorted(parts(12_345))


def without_ranges(request: Handler) -> bool:
    return request.answer(200, CONTENT)


def another_range(request: Handler) -> bool:
    return request.part(1, PART + 1, CONTENT[1 : PART + 1], len(CONTENT))


def short(request: Handler) -> bool:
    return request.part(0, PART - 1, CONTENT[: PART - 1], len(CONTENT))


@pytest.mark.parametrize("quirk", [without_ranges, another_range, short])
def test_unusable_first_range_falls_back_to_the_whole_blob(
    server: FakeRegistry, quirk: Callable[[Handler], bool]
) -> None:
    server.quirk = lambda request: request.headers.get("Range") == parts()[0] and quirk(request)
    assert fetch(server) == CONTENT
    assert ranges(server) == [parts()[0], ""]


@pytest.mark.parametrize("status", [200, 404, 416, 500])
def test_failed_range_falls_back_to_ordinary_requests(server: FakeRegistry, status: int) -> None:
    wrong = parts()[5]
    server.quirk = lambda request: (
        request.headers.get("Range") == wrong and request.answer(status, CONTENT)
    )
    assert fetch(server) == CONTENT
    (last,) = [one for one in ranges(server) if one not in parts()]
    start = int(last.removeprefix("bytes=").partition("-")[0] or 0)
    assert start <= 5 * PART
    assert last == WHOLE.format(start) or (last, start) == ("", 0)


def test_interrupted_range_resumes(server: FakeRegistry) -> None:
    left = [1]

    def drop(request: Handler) -> bool:
        if request.headers.get("Range") != parts()[3] or not left[0]:
            return False
        left[0] = 0
        start, end = request.wanted(len(CONTENT)) or (0, 0)
        request.send_response(206)
        request.send_header("Content-Length", str(end - start))
        request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(CONTENT)}")
        request.end_headers()
        request.wfile.write(CONTENT[start : start + 40_000])
        request.close_connection = True
        return True

    server.quirk = drop
    assert fetch(server) == CONTENT
    assert sorted(set(ranges(server)) - set(parts())) == [f"bytes=340000-{4 * PART - 1}"]


def test_server_that_disappears_is_an_error(server: FakeRegistry) -> None:
    server.quirk = lambda request: request.headers["Range"] != parts()[0] and request.answer(500)
    with pytest.raises(NetworkError):
        fetch(server)


def test_another_size_is_an_error(server: FakeRegistry) -> None:
    server.content[PATH] = ("x", CONTENT + b"x")
    with pytest.raises(IntegrityError, match="wrong size"):
        fetch(server)


def test_closing_early_stops_the_requests(server: FakeRegistry) -> None:
    with opened(server) as blob:
        blob.read(10)
    assert len(server.asked) <= 7
