"""Verification, limits and counts of a stream."""

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
def test_matching_stream_passes_unchanged(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    passed = verified(iter(chunks), digest=Digest.of(data), size=len(data), what="blob x")
    assert list(passed) == chunks


@given(CHUNKS, st.integers(-3, 3), st.booleans())
def test_wrong_size_or_digest_is_an_error(chunks: list[bytes], off: int, changed: bool) -> None:
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


def test_sha512_digest_is_verified() -> None:
    import hashlib

    digest = Digest("sha512", hashlib.sha512(b"a").hexdigest())
    assert list(verified(iter([b"a"]), digest=digest, what="blob")) == [b"a"]
    with pytest.raises(IntegrityError, match="wrong digest"):
        list(verified(iter([b"b"]), digest=digest, what="blob"))


def test_bytes_beyond_the_size_are_not_yielded() -> None:
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


def test_unknown_size_verifies_only_the_digest() -> None:
    assert b"".join(verified(iter([b"a", b"b"]), digest=Digest.of(b"ab"), what="layer")) == b"ab"
    with pytest.raises(IntegrityError, match="wrong digest"):
        list(verified(iter([]), digest=Digest.of(b"ab"), what="layer"))


def test_limit_is_exact_and_its_error_names_the_option() -> None:
    assert list(bounded(iter([b"12", b"3"]), limit=3, what="layer", flag="--max-x")) == [
        b"12",
        b"3",
    ]
    with pytest.raises(LayerError, match="more than 3 bytes uncompressed") as caught:
        list(bounded(iter([b"12", b"34"]), limit=3, what="layer", flag="--max-x"))
    assert "--max-x" in (caught.value.hint or "")


def test_metered_reports_every_chunk() -> None:
    counted: list[int] = []
    assert list(metered(iter([b"12", b"", b"345"]), counted.append)) == [b"12", b"", b"345"]
    assert counted == [2, 0, 3]
