"""The queue between two threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from stacker.errors import IntegrityError, LayerError
from stacker.stream.pipe import threaded


def test_chunks_keep_their_order() -> None:
    chunks = [b"%d" % n for n in range(1000)]
    with threaded(iter(chunks)) as got:
        assert list(got) == chunks


def test_producer_has_its_own_thread_which_ends() -> None:
    names = []

    def source() -> Iterator[bytes]:
        names.append(threading.current_thread())
        yield b"x"

    with threaded(source()) as got:
        assert list(got) == [b"x"]
    assert names[0] is not threading.current_thread()
    assert not names[0].is_alive()


@pytest.mark.parametrize(
    "error", [IntegrityError("wrong"), LayerError("bad"), MemoryError(), OSError(5)]
)
def test_producer_error_follows_its_last_chunk(error: Exception) -> None:
    def source() -> Iterator[bytes]:
        yield b"1"
        yield b"2"
        raise error

    with threaded(source()) as chunks:
        assert (next(chunks), next(chunks)) == (b"1", b"2")
        with pytest.raises(type(error)) as caught:
            next(chunks)
    assert caught.value is error


def test_stream_ends_after_an_error() -> None:
    def source() -> Iterator[bytes]:
        yield b"1"
        raise LayerError("bad")

    with threaded(source()) as chunks:
        assert next(chunks) == b"1"
        with pytest.raises(LayerError):
            next(chunks)
        assert list(chunks) == []


def test_producer_waits_while_the_queue_is_full() -> None:
    made = 0
    ahead = threading.Event()

    def source() -> Iterator[bytes]:
        nonlocal made
        for _ in range(1000):
            made += 1
            if made == 2:  # the producer makes no chunk before the consumer takes one
                ahead.set()
            yield b"x"

    with threaded(source(), depth=2) as chunks:
        assert ahead.wait(60)
        for taken in range(100):
            assert made <= taken + 2
            next(chunks)
    assert made < 1000


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_end_of_the_context_closes_the_producer(taken: int) -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    before = threading.active_count()
    with threaded(endless(), depth=2) as chunks:
        for _ in range(taken):
            next(chunks)
    assert closed.is_set()
    assert threading.active_count() == before


def test_error_in_the_context_stops_the_producer() -> None:
    before = threading.active_count()

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x"

    source = endless()
    with pytest.raises(ZeroDivisionError), threaded(source) as chunks:
        assert 1 // (len(next(chunks)) - 1)
    assert threading.active_count() == before
    assert next(source, None) is None, "the source has been closed"


def test_nested_stages_stop_together() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x"

    before = threading.active_count()
    with threaded(endless()) as first, threaded(first) as second, threaded(second) as third:
        assert next(third) == b"x"
    assert threading.active_count() == before


def test_error_passes_through_nested_stages() -> None:
    def source() -> Iterator[bytes]:
        yield from [b"1"] * 50
        raise IntegrityError("wrong digest")

    with threaded(source(), depth=1) as first, threaded(first, depth=1) as second:
        assert [next(second) for _ in range(50)] == [b"1"] * 50
        with pytest.raises(IntegrityError, match="wrong digest"):
            next(second)


def test_thread_that_the_kernel_refuses_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(OSError, match="cannot start a thread"), threaded(iter([b"a"])):
        pass
