"""Decompression: formats, corrupt streams and limits (docs/rules.md, Streams)."""

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
from isal import igzip_lib

from stacker.errors import IntegrityError, LayerError, StackerError
from stacker.stream.compression import CHUNK, decompressed, detect_compression, read_chunks

TEXT = b"".join(b"line %d\n" % n for n in range(20_000))


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def skippable(data: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, len(data)) + data


def gzipped(data: bytes, *, flags: int = 0, extra: bytes = b"") -> bytes:
    """Return a gzip member with the optional header fields of RFC 1952, section 2.3.1."""
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
    # eStargz: one member for each chunk, a table of contents, and an empty member whose
    # extra field has the offset of the table.
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
def test_every_format_decompresses_from_chunks_of_any_size(name: str, chunk: int) -> None:
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
def test_split_gzip_header_with_any_fields_is_accepted(flags: int, extra: bytes) -> None:
    stream = gzipped(b"one", flags=flags, extra=extra)
    for cut in range(1, 40):
        pieces = [stream, stream[:cut], stream[cut:]]
        assert b"".join(decompressed(iter(pieces), what="test")) == b"oneone"


def test_endless_gzip_header_is_rejected_early() -> None:
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
def test_compressed_data_decompresses_to_the_original(
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
def test_magic_number_decides_the_format(head: bytes, name: str) -> None:
    assert detect_compression(head) == name


def window(exponent: int) -> bytes:
    """Return a frame of five bytes with a window of 2 ** (10 + exponent) bytes.

    It has no content size, and one last raw block (RFC 8878, section 3.1.1).
    """
    return b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([exponent << 3]) + b"\x29\0\0" + b"hello"


def test_zstd_window_over_128_mib_needs_permission() -> None:
    assert plain(window(17)) == b"hello"
    with pytest.raises(LayerError, match="over a limit: test: got a zstd window") as error:
        plain(window(18))
    assert "--max-window" in str(error.value.hint)


def test_zstd_window_of_2_gib_is_accepted_with_permission() -> None:
    chunks = decompressed(iter([window(21)]), what="test", max_window=1 << 31)
    assert b"".join(chunks) == b"hello"


def test_zstd_window_over_2_gib_is_rejected() -> None:
    with pytest.raises(LayerError, match="over a limit: test"):
        b"".join(decompressed(iter([window(22)]), what="test", max_window=1 << 31))


def test_many_empty_gzip_members_are_rejected() -> None:
    assert plain(gzip.compress(b"") * 900 + gzip.compress(b"data")) == b"data"
    with pytest.raises(IntegrityError, match="more than 1000 empty members"):
        plain(gzip.compress(b"") * 1100)


def test_tiny_gzip_members_cost_work_in_proportion_to_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_bytes = 0

    class Counting:
        """The decompressor of isal, which counts the bytes that it is given."""

        def __init__(self, flag: int) -> None:
            self._member = real(flag)

        def __getattr__(self, name: str) -> object:
            return getattr(self._member, name)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            nonlocal given_bytes
            given_bytes += len(data)
            return self._member.decompress(data, max_length)

    real = igzip_lib.IgzipDecompressor
    monkeypatch.setattr(igzip_lib, "IgzipDecompressor", Counting)
    count = 10_000
    chunks = list(decompressed(iter([gzip.compress(b"x", mtime=0) * count]), what="test"))
    assert b"".join(chunks) == b"x" * count
    assert 0 < given_bytes <= 1024 * count  # not the rest of the chunk for each member
    assert len(chunks) == 1  # not one chunk for each member


@pytest.mark.parametrize(
    "rubbish", [b"x", b"rubbish", b"\0\0rubbish", b"\x1f", b"\x1f\x8bxx", b"\0" * 600 + b"x"]
)
def test_garbage_after_a_gzip_member_is_an_error(rubbish: bytes) -> None:
    for chunk in (1, 4096):
        with pytest.raises(IntegrityError, match=r"gzip: test|truncated: test"):
            plain(gzip.compress(b"data") + rubbish, chunk)


@pytest.mark.parametrize("rubbish", [b"rubbish", b"\0" * 600, b"\x1f\x8b\x08\0"])
def test_garbage_after_a_zstd_frame_is_an_error(rubbish: bytes) -> None:
    for chunk in (1, 4096):
        with pytest.raises(IntegrityError, match="zstd: test"):
            plain(zstd(b"data") + rubbish, chunk)


def test_truncated_gzip_stream_is_an_error() -> None:
    first, second = gzip.compress(TEXT[:3000]), gzip.compress(b"second")
    stream = first + second
    for cut in range(2, len(stream)):
        if cut == len(first):
            assert plain(stream[:cut]) == TEXT[:3000]
            continue
        with pytest.raises(IntegrityError, match=r"truncated: test|corrupt gzip: test"):
            plain(stream[:cut])


def test_truncated_zstd_stream_yields_a_prefix() -> None:
    # The caller's digest detects the truncation; the output must be a prefix.
    stream = zstd(os.urandom(50) + TEXT[:3000])
    whole = plain(stream)
    for cut in range(4, len(stream)):
        try:
            assert whole.startswith(plain(stream[:cut]))
        except IntegrityError:
            continue


@pytest.mark.parametrize("at", [-8, -5, -4, -1])
def test_wrong_gzip_checksum_or_length_is_an_error(at: int) -> None:
    stream = bytearray(gzip.compress(TEXT))
    stream[at] ^= 1
    with pytest.raises(IntegrityError, match="corrupt gzip: test"):
        plain(bytes(stream))


def test_wrong_zstd_checksum_is_an_error() -> None:
    stream = bytearray(STREAMS["zstd, a checksum"])
    stream[-1] ^= 1
    with pytest.raises(IntegrityError, match="corrupt zstd: test"):
        plain(bytes(stream))


@given(st.sampled_from(sorted(set(STREAMS) - {"neither"})), st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_stream_decompresses_or_is_a_stacker_error(name: str, data: st.DataObject) -> None:
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
def test_decompression_bomb_yields_bounded_chunks_on_demand(
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


def test_source_errors_pass_through() -> None:
    def broken(head: bytes) -> Iterator[bytes]:
        yield head
        raise IntegrityError("wrong size: blob")

    for stream in (gzip.compress(TEXT), zstd(TEXT), TEXT):
        with pytest.raises(IntegrityError, match=r"^wrong size: blob$"):
            list(decompressed(broken(stream[:500]), what="test"))


def test_empty_chunks_do_not_end_the_stream() -> None:
    for stream in (gzip.compress(TEXT), zstd(TEXT), TEXT):
        pieces = [piece for part in chunked(stream, 1000) for piece in (b"", part, b"")]
        assert b"".join(decompressed(iter(pieces), what="test")) == TEXT


def test_source_is_read_to_its_end() -> None:
    for name, stream in STREAMS.items():
        ended = False

        def source(stream: bytes = stream) -> Iterator[bytes]:
            nonlocal ended
            yield from chunked(stream, 4096)
            ended = True

        list(decompressed(source(), what="test"))
        assert ended, name


def test_file_is_read_in_chunks() -> None:
    assert list(read_chunks(io.BytesIO(b"12345"), 2)) == [b"12", b"34", b"5"]
    assert list(read_chunks(io.BytesIO(b""))) == []
