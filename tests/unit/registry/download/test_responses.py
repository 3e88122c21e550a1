"""Responses with wrong ranges, sizes or addresses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stacker.errors import IntegrityError, NetworkError, NotFoundError
from stacker.registry.settings import Timeouts
from tests.support.downloads import (
    CONTENT,
    DESCRIPTOR,
    PATH,
    always,
    fetch,
    ranges,
    times,
)
from tests.support.registries import FakeRegistry, Handler, fake_registry

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
