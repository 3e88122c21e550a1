"""Compression: it is reversible, and equal input gives equal output."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from stacker.errors import UsageError
from stacker.stream.compression import (
    LEVELS,
    Compression,
    compressed,
    compression_level,
    decompressed,
    detect_compression,
)

KINDS: tuple[Compression, ...] = ("gzip", "zstd")
TEXT = b"".join(b"line %d\n" % n for n in range(50_000))


def chunked(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("data", [b"", b"x", TEXT, os.urandom(300_000)], ids=len)
@pytest.mark.parametrize("kind", KINDS)
def test_compression_is_reversible(kind: Compression, data: bytes) -> None:
    blob = b"".join(compressed(chunked(data), kind))
    assert detect_compression(blob) == kind
    assert b"".join(decompressed(chunked(blob), what="test")) == data


@pytest.mark.parametrize("kind", KINDS)
def test_compression_does_not_depend_on_chunk_sizes(kind: Compression) -> None:
    one = b"".join(compressed(chunked(TEXT), kind, 5))
    two = b"".join(compressed(chunked(TEXT), kind, 5))
    assert one == two


def test_gzip_header_has_no_time_and_no_name() -> None:
    head = b"".join(compressed(chunked(TEXT), "gzip"))[:10]
    # RFC 1952 section 2.3: deflate, no flags, time 0; the last byte is the system's.
    assert (head[:4], head[4:8]) == (b"\x1f\x8b\x08\x00", bytes(4))


@pytest.mark.parametrize("kind", KINDS)
def test_levels_compress_differently(kind: Compression) -> None:
    lowest, usual, highest = LEVELS[kind]
    sizes = [sum(map(len, compressed(chunked(TEXT), kind, n))) for n in (lowest, usual, highest)]
    assert len(set(sizes)) == 3
    assert sum(map(len, compressed(chunked(TEXT), kind))) == sizes[1]


@pytest.mark.parametrize(("kind", "level"), [("gzip", 0), ("gzip", 10), ("zstd", 23)])
def test_invalid_level_is_rejected(kind: Compression, level: int) -> None:
    with pytest.raises(UsageError, match=f"got {level}"):
        compression_level(kind, level)
