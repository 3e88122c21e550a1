"""Servers that are silent, slow or busy."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from stacker.errors import NetworkError
from stacker.registry.settings import Timeouts
from tests.support.downloads import CONTENT, always, fetch, ranges, times
from tests.support.registries import FakeRegistry, Handler


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
