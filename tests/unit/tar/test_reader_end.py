"""The end of an archive, and fuzzing: any input is parsed or refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacker.errors import LayerError, StackerError
from stacker.tar.reader import TarReader
from tests.support import tars
from tests.support.tars import (
    BLOCK,
    END,
    base256,
    dir,  # noqa: A004 - the word for it
    file,
    gnu_link,
    gnu_name,
    hardlink,
    pax,
    resummed,
    symlink,
    tar,
    whiteout,
)
from tests.support.unpacking import chunked, entries_of, path_of, payloads


# -- the end ----------------------------------------------------------------------------------
def test_layer_of_0_bytes_is_an_empty_tar() -> None:
    assert entries_of(b"") == []


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), END, bytes(10240), END + bytes(100)])
def test_end_marker_may_be_long_short_or_missing(end: bytes) -> None:
    assert path_of(tar(file("a", b"1"), end=False) + end) == b"a"


def test_garbage_before_the_end_marker_is_an_error() -> None:
    for rubbish in (b"x" * BLOCK, bytes(BLOCK) + b"x" * BLOCK, bytes(BLOCK) + file("b")):
        with pytest.raises(LayerError, match="malformed tar"):
            entries_of(tar(file("a"), end=False) + rubbish + END)


def test_zero_block_between_entries_is_an_error() -> None:
    with pytest.raises(LayerError, match="single zero block"):
        entries_of(tar(file("a"), bytes(BLOCK), file("b")))


def test_bytes_after_the_end_marker_are_kept_and_ignored() -> None:
    kept: list[bytes] = []
    stream = tar(file("a", b"1")) + file("evil") + b"rubbish" * 1000
    chunks = chunked(stream, 512)
    reader = TarReader(chunks, what="test", keep=kept.append)
    assert [each.path for each in reader] == [b"a"]
    assert next(chunks, None) is None, "the digest covers them"
    assert b"".join(kept).endswith(b"rubbish" * 1000)


@pytest.mark.parametrize(
    "extended", [pax(path="a"), gnu_name("a"), gnu_link("a"), pax(path="a") * 2]
)
@pytest.mark.parametrize("end", [b"", END])
def test_extended_header_without_an_entry_is_an_error(extended: bytes, end: bytes) -> None:
    with pytest.raises(LayerError, match="extended header and then the end"):
        entries_of(tar(file("x"), extended, end=False) + end)


SMALL = [
    file("a", b"12345"),
    pax(path="p" * 150, mtime="1.5") + file("b", b"x" * 513),
    gnu_name("n" * 120) + symlink("c", "t"),
    dir("d"),
    tars.sparse_10("s", 4096, [(0, b"1" * 10), (2000, b"2" * 10)]),
    tars.sparse_old("o", 9000, [(at * 1000, b"x") for at in range(7)]),
    whiteout("w", size=3) + b"abc".ljust(BLOCK, b"\0"),
    hardlink("h", "a"),
]


def test_truncated_stream_is_an_error_except_between_entries() -> None:
    stream = tar(*SMALL)
    whole = entries_of(stream)
    boundaries, at = {0: 0}, 0
    for count, part in enumerate(SMALL, 1):
        at += len(part)
        boundaries[at] = count
    boundaries[at + BLOCK] = len(SMALL)
    for cut in range(len(stream)):
        if cut in boundaries:
            assert entries_of(stream[:cut]) == whole[: boundaries[cut]]
            continue
        with pytest.raises(LayerError, match=r"truncated|extended header and then the end"):
            entries_of(stream[:cut])


@given(st.lists(st.sampled_from(SMALL), max_size=4), st.integers(1, 1500))
@settings(deadline=None)
def test_entries_do_not_depend_on_chunk_sizes(parts: list[bytes], chunk: int) -> None:
    stream = tar(*parts)
    assert entries_of(stream, chunk=chunk) == entries_of(stream)
    assert payloads(stream, chunk) == payloads(stream)


def test_empty_chunk_does_not_end_the_stream() -> None:
    stream = tar(file("a", b"x" * 1000), file("b"))
    chunks = (piece for part in chunked(stream, 100) for piece in (b"", part, b""))
    assert [each.path for each in TarReader(chunks, what="test")] == [b"a", b"b"]


@pytest.mark.parametrize("after", [0, BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 5 * BLOCK])
def test_stream_error_is_not_taken_for_its_end(after: int) -> None:
    # An error of the stream where it may end must propagate. Otherwise a stream over a limit, which
    # was never verified, would pass for a complete one.
    stream = tar(file("a", b"1"), end=False) + bytes(10 * BLOCK)

    def chunks() -> Iterator[bytes]:
        yield from chunked(stream[:after], BLOCK)
        raise LayerError("over a limit")

    with pytest.raises(LayerError, match="over a limit"):
        list(TarReader(chunks(), what="test"))


# -- fuzz -------------------------------------------------------------------------------------
FIELDS = [(0, 100), (100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (156, 157),
          (157, 257), (257, 265), (329, 337), (337, 345), (345, 500), (386, 482), (482, 495),
          (500, 512)]  # fmt: skip
FLAGS = st.sampled_from([bytes([n]) for n in b"01234567xgLKSDVM\0\xff"])
VALUES = st.one_of(
    st.binary(max_size=12),
    st.integers(-(1 << 70), 1 << 70).map(lambda n: base256(n, 12)),
    st.sampled_from([b"77777777777\0", b"00000000000\0", b"0000000001\0", b"\xff" * 12, b""]),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return an archive with mutated header fields and valid checksums."""
    parts = [
        bytearray(part) for part in draw(st.lists(st.sampled_from(SMALL), min_size=1, max_size=5))
    ]
    for part in parts:
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(part) // BLOCK - 1)) * BLOCK
            if draw(st.booleans()):
                start, stop = draw(st.sampled_from(FIELDS))
                value = draw(FLAGS if start == 156 else VALUES)[: stop - start]
                part[at + start : at + start + len(value)] = value
                part[at : at + BLOCK] = resummed(bytes(part[at : at + BLOCK]))
            else:
                spot = at + draw(st.integers(0, BLOCK - 1))
                part[spot] = draw(st.integers(0, 255))
    stream = tar(*(bytes(part) for part in parts), end=draw(st.booleans()))
    return stream[: draw(st.integers(0, len(stream)))] if draw(st.booleans()) else stream


def consumed(stream: bytes) -> tuple[int, int]:
    """Read a stream until its end or an error; return the entries and the bytes kept."""
    kept = 0

    def keep(data: bytes) -> None:
        nonlocal kept
        kept += len(data)

    reader = TarReader(chunked(stream, 700), what="test", keep=keep)
    try:
        for _ in reader:
            for piece in reader.payload():
                assert len(piece) <= 700
    except StackerError:
        pass
    return reader.count, kept


@given(mutated())
@settings(max_examples=600, deadline=None)
def test_mutated_archive_parses_or_raises_layer_error(stream: bytes) -> None:
    count, kept = consumed(stream)
    assert count <= len(stream) // BLOCK
    assert kept <= len(stream)


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_parse_or_raise_layer_error(stream: bytes) -> None:
    consumed(stream)


@given(mutated())
@settings(max_examples=200, deadline=None)
def test_kept_bytes_parse_to_the_same_entries(
    stream: bytes,
) -> None:
    kept: list[bytes] = []
    try:
        found = list(TarReader(chunked(stream), what="test", keep=kept.append))
    except LayerError:
        return
    again = TarReader(chunked(b"".join(kept)), what="test", elided=True)
    assert list(again) == found
