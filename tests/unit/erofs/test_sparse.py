"""Chunks of sparse files: in the tar where its blocks fit, else copied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.erofs import sparse
from stacker.erofs.format import BLOCK, HOLE
from stacker.erofs.sparse import map_bytes, own_data, sparse_map
from stacker.errors import LayerError
from stacker.tar.entry import Segment


def test_aligned_segments_refer_to_the_tar() -> None:
    found = sparse_map([Segment(1024, 512), Segment(2048, 512)], size=4096, start=5120, block=7)
    assert (found.bits, found.own_blocks) == (0, 0)
    assert list(found.blocks) == [HOLE, HOLE, 10, HOLE, 11, HOLE, HOLE, HOLE]


def test_chunks_are_as_large_as_the_segments_allow() -> None:
    found = sparse_map([Segment(1 << 20, 1 << 20)], size=1 << 22, start=512, block=0)
    assert (found.bits, list(found.blocks)) == (11, [HOLE, 1, HOLE, HOLE])


def test_last_segment_may_end_with_the_file() -> None:
    found = sparse_map([Segment(0, 512), Segment(1024, 100)], size=1124, start=512, block=0)
    assert (found.own_blocks, list(found.blocks)) == (0, [1, HOLE, 2])


def test_file_without_segments_is_one_hole() -> None:
    found = sparse_map([], size=1 << 40, start=0, block=0)
    assert list(found.blocks) == [HOLE]


def test_unaligned_segments_are_copied_in_chunks_of_4_kib() -> None:
    found = sparse_map([Segment(1, 2), Segment(9000, 1)], size=20_000, start=512, block=40)
    assert (found.bits, found.own_blocks) == (3, 16)
    assert list(found.blocks) == [40, HOLE, 48, HOLE, HOLE]


@pytest.mark.parametrize("at", [1, 512, 4096])
def test_few_data_in_a_large_file_need_a_small_image(at: int) -> None:
    segments = [Segment(at, 292), Segment((1 << 40) - 4096, 292)]
    found = sparse_map(segments, size=1 << 40, start=512, block=7)
    chunk = BLOCK << found.bits
    copied = [(index, block) for index, block in enumerate(found.blocks) if block != HOLE]
    assert copied == [(0, 7), (len(found.blocks) - 1, 7 + (1 << found.bits))]
    assert len(found.blocks) == (1 << 40) // chunk
    assert map_bytes(segments, 1 << 40) + found.own_blocks * BLOCK <= 8 << 20


def test_much_aligned_data_in_a_large_file_stay_in_the_tar() -> None:
    segments = [Segment(1 << 32, 1 << 34), Segment((1 << 35) + 4096, 4096)]
    found = sparse_map(segments, size=(1 << 35) + 8192, start=512, block=7)
    assert (found.bits, found.own_blocks) == (3, 0)
    assert found.blocks[(1 << 32) // 4096] == 1


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(LayerError, match="sparse file too large"):
        sparse_map([Segment(1, 1)], size=1 << 60, start=512, block=0)


def test_unaligned_data_of_many_gigabytes_are_copied() -> None:
    found = sparse_map([Segment(1, 1 << 34)], size=1 << 35, start=512, block=0)
    assert (1 << 34) < found.own_blocks * BLOCK < (1 << 34) + (1 << 20)


def test_few_bytes_in_many_chunks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_FEW_COPIED", 64 << 10)
    segments = [Segment(number << 13 | 1, 1) for number in range(17)]
    assert sparse_map(segments[:16], size=1 << 18, start=512, block=0).own_blocks == 128
    with pytest.raises(LayerError, match="of unaligned chunks for 17 bytes of data"):
        sparse_map(segments, size=1 << 18, start=512, block=0)


def test_sparse_file_behind_the_last_block_of_a_tar_is_refused() -> None:
    with pytest.raises(LayerError, match="too large"):
        sparse_map([Segment(0, 1024)], size=4096, start=(BLOCK << 32) - 512, block=0)


def test_map_counts_the_bytes_of_its_chunks() -> None:
    for segments in ([Segment(512, 512)], [Segment(1, 1)], []):
        found = sparse_map(segments, size=1 << 16, start=512, block=0)
        assert map_bytes(segments, 1 << 16) == 8 * len(found.blocks)


@st.composite
def maps(draw: st.DrawFn) -> tuple[list[Segment], int]:
    """Draw segments in order, and the size of their file."""
    at, segments = 0, list[Segment]()
    unit = draw(st.sampled_from([1, 1, 512, 1024]))
    for _ in range(draw(st.integers(0, 6))):
        offset = at + unit * draw(st.integers(0, 20 if unit > 1 else 9000))
        length = unit * draw(st.integers(1, 20 if unit > 1 else 9000))
        segments.append(Segment(offset, length))
        at = offset + length
    return segments, max(1, at + draw(st.sampled_from([0, 0, 1, 511, 512, 10_000])))


@given(maps())
def test_chunks_have_the_data_of_the_segments(drawn: tuple[list[Segment], int]) -> None:
    segments, size = drawn
    payload = bytes(1 + n % 255 for n in range(sum(length for _, length in segments)))
    wanted, at = bytearray(size), 0
    for offset, length in segments:
        wanted[offset : offset + length] = payload[at : at + length]
        at += length
    tar = bytes(512) + payload + bytes(-len(payload) % BLOCK)
    found = sparse_map(segments, size=size, start=512, block=3)
    own = bytes(3 * BLOCK)
    if found.own_blocks:
        path = Path(f"/proc/self/fd/{_memory(tar)}")
        with path.open("rb") as file:
            data = own_data(segments, bits=found.bits, start=512, tar=file.fileno())
            own += b"".join(data)
        assert len(own) == (3 + found.own_blocks) * BLOCK
    chunk, source = BLOCK << found.bits, own if found.own_blocks else tar
    pieces = [
        bytes(chunk) if block == HOLE else source[block * BLOCK :][:chunk].ljust(chunk, b"\0")
        for block in found.blocks
    ]
    assert b"".join(pieces)[:size] == wanted


@pytest.mark.parametrize("bits", [3, 4, 9])
def test_copied_chunks_of_any_size_have_the_data_of_the_segments(bits: int) -> None:
    segments = [Segment(5, 9000), Segment(9100, 2), Segment(20_000, 70_000), Segment(400_000, 1)]
    payload = bytes(1 + n % 255 for n in range(sum(length for _, length in segments)))
    with Path(f"/proc/self/fd/{_memory(payload)}").open("rb") as file:
        own = b"".join(own_data(segments, bits=bits, start=0, tar=file.fileno()))
    wanted, at, chunk = bytearray(1 << 20), 0, BLOCK << bits
    for offset, length in segments:
        wanted[offset : offset + length] = payload[at : at + length]
        at += length
    parts = [wanted[start : start + chunk] for start in range(0, len(wanted), chunk)]
    assert own == b"".join(part for part in parts if any(part))


def _memory(data: bytes) -> int:
    number = os.memfd_create("tar")
    os.write(number, data)
    return number
