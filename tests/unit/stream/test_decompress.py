"""DESIGN section 4, *Streams*: what a stream is is decided by its first bytes."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stacker.errors import IntegrityError, StackerError
from stacker.stream.compression import CHUNK, decompressed, detect_compression, read_chunks

TEXT = b"".join(b"line %d\n" % n for n in range(20_000))


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def skippable(data: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, len(data)) + data


def gzipped(data: bytes, *, flags: int = 0, extra: bytes = b"") -> bytes:
    """A member whose header has the optional fields of RFC 1952 section 2.3.1."""
    body = zlib.compressobj(wbits=-15)
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + extra
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return (
        head + body.compress(data) + body.flush() + struct.pack("<II", zlib.crc32(data), len(data))
    )


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def plain(data: bytes, chunk: int = 4096) -> bytes:
    return b"".join(decompressed(chunked(data, chunk), what="test"))


STREAMS = {
    "gzip": gzip.compress(TEXT),
    "gzip of nothing": gzip.compress(b""),
    "gzip, many members": b"".join(gzip.compress(part) for part in chunked(TEXT, 9999)),
    "gzip, empty members": gzip.compress(b"") * 3 + gzip.compress(TEXT) + gzip.compress(b"") * 3,
    "gzip, zero padding after": gzip.compress(TEXT) + bytes(10_000),
    "gzip, zero padding between": gzip.compress(TEXT) + bytes(513) + gzip.compress(TEXT) + b"\0",
    "gzip, all optional fields": gzipped(
        TEXT, flags=0b11110, extra=b"\x04\0abcd" + b"name\0" + b"comment\0"
    ),
    # eStargz: one member a chunk, a table of contents, and an empty member whose extra field
    # says where that stands.
    "gzip, eStargz tail": b"".join(gzip.compress(part) for part in chunked(TEXT, 5000))
    + gzip.compress(b"stargz.index.json")
    + gzipped(b"", flags=0b100, extra=struct.pack("<H", 26) + b"SG\x16\0" + b"0" * 16 + b"STARGZ"),
    "gzip, stored": gzip.compress(TEXT, compresslevel=0),
    "zstd": zstd(TEXT),
    "zstd of nothing": zstd(b""),
    "zstd, many frames": b"".join(zstd(part) for part in chunked(TEXT, 9999)),
    "zstd, empty frames": zstd(b"") * 3 + zstd(TEXT) + zstd(b"") * 3,
    "zstd, a skippable frame first": skippable(b"x" * 100) + zstd(TEXT),
    "zstd, skippable frames between": zstd(TEXT) + skippable(b"y", 15) + zstd(TEXT),
    "zstd, skippable frames after": zstd(TEXT) + skippable(b"z" * 50_000, 5) + skippable(b""),
    "zstd, only skippable frames": skippable(b"abc") * 3,
    "zstd, a checksum": zstandard.ZstdCompressor(write_checksum=True).compress(TEXT),
    "zstd, no content size": zstandard.ZstdCompressor(write_content_size=False).compress(TEXT),
    "neither": TEXT,
    "neither, short": b"\x1f",
    "neither, nothing": b"",
}
EXPECTED = {
    "gzip, zero padding between": TEXT * 2,
    "gzip, eStargz tail": TEXT + b"stargz.index.json",
    "zstd, skippable frames between": TEXT * 2,
    "zstd, only skippable frames": b"",
    "neither, short": b"\x1f",
}


@pytest.mark.parametrize("chunk", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("name", STREAMS)
def test_every_form_is_decompressed_in_chunks_of_any_size(name: str, chunk: int) -> None:
    stream = STREAMS[name]
    want = EXPECTED.get(name, b"" if "nothing" in name else TEXT)
    assert plain(stream, chunk) == want


HEADERS = [
    (
        flags,
        (b"\x04\0abcd" if flags & 4 else b"")
        + b"name\0" * (flags >> 3 & 1)
        + b"c\0" * (flags >> 4),
    )
    for flags in range(32)
]


@pytest.mark.parametrize(("flags", "extra"), HEADERS)
def test_a_gzip_header_may_come_in_pieces_whatever_fields_it_has(flags: int, extra: bytes) -> None:
    stream = gzipped(b"one", flags=flags, extra=extra)
    for cut in range(1, 40):
        pieces = [stream, stream[:cut], stream[cut:]]
        assert b"".join(decompressed(iter(pieces), what="test")) == b"oneone"


def test_a_gzip_header_without_an_end_is_refused_before_it_takes_much_memory() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b"\x1f\x8b\x08\x08" + bytes(6)
        while True:
            taken += 1 << 16
            yield b"n" * (1 << 16)

    with pytest.raises(IntegrityError, match="want its header"):
        list(decompressed(endless(), what="test"))
    assert taken < 1 << 21


@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(1, 500), max_size=20))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("compress", [gzip.compress, zstd, bytes])
def test_what_was_compressed_comes_back(
    compress: Callable[[bytes], bytes], data: bytes, cuts: list[int]
) -> None:
    stream, pieces = compress(data), []
    if detect_compression(data) != "none" and compress is bytes:
        return
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    assert b"".join(decompressed(iter([*pieces, stream]), what="test")) == data


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x1f\x8b", "gzip"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x50\x2a\x4d\x18", "zstd"),
        (b"\x5f\x2a\x4d\x18", "zstd"),
        (b"\x60\x2a\x4d\x18", "none"),
        (b"\x28\xb5\x2f", "none"),
        (b"BZh9", "none"),
        (b"\xfd7zXZ", "none"),
        (b"", "none"),
        (b"ustar", "none"),
    ],
)
def test_magic_decides(head: bytes, name: str) -> None:
    assert detect_compression(head) == name


def test_a_window_of_2_gib_is_taken() -> None:
    # Frame header descriptor without a content size, window descriptor of 2 GiB (RFC 8878 3.1.1),
    # then one last raw block of five bytes.
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + b"\x29\0\0" + b"hello"
    assert plain(frame) == b"hello"


def test_a_window_beyond_2_gib_is_refused() -> None:
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([22 << 3]) + b"\x29\0\0" + b"hello"
    with pytest.raises(IntegrityError, match="corrupt zstd: test"):
        plain(frame)


@pytest.mark.parametrize(
    "rubbish", [b"x", b"rubbish", b"\0\0rubbish", b"\x1f", b"\x1f\x8bxx", b"\0" * 600 + b"x"]
)
def test_bytes_after_a_gzip_member_that_are_no_member_are_an_error(rubbish: bytes) -> None:
    for chunk in (1, 4096):
        with pytest.raises(IntegrityError, match=r"gzip: test|truncated: test"):
            plain(gzip.compress(b"data") + rubbish, chunk)


@pytest.mark.parametrize("rubbish", [b"rubbish", b"\0" * 600, b"\x1f\x8b\x08\0"])
def test_bytes_after_a_zstd_frame_that_are_no_frame_are_an_error(rubbish: bytes) -> None:
    for chunk in (1, 4096):
        with pytest.raises(IntegrityError, match="zstd: test"):
            plain(zstd(b"data") + rubbish, chunk)


def test_every_truncation_of_a_gzip_stream_is_an_error() -> None:
    first, second = gzip.compress(TEXT[:3000]), gzip.compress(b"second")
    stream = first + second
    for cut in range(2, len(stream)):
        if cut == len(first):
            assert plain(stream[:cut]) == TEXT[:3000]
            continue
        with pytest.raises(IntegrityError, match=r"truncated: test|corrupt gzip: test"):
            plain(stream[:cut])


def test_a_truncated_zstd_stream_never_gives_more_than_a_prefix() -> None:
    # The frame's end is the digest's business (see the module); what comes out must be right.
    stream = zstd(os.urandom(50) + TEXT[:3000])
    whole = plain(stream)
    for cut in range(4, len(stream)):
        try:
            assert whole.startswith(plain(stream[:cut]))
        except IntegrityError:
            continue


@pytest.mark.parametrize("at", [-8, -5, -4, -1])
def test_a_wrong_checksum_or_length_of_a_gzip_member_is_an_error(at: int) -> None:
    stream = bytearray(gzip.compress(TEXT))
    stream[at] ^= 1
    with pytest.raises(IntegrityError, match="corrupt gzip: test"):
        plain(bytes(stream))


def test_a_wrong_checksum_of_a_zstd_frame_is_an_error() -> None:
    stream = bytearray(STREAMS["zstd, a checksum"])
    stream[-1] ^= 1
    with pytest.raises(IntegrityError, match="corrupt zstd: test"):
        plain(bytes(stream))


@given(st.sampled_from(sorted(set(STREAMS) - {"neither"})), st.data())
@settings(max_examples=150, deadline=None)
def test_a_mutated_stream_is_read_or_an_error_of_ours(name: str, data: st.DataObject) -> None:
    stream = bytearray(STREAMS[name][:3000])
    for _ in range(data.draw(st.integers(1, 4))):
        if stream:
            stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        for chunk in decompressed(chunked(bytes(stream), 500), what="test"):
            assert len(chunk) <= CHUNK
    except StackerError:
        pass


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_a_bomb_comes_in_bounded_chunks_and_only_as_fast_as_it_is_taken(
    compress: Callable[[bytes], bytes],
) -> None:
    bomb = compress(bytes(64 << 20))
    assert len(bomb) < 1 << 17
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for piece in chunked(bomb, 512):
            taken += len(piece)
            yield piece

    stream = decompressed(source(), what="test")
    first = [next(stream) for _ in range(4)]
    assert max(map(len, first)) <= CHUNK
    assert taken < max(len(bomb) // 4, 5000)
    assert sum(map(len, first)) + sum(len(chunk) for chunk in stream) == 64 << 20


def test_errors_of_the_source_come_through_as_they_are() -> None:
    def broken(head: bytes) -> Iterator[bytes]:
        yield head
        raise IntegrityError("wrong size: blob")

    for stream in (gzip.compress(TEXT), zstd(TEXT), TEXT):
        with pytest.raises(IntegrityError, match=r"^wrong size: blob$"):
            list(decompressed(broken(stream[:500]), what="test"))


def test_empty_chunks_are_no_end() -> None:
    for stream in (gzip.compress(TEXT), zstd(TEXT), TEXT):
        pieces = [piece for part in chunked(stream, 1000) for piece in (b"", part, b"")]
        assert b"".join(decompressed(iter(pieces), what="test")) == TEXT


def test_the_source_is_read_to_its_end_so_that_its_digest_is_checked() -> None:
    for name, stream in STREAMS.items():
        ended = False

        def source(stream: bytes = stream) -> Iterator[bytes]:
            nonlocal ended
            yield from chunked(stream, 4096)
            ended = True

        list(decompressed(source(), what="test"))
        assert ended, name


def test_a_file_is_read_in_chunks_to_its_end() -> None:
    assert list(read_chunks(io.BytesIO(b"12345"), 2)) == [b"12", b"34", b"5"]
    assert list(read_chunks(io.BytesIO(b""))) == []
