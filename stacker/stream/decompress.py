"""Compressed chunks in, plain chunks out.

The format is decided by the first bytes, never by a media type (DESIGN section 4, *Streams*):
gzip (RFC 1952, any number of members, zero padding between and after them, an eStargz tail
being one more member), zstd (RFC 8878, any number of frames, skippable ones among them,
windows up to 2 GiB), or neither.  Chunks that come out are bounded, so that a small blob
cannot make a large allocation.  Knows no digests and no tar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, Protocol, cast

from stacker.errors import IntegrityError

CHUNK = 512 * 1024
"""Bytes per plain chunk: large enough to amortise a hand-over, small enough for the L2 cache."""

_HEADER_LIMIT = 1 << 20
_ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_LIMIT = 1 << 31


class Readable(Protocol):
    """Anything with a ``read`` that gives at most ``size`` bytes and ``b''`` at the end."""

    def read(self, size: int, /) -> bytes:
        """Read at most ``size`` bytes."""


BlobOpener = Callable[[], BinaryIO]
"""Opens a blob at its first byte; may be called again to read the blob from the start."""


def chunks_of(file: Readable, size: int = CHUNK) -> Iterator[bytes]:
    """Read ``file`` to its end in chunks of at most ``size`` bytes."""
    while chunk := file.read(size):
        yield chunk


def compression_of(head: bytes) -> str:
    """Name the compression that ``head``, the first bytes of a stream, announces.

    :returns: ``gzip``, ``zstd`` or ``none``.
    """
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if head[:4] == _ZSTD_FRAME or _is_skippable(head):
        return "zstd"
    return "none"


def _is_skippable(head: bytes) -> bool:
    # RFC 8878 section 3.1.2: magic 0x184D2A50 to 0x184D2A5F, little endian.
    return len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50


def decompressed(chunks: Iterator[bytes], *, what: str) -> Iterator[bytes]:
    """Decompress ``chunks``, whatever of gzip, zstd or nothing they are compressed with.

    :param what: how an error names the stream.
    :raises IntegrityError: the stream is corrupt or ends early.
    """
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4:
            break
    whole = filter(None, _prepended(head, chunks))  # an empty chunk is no end
    match compression_of(head):
        case "gzip":
            return _gunzip(whole, what)
        case "zstd":
            return _unzstd(whole, what)
        case _:
            return whole


def _prepended(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _gunzip(chunks: Iterator[bytes], what: str) -> Iterator[bytes]:
    from isal import igzip_lib  # only a gzip layer needs it

    pending = b""
    try:
        while pending := _next_member(pending, chunks, what):
            member = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
            while not member.eof:
                if not pending and member.needs_input:
                    pending = next(chunks, b"")
                    if not pending:
                        raise IntegrityError(
                            f"truncated: {what}: got the end of the data, want the rest of a "
                            "gzip member"
                        )
                plain = member.decompress(pending, CHUNK)
                pending = b""
                if plain:
                    yield plain
            pending = member.unused_data
    except (igzip_lib.error, EOFError) as error:  # type: ignore[misc]  # its stub says instance
        raise IntegrityError(f"corrupt gzip: {what}: {error}") from error


def _next_member(pending: bytes, chunks: Iterator[bytes], what: str) -> bytes:
    """Skip the zero padding that may follow a member; return the start of the next one."""
    while True:
        pending = pending.lstrip(b"\0")
        while len(pending) < 2:
            chunk = next(chunks, b"")
            if not chunk:
                break
            pending += chunk
        if len(pending) >= 2 and pending[0] == 0:
            continue
        if pending.strip(b"\0") == b"":
            return b""
        if pending[:2] != b"\x1f\x8b":
            raise IntegrityError(
                f"corrupt gzip: {what}: got {pending[:2].hex()} after a member, want 1f8b or zeros"
            )
        return _with_whole_header(pending, chunks, what)


def _with_whole_header(pending: bytes, chunks: Iterator[bytes], what: str) -> bytes:
    # ISA-L 2.31 takes a header that comes in two pieces for a wrong one when it has a checksum
    # or more than one optional field.
    while not _has_whole_header(pending):
        chunk = next(chunks, b"")
        if not chunk or len(pending) > _HEADER_LIMIT:
            raise IntegrityError(
                f"truncated: {what}: got {len(pending)} bytes of a gzip member, want its header"
            )
        pending += chunk
    return pending


def _has_whole_header(data: bytes) -> bool:
    """Read past the fields of RFC 1952 section 2.3.1: extra, name, comment, checksum."""
    if len(data) < 10:
        return False
    flags, at = data[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(data[10:12], "little")
    for flag in (8, 16):
        if flags & flag:
            at = data.find(b"\0", at) + 1
            if not at:
                return False
    return len(data) >= at + (flags & 2)


class _ChunkFile:
    """The file that python-zstandard wants to read from, over an iterator."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._pending = b""

    def read(self, size: int) -> bytes:
        chunk = self._pending or next(self._chunks, b"")
        self._pending = chunk[size:]
        return chunk[:size]


def _unzstd(chunks: Iterator[bytes], what: str) -> Iterator[bytes]:
    # A frame cut short ends this reader without an error; the caller's digest finds it.  The
    # interface that would tell (decompressobj) has no bound on what one call gives back.
    import zstandard  # only a zstd layer or a skeleton needs it

    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_LIMIT).stream_reader(
        cast("IO[bytes]", _ChunkFile(chunks)),
        read_size=CHUNK,
        read_across_frames=True,
    )
    try:
        yield from chunks_of(reader)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"corrupt zstd: {what}: {error}") from error
