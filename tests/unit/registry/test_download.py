"""Downloads of blobs: each server fault ends in a recovery or in a clear error, and none hangs."""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from stacker.errors import IntegrityError, NetworkError, NotFoundError
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.mediatype import OCI_LAYER
from stacker.registry.client import Client
from stacker.registry.settings import RegistryAccess, Timeouts
from stacker.source.registry_image import RegistryImage
from tests.support.registries import FakeRegistry, Handler, fake_registry

CONTENT = random.Random(0).randbytes(400_000)
DESCRIPTOR = Descriptor(OCI_LAYER, Digest.of(CONTENT), len(CONTENT))
PATH = f"/v2/app/blobs/{DESCRIPTOR.digest}"
Quirk = Callable[[Handler], bool]


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.content[PATH] = ("application/octet-stream", CONTENT)
        yield server


@pytest.fixture
def waits() -> list[float]:
    """Return the seconds of every requested sleep; no test sleeps."""
    return []


@pytest.fixture
def timeouts(waits: list[float]) -> Timeouts:
    return Timeouts(connect=5, read=5, sleep=waits.append)


@contextmanager
def source_of(server: FakeRegistry, timeouts: Timeouts) -> Iterator[RegistryImage]:
    """Yield a source that has only a client."""
    client = Client(
        f"http://{server.host}", "app", access=RegistryAccess(timeouts=timeouts), credentials=None
    )
    try:
        yield RegistryImage(client, DESCRIPTOR, ())
    finally:
        client.close()


def fetch(server: FakeRegistry, timeouts: Timeouts, descriptor: Descriptor = DESCRIPTOR) -> bytes:
    with source_of(server, timeouts) as source, source.open_blob(descriptor) as blob:
        return b"".join(iter(lambda: blob.read(50_000), b""))


def times(count: int, quirk: Callable[[Handler], Any]) -> Quirk:
    """Return a quirk for the first `count` requests."""
    left = [count]

    def limited(request: Handler) -> bool:
        left[0] -= 1
        if left[0] < 0:
            return False
        quirk(request)
        return True

    return limited


def always(quirk: Callable[[Handler], Any]) -> Quirk:
    return times(1000, quirk)


def ranges(server: FakeRegistry) -> list[str]:
    return [asked.headers.get("range", "") for asked in server.asked]


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


WRONG_RANGES = {
    "another start": lambda r: r.part(5, 400_000, CONTENT[5:], 400_000),
    "beyond the end": lambda r: r.answer(206, b"x", {"Content-Range": "bytes 1000-400000/*"}),
    "no range": lambda r: r.answer(206, CONTENT[1000:]),
    "nonsense": lambda r: r.answer(206, b"x", {"Content-Range": "bytes 1000-x/400000"}),
    "backwards": lambda r: r.answer(206, b"x", {"Content-Range": "bytes 1000-999/400000"}),
}


@pytest.mark.parametrize("answer", WRONG_RANGES.values(), ids=WRONG_RANGES)
def test_wrong_range_ends_range_requests(
    server: FakeRegistry, timeouts: Timeouts, answer: Callable[[Handler], None]
) -> None:
    first = times(1, lambda request: request.broken(CONTENT, 1000))
    second = times(1, answer)
    server.quirk = lambda request: first(request) or second(request)
    assert fetch(server, timeouts) == CONTENT
    assert ranges(server) == ["", "bytes=1000-399999", ""]


def test_unrequested_range_is_an_error(server: FakeRegistry, timeouts: Timeouts) -> None:
    server.quirk = always(lambda request: request.part(0, 10, CONTENT[:10], 400_000))
    with pytest.raises(NetworkError, match="another range than requested"):
        fetch(server, timeouts)


WRONG_SIZES: dict[str, tuple[Callable[[Handler], Any], str]] = {
    "longer": (
        lambda r: r.answer(200, CONTENT + b"x"),
        "got 400001 bytes from the registry, want 400000",
    ),
    "shorter": (
        lambda r: r.answer(200, CONTENT[:-1]),
        "got 399999 bytes from the registry, want 400000",
    ),
    "empty": (lambda r: r.answer(200), "got 0 bytes from the registry, want 400000"),
}


@pytest.mark.parametrize(("answer", "words"), WRONG_SIZES.values(), ids=WRONG_SIZES)
def test_wrong_content_length_is_an_error_before_reading(
    server: FakeRegistry, timeouts: Timeouts, answer: Callable[[Handler], Any], words: str
) -> None:
    server.quirk = always(answer)
    with pytest.raises(IntegrityError, match=words):
        fetch(server, timeouts)
    assert len(server.asked) == 1


