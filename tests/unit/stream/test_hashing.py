"""Hashes in a second thread."""

from __future__ import annotations

import hashlib
import threading

from hypothesis import given
from hypothesis import strategies as st

from stacker.stream.verify import hash_thread


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=100)), max_size=60))
def test_hashes_in_a_thread_equal_inline_hashes(steps: list[tuple[int, bytes]]) -> None:
    alone = [hashlib.sha256() for _ in range(3)]
    with hash_thread(depth=4) as offload:
        beside = [offload(hashlib.sha256()) for _ in range(3)]
        for which, data in steps:
            alone[which].update(data)
            beside[which].update(data)
        assert [each.hexdigest() for each in beside] == [each.hexdigest() for each in alone]


def test_digest_is_available_at_any_time() -> None:
    alone = hashlib.sha256()
    with hash_thread() as offload:
        beside = offload(hashlib.sha256())
        for n in range(100):
            assert beside.hexdigest() == beside.hexdigest() == alone.hexdigest()
            for one in (alone, beside):
                one.update(b"%d" % n)


def test_full_queue_blocks_updates() -> None:
    slow = threading.Event()

    class Slow:
        def __init__(self) -> None:
            self.taken = 0

        def update(self, data: bytes, /) -> None:
            slow.wait(60)
            self.taken += len(data)

        def hexdigest(self) -> str:
            return str(self.taken)

    given_so_far = 0

    def give() -> None:
        nonlocal given_so_far
        for _ in range(10):
            beside.update(b"x")
            given_so_far += 1

    before = threading.active_count()
    with hash_thread(depth=2) as offload:
        beside = offload(Slow())
        giver = threading.Thread(target=give)
        giver.start()
        giver.join(0.1)
        assert given_so_far <= 3
        slow.set()
        giver.join(60)
        assert beside.hexdigest() == "10"
    assert threading.active_count() == before


def test_thread_ends_with_the_context() -> None:
    before = threading.active_count()
    with hash_thread() as offload:
        offload(hashlib.sha256()).update(b"x")
    assert threading.active_count() == before


def test_update_after_the_context_is_hashed_inline() -> None:
    with hash_thread() as offload:
        beside = offload(hashlib.sha256())
        beside.update(b"a")
    assert beside.hexdigest() == hashlib.sha256(b"a").hexdigest()
    beside.update(b"b")
    assert beside.hexdigest() == hashlib.sha256(b"ab").hexdigest()
