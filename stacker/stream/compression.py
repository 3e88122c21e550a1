"""Decompress and compress byte streams: gzip (RFC 1952) and zstd (RFC 8878).

`decompressed` and `compressed` take and return chunks.  The first bytes of a stream decide its
format, not a media type (docs/rules.md, Streams).  A gzip stream may have several members, zero
padding and an eStargz tail.  A zstd stream may have several frames, skippable frames, and a window
of up to 2 GiB where the caller permits it.  Output chunks have a bounded size, so that a small
blob cannot allocate much memory.  This module does not use digests or tar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, Final, Literal, Protocol, cast

from stacker.errors import IntegrityError, LayerError, UsageError

CHUNK = 512 * 1024
"""Bytes in a decompressed chunk: few thread switches, and it fits into the L2 cache."""

Compression = Literal["gzip", "zstd"]

LEVELS: Final[dict[Compression, tuple[int, int, int]]] = {"gzip": (1, 6, 9), "zstd": (1, 3, 22)}
"""The lowest, default and highest level of each compression."""

_HEADER_LIMIT = 1 << 20
_ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
_MAX_EMPTY_MEMBERS = 1000
_FIRST = 1024  # bytes of a gzip member that are read at first
_SMALL = 32 * 1024  # bytes: smaller chunks are joined

MAX_WINDOW = 128 << 20
"""Bytes of the largest zstd window without a caller's permission, as in zstd(1)."""


class Readable(Protocol):
    """A binary file: ``read`` returns at most ``size`` bytes, and ``b''`` at the end."""

    def read(self, size: int, /) -> bytes:
        """Read at most ``size`` bytes."""


BlobOpener = Callable[[], BinaryIO]
"""Opens a blob at its first byte; a second call reads the blob again from the start."""


def read_chunks(file: Readable, size: int = CHUNK) -> Iterator[bytes]:
    """Yield the content of a file in chunks of at most ``size`` bytes."""
    while chunk := file.read(size):
        yield chunk


