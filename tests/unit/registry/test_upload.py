"""A blob's bytes from any offset, verified."""

from __future__ import annotations

import io
import os
import random
from typing import BinaryIO

import pytest

from stacker.errors import IntegrityError
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.registry.upload import SeekableBlob

DATA = os.urandom(1_000_000)
BLOB = Descriptor("", Digest.of(DATA), len(DATA))


class Blob:
    """Opens a blob, and counts the calls."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.files: list[BinaryIO] = []

    def __call__(self) -> BinaryIO:
        self.files.append(io.BytesIO(self.data))
        return self.files[-1]


def test_sequential_chunks_read_the_blob_once() -> None:
    blob = Blob()
    feed = SeekableBlob(BLOB, blob)
    pieces = [feed.read_at(offset, 70_000) for offset in range(0, len(DATA), 70_000)]
    assert b"".join(pieces) == DATA
    assert len(blob.files) == 1


def test_going_back_within_the_last_chunk_reads_nothing() -> None:
    blob = Blob()
    feed = SeekableBlob(BLOB, blob)
    assert feed.read_at(300_000, 100_000) == DATA[300_000:400_000]
    assert feed.read_at(350_000, 100_000) == DATA[350_000:450_000]
    assert feed.read_at(350_001, 10) == DATA[350_001:350_011]
    assert len(blob.files) == 1


def test_going_back_further_reopens_the_blob() -> None:
    blob = Blob()
    feed = SeekableBlob(BLOB, blob)
    feed.read_at(600_000, 1)
    assert feed.read_at(0, 5) == DATA[:5]
    feed.close()
    assert len(blob.files) == 2
    assert all(file.closed for file in blob.files)


def test_reads_at_any_offsets_return_the_blob_s_bytes() -> None:
    chance, feed = random.Random(3), SeekableBlob(BLOB, Blob())
    for _ in range(200):
        at, size = chance.randrange(len(DATA) + 1), chance.randrange(300_000)
        assert feed.read_at(at, size) == DATA[at : at + size]


@pytest.mark.parametrize("data", [DATA[:-1] + b"x" * (DATA[-1:] != b"x"), DATA + b"x", DATA[:-1]])
def test_last_byte_is_returned_after_verification_only(data: bytes) -> None:
    feed = SeekableBlob(BLOB, Blob(data))
    feed.read_at(0, 500_000)
    with pytest.raises(IntegrityError):
        feed.read_at(500_000, 500_000)


def test_empty_blob_is_verified_too() -> None:
    nothing = Descriptor("", Digest.of(b""), 0)
    assert SeekableBlob(nothing, Blob(b"")).read_at(0, 10) == b""
    with pytest.raises(IntegrityError):
        SeekableBlob(nothing, Blob(b"x")).read_at(0, 10)