def test_range_of_another_total_size_is_an_error(server: FakeRegistry, timeouts: Timeouts) -> None:
    first = times(1, lambda request: request.broken(CONTENT, 1000))
    server.quirk = lambda request: (
        first(request) or (request.part(1000, 400_000, CONTENT[1000:], 400_001))
    )
    with pytest.raises(IntegrityError, match="got 400001 bytes from the registry, want 400000"):
        fetch(server, timeouts)


def test_blob_that_shrank_is_an_integrity_error(server: FakeRegistry, timeouts: Timeouts) -> None:
    first = times(1, lambda request: request.broken(CONTENT, 1000))
    server.quirk = lambda request: first(request) or request.answer(416)
    with pytest.raises(IntegrityError, match=r"truncated: .*got status 416"):
        fetch(server, timeouts)


def chunked(request: Handler, data: bytes) -> None:
    """Respond without a Content-Length."""
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for start in range(0, len(data), 100_000):
        part = data[start : start + 100_000]
        request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
    request.wfile.write(b"0\r\n\r\n")


def test_content_length_is_optional(server: FakeRegistry, timeouts: Timeouts) -> None:
    server.quirk = always(lambda request: chunked(request, CONTENT))
    assert fetch(server, timeouts) == CONTENT


def test_absurd_content_length_is_ignored(server: FakeRegistry, timeouts: Timeouts) -> None:
    def boasting(request: Handler) -> None:
        request.answer(200, CONTENT, {"Content-Length": "9" * 5000})
        request.close_connection = True

    server.quirk = always(boasting)
    assert fetch(server, timeouts) == CONTENT


def test_nothing_is_read_beyond_the_end(server: FakeRegistry, timeouts: Timeouts) -> None:
    server.quirk = always(lambda request: chunked(request, CONTENT + b"more"))
    assert fetch(server, timeouts) == CONTENT


def test_early_end_is_an_interruption(server: FakeRegistry, timeouts: Timeouts) -> None:
    server.quirk = times(1, lambda request: chunked(request, CONTENT[:1000]))
    assert fetch(server, timeouts) == CONTENT
    assert ranges(server) == ["", "bytes=1000-399999"]


def test_changed_earlier_bytes_fail_the_digest_check(
    server: FakeRegistry, timeouts: Timeouts
) -> None:
    server.content[PATH] = ("", CONTENT[::-1])
    got = fetch(server, timeouts)
    assert hashlib.sha256(got).hexdigest() != DESCRIPTOR.digest.hex


def test_transfer_compression_is_not_accepted(server: FakeRegistry, timeouts: Timeouts) -> None:
    fetch(server, timeouts)
    assert server.asked[0].headers["accept-encoding"] == "identity"