def detect_compression(head: bytes) -> str:
    """Return the compression of a stream, by its magic number.

    :param head: the first bytes of the stream, at least 4 if it has as many.
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


def decompressed(
    chunks: Iterator[bytes], *, what: str, max_window: int = MAX_WINDOW
) -> Iterator[bytes]:
    """Decompress chunks of a gzip or zstd stream; pass any other stream through.

    :param what: name of the stream for errors.
    :param max_window: bytes of memory that a zstd stream may demand, at most 2 GiB.
    :raises IntegrityError: the stream is corrupt, or a gzip stream is truncated.  A truncated zstd
        stream ends without an error; the caller must verify the digest.
    :raises LayerError: a zstd stream demands a window of more than ``max_window``.
    """
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4:
            break
    whole = filter(None, _prepended(head, chunks))  # an empty chunk is not the end
    match detect_compression(head):
        case "gzip":
            return _joined(_gunzip(whole, what))
        case "zstd":
            return _unzstd(whole, what, max_window)
        case _:
            return whole


def _prepended(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


class _Pieces:
    """Chunks as pieces of any size, which a reader can give back in part.

    Many gzip members fit into one chunk.  Copying the rest of the chunk for each of them would
    cost time in proportion to the square of their number.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk, self._at = b"", 0

    def take(self, size: int) -> bytes:
        """Return up to ``size`` bytes, and ``b''`` only at the end."""
        if self._at == len(self._chunk):
            self._chunk, self._at = next(self._chunks, b""), 0
        piece = self._chunk[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def give_back(self, piece: bytes) -> None:
        """Give back the end of the piece that was taken last."""
        if len(piece) > self._at:  # it began in an earlier chunk
            self._chunk, self._at = piece + self._chunk[self._at :], 0
        else:
            self._at -= len(piece)


def _joined(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Join small chunks, because each one costs the readers of a layer as much as a large one."""
    small: list[bytes] = []
    size = 0
    for chunk in chunks:
        if small and size + len(chunk) > _SMALL:
            yield b"".join(small)
            small, size = [], 0
        if len(chunk) >= _SMALL:
            yield chunk
        else:
            small.append(chunk)
            size += len(chunk)
    if small:
        yield b"".join(small)


def _gunzip(chunks: Iterator[bytes], what: str) -> Iterator[bytes]:
    from isal import igzip_lib  # only gzip needs it

    pieces, empty = _Pieces(chunks), 0
    try:
        while head := _next_member(pieces, what):
            is_empty = True
            for plain in _inflated(head, pieces, what):
                is_empty = False
                yield plain
            empty += is_empty
            if empty > _MAX_EMPTY_MEMBERS:  # each of 20 bytes costs as much as a whole chunk
                raise IntegrityError(
                    f"corrupt gzip: {what}: got more than {_MAX_EMPTY_MEMBERS} empty members, "
                    "want fewer"
                )
    except (igzip_lib.error, EOFError) as error:  # type: ignore[misc]  # its stub says instance
        raise IntegrityError(
            f"corrupt gzip: {what}: got {_fault(error)}, want a gzip stream"
        ) from error


def _inflated(piece: bytes, pieces: _Pieces, what: str) -> Iterator[bytes]:
    """Decompress one gzip member, and give back the bytes after it.

    :param piece: the first bytes of the member, with its whole header.
    """
    from isal import igzip_lib  # only gzip needs it

    member, size = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), _FIRST
    while not member.eof:
        if not piece and member.needs_input:
            size = min(8 * size, CHUNK)
            piece = pieces.take(size)
            if not piece:
                raise IntegrityError(
                    f"truncated: {what}: got the end of the data, want the rest of a gzip member"
                )
        plain = member.decompress(piece, CHUNK)
        piece = b""
        if plain:
            yield plain
    pieces.give_back(member.unused_data)


def _next_member(pieces: _Pieces, what: str) -> bytes:
    """Skip zero padding after a member, and return the start of the next member."""
    pending = b""
    while True:
        pending = pending.lstrip(b"\0")
        while len(pending) < 2:
            piece = pieces.take(_FIRST)
            if not piece:
                break
            pending += piece
        if len(pending) >= 2 and pending[0] == 0:
            continue
        if pending.strip(b"\0") == b"":
            return b""
        if pending[:2] != b"\x1f\x8b":
            raise IntegrityError(
                f"corrupt gzip: {what}: got {pending[:2].hex()} after a member, want 1f8b or zeros"
            )
        return _with_whole_header(pending, pieces, what)


def _with_whole_header(pending: bytes, pieces: _Pieces, what: str) -> bytes:
    # ISA-L 2.31 rejects a header that is split over two calls if it has a checksum or more than
    # one optional field.
    while not _has_whole_header(pending):
        piece = pieces.take(max(len(pending), _FIRST))
        if not piece or len(pending) > _HEADER_LIMIT:
            raise IntegrityError(
                f"truncated: {what}: got {len(pending)} bytes of a gzip member, want its header"
            )
        pending += piece
    return pending


def _has_whole_header(data: bytes) -> bool:
    """Return whether data contains a complete gzip header (RFC 1952, section 2.3.1)."""
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
    """An iterator of chunks as the file that python-zstandard requires."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._pending = b""

    def read(self, size: int) -> bytes:
        chunk = self._pending or next(self._chunks, b"")
        self._pending = chunk[size:]
        return chunk[:size]


def _unzstd(chunks: Iterator[bytes], what: str, max_window: int) -> Iterator[bytes]:
    # This reader ends without an error after a truncated frame; the caller's digest detects that.
    # decompressobj would raise one, but its calls return output of any size.
    import zstandard  # only zstd needs it

    reader = zstandard.ZstdDecompressor(max_window_size=max_window).stream_reader(
        cast("IO[bytes]", _ChunkFile(chunks)),
        read_size=CHUNK,
        read_across_frames=True,
    )
    try:
        yield from read_chunks(reader)
    except zstandard.ZstdError as error:
        if "too much memory" in str(error):
            raise LayerError(
                f"over a limit: {what}: got a zstd window of more than {max_window} bytes, "
                f"want at most {max_window}",
                hint="raise the limit with --max-window if you trust the image",
            ) from error
        raise IntegrityError(
            f"corrupt zstd: {what}: got {_fault(error)}, want a zstd stream"
        ) from error


def _fault(error: Exception) -> str:
    """Return the fault of a stream in our words; the libraries add numbers and other names."""
    return "a wrong checksum" if "checksum" in str(error).lower() else "malformed data"


# Compression: equal input gives equal output.


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def compression_level(compression: Compression, level: int | None) -> int:
    """Return a valid compression level.

    :param level: the level that the user asks for, or ``None`` for the default.
    :raises UsageError: the compression does not have the level.
    """
    lowest, usual, highest = LEVELS[compression]
    if level is None:
        return usual
    if not lowest <= level <= highest:
        raise UsageError(f"invalid level: {compression}: got {level}, want {lowest} to {highest}")
    return level


def compressed(
    chunks: Iterator[bytes], compression: Compression, level: int | None = None
) -> Iterator[bytes]:
    """Compress chunks: gzip without a name and a time, or one zstd frame by one thread.

    :param level: see `LEVELS`; ``None`` for the default.
    :raises UsageError: the compression does not have the level.
    """
    compressor = _compressor(compression, compression_level(compression, level))
    for chunk in chunks:
        if data := compressor.compress(chunk):
            yield data
    yield compressor.flush()


def _compressor(compression: Compression, level: int) -> _Compressor:
    import zlib  # only a push compresses layers

    if compression == "gzip":  # zlib sets the time to 0 (zlib.h, deflateInit2)
        return zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    import zstandard  # only zstd needs it

    return zstandard.ZstdCompressor(level=level).compressobj()
