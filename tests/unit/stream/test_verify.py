"""A stream is what its digest and size say, or an error at the first byte too many or the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.errors import IntegrityError, LayerError
from stacker.image.digest import DiffID, Digest
from stacker.stream.verify import bounded, metered, verified

CHUNKS = st.lists(st.binary(max_size=20))


@given(CHUNKS)
def test_a_stream_that_is_right_passes_unchanged(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    passed = verified(iter(chunks), digest=Digest.of(data), size=len(data), what="blob x")
    assert list(passed) == chunks


@given(CHUNKS, st.integers(-3, 3), st.booleans())
def test_a_wrong_size_or_digest_is_an_error_by_the_end(
    chunks: list[bytes], off: int, changed: bool
) -> None:
    data = b"".join(chunks)
    digest = DiffID.of(data + b"x" if changed else data)
    size = max(0, len(data) + off)
    stream = verified(iter(chunks), digest=digest, size=size, what="blob x")
    if size != len(data) or changed:
        with pytest.raises(
            IntegrityError, match=r"^(wrong size|wrong digest|truncated): blob x: got"
        ):
            list(stream)
    else:
        assert b"".join(stream) == data


def test_a_digest_of_another_algorithm_is_checked_by_it() -> None:
    import hashlib

    digest = Digest("sha512", hashlib.sha512(b"a").hexdigest())
    assert list(verified(iter([b"a"]), digest=digest, what="blob")) == [b"a"]
    with pytest.raises(IntegrityError, match="wrong digest"):
        list(verified(iter([b"b"]), digest=digest, what="blob"))


def test_bytes_over_the_size_are_not_passed_on_and_not_read_past() -> None:
    taken = []

    def source() -> Iterator[bytes]:
        for chunk in (b"123", b"456", b"789", b"never"):
            taken.append(chunk)
            yield chunk

    stream = verified(source(), digest=Digest.of(b"12345"), size=5, what="blob")
    assert next(stream) == b"123"
    with pytest.raises(IntegrityError, match="got more than 5 bytes, want 5"):
        next(stream)
    assert taken == [b"123", b"456"]


def test_without_a_size_only_the_digest_counts() -> None:
    assert b"".join(verified(iter([b"a", b"b"]), digest=Digest.of(b"ab"), what="layer")) == b"ab"
    with pytest.raises(IntegrityError, match="wrong digest"):
        list(verified(iter([]), digest=Digest.of(b"ab"), what="layer"))


def test_a_bound_is_exact_and_names_the_flag() -> None:
    assert list(bounded(iter([b"12", b"3"]), limit=3, what="layer", flag="--max-x")) == [
        b"12",
        b"3",
    ]
    with pytest.raises(LayerError, match="more than 3 bytes uncompressed") as caught:
        list(bounded(iter([b"12", b"34"]), limit=3, what="layer", flag="--max-x"))
    assert "--max-x" in (caught.value.hint or "")


def test_a_meter_counts_every_chunk() -> None:
    counted: list[int] = []
    assert list(metered(iter([b"12", b"", b"345"]), counted.append)) == [b"12", b"", b"345"]
    assert counted == [2, 0, 3]