def test_silent_server_times_out_and_is_retried(server: FakeRegistry, timeouts: Timeouts) -> None:
    done = threading.Event()

    def stall(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        request.wfile.write(CONTENT[:10])
        request.wfile.flush()
        done.wait(30)
        request.close_connection = True

    server.quirk = times(1, stall)
    assert fetch(server, replace(timeouts, read=0.5)) == CONTENT
    assert ranges(server) == ["", "bytes=10-399999"]
    done.set()


def test_slow_server_is_disconnected_and_retried(server: FakeRegistry, timeouts: Timeouts) -> None:
    done = threading.Event()

    def drip(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        for byte in CONTENT:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            if done.wait(0.005):
                break
        request.close_connection = True

    server.quirk = times(1, drip)
    try:
        assert fetch(server, replace(timeouts, rate_window=0.2, min_rate=2000)) == CONTENT
    finally:
        done.set()
    assert len(server.asked) == 2


SLOW_HEADS = {
    "headers": b"HTTP/1.1 200 OK\r\nX: ",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=",
}


@pytest.mark.parametrize("head", SLOW_HEADS.values(), ids=SLOW_HEADS)
def test_endless_headers_time_out_and_are_retried(
    server: FakeRegistry, timeouts: Timeouts, head: bytes
) -> None:
    done = threading.Event()

    def drip(request: Handler) -> None:
        request.wfile.write(head)
        while not done.wait(0.005):
            request.wfile.write(b"x")
            request.wfile.flush()
        request.close_connection = True

    server.quirk = times(1, drip)
    try:
        assert fetch(server, replace(timeouts, rate_window=0.2)) == CONTENT
    finally:
        done.set()
    assert len(server.asked) == 2


def test_a_server_that_stays_slow_is_an_error(server: FakeRegistry, timeouts: Timeouts) -> None:
    done = threading.Event()

    def stall(request: Handler) -> bool:
        done.wait(30)
        request.close_connection = True
        return True

    server.quirk = stall
    try:
        with pytest.raises(NetworkError, match="no data arrived in time"):
            fetch(server, replace(timeouts, read=0.05, attempts=2))
    finally:
        done.set()


LONG_AGO = "Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "asked",
    [
        *(("7", 7), ("0", 0), (LONG_AGO, 0), ("soon", 0.5)),
        # An impossible value is ignored.
        *(("-7", 0.5), ("9" * 5000, 0.5), ("Fri, 31 Dec 99999999999 23:59:59 GMT", 0.5)),
    ],
    ids=lambda asked: asked[0][:40],
)
def test_retry_after_is_obeyed(
    server: FakeRegistry,
    timeouts: Timeouts,
    waits: list[float],
    status: int,
    asked: tuple[str, float],
) -> None:
    after, waited = asked
    server.quirk = times(1, lambda request: request.answer(status, b"", {"Retry-After": after}))
    assert fetch(server, timeouts) == CONTENT
    assert waits == [waited]


def test_retry_after_may_be_a_date(
    server: FakeRegistry, timeouts: Timeouts, waits: list[float]
) -> None:
    date = formatdate(time.time() + 60, usegmt=True)
    server.quirk = times(1, lambda request: request.answer(503, b"", {"Retry-After": date}))
    assert fetch(server, timeouts) == CONTENT
    assert 50 < waits[0] <= 60


def test_retry_after_over_the_limit_is_an_error(
    server: FakeRegistry, timeouts: Timeouts, waits: list[float]
) -> None:
    server.quirk = always(lambda request: request.answer(429, b"", {"Retry-After": "3600"}))
    with pytest.raises(NetworkError, match="got status 429 with a Retry-After of 3600 s") as it:
        fetch(server, timeouts)
    assert it.value.hint == "try again later"
    assert waits == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_stays_busy_is_an_error(
    server: FakeRegistry, timeouts: Timeouts, waits: list[float], status: int
) -> None:
    server.quirk = always(lambda request: request.answer(status))
    with pytest.raises(NetworkError, match=f"registry busy: .*/app: got status {status} 5 times"):
        fetch(server, timeouts)
    assert waits == [0.5, 1, 2, 4]


def test_missing_blob_is_not_found(server: FakeRegistry, timeouts: Timeouts) -> None:
    del server.content[PATH]
    with pytest.raises(NotFoundError, match=f"{DESCRIPTOR.digest}: got status 404"):
        fetch(server, timeouts)
    foreign = replace(
        DESCRIPTOR,
        media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        urls=("https://elsewhere.example/layer",),
    )
    with pytest.raises(NotFoundError) as caught:
        fetch(server, timeouts, foreign)
    assert "elsewhere.example" in (caught.value.hint or "")


def test_redirect_is_followed_for_every_range(server: FakeRegistry, timeouts: Timeouts) -> None:
    with fake_registry() as other:
        other.content["/there?signature=s"] = ("", CONTENT)
        other.quirk = times(1, lambda request: request.broken(CONTENT, 1000))
        there = {"Location": f"http://{other.host}/there?signature=s"}
        server.quirk = always(lambda request: request.answer(307, b"", there))
        assert fetch(server, timeouts) == CONTENT
        assert ranges(other) == ["", "bytes=1000-399999"]
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_may_be_relative(server: FakeRegistry, timeouts: Timeouts, status: int) -> None:
    server.content["/v2/app/there"] = ("", CONTENT)
    server.quirk = times(1, lambda r: r.answer(status, b"", {"Location": "../there"}))
    assert fetch(server, timeouts) == CONTENT


def test_redirect_loop_is_an_error(server: FakeRegistry, timeouts: Timeouts) -> None:
    server.quirk = always(lambda request: request.answer(302, b"", {"Location": PATH}))
    with pytest.raises(NetworkError, match=r"redirect loop: .*/app: got more than 5"):
        fetch(server, timeouts)
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "place", ["http://registry.example/x", "file:///etc/passwd", "ftp://h/", "http://[x/"]
)
def test_unsafe_redirect_is_refused(server: FakeRegistry, timeouts: Timeouts, place: str) -> None:
    server.quirk = always(lambda request: request.answer(302, b"", {"Location": place}))
    with pytest.raises(NetworkError, match=r"refused to follow|malformed"):
        fetch(server, timeouts)


def test_refusal_after_a_redirect_does_not_blame_credentials(
    server: FakeRegistry, timeouts: Timeouts
) -> None:
    with fake_registry() as other:
        other.quirk = always(lambda request: request.answer(403))
        there = {"Location": f"http://{other.host}/there"}
        server.quirk = always(lambda request: request.answer(302, b"", there))
        with pytest.raises(NetworkError, match=r"refused after a redirect: .*got status 403"):
            fetch(server, timeouts)


def test_refused_connection_is_reported_without_retry(
    timeouts: Timeouts, waits: list[float]
) -> None:
    with fake_registry() as gone:
        pass
    with pytest.raises(
        NetworkError, match=r"cannot reach the registry: .*/app: Connection refused"
    ):
        fetch(gone, timeouts)
    assert waits == []


# Resuming an earlier download


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
