"""Plain chunks in, compressed chunks out; equal bytes in give equal bytes out.

gzip (RFC 1952) without a name and a time, zstd (RFC 8878) in one frame by one thread.  Knows no
digests and no tar.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Literal, Protocol

from stacker.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

Compression = Literal["gzip", "zstd"]

LEVELS: Final[dict[Compression, tuple[int, int, int]]] = {"gzip": (1, 6, 9), "zstd": (1, 3, 22)}
"""The lowest level, the usual one and the highest."""

_GZIP = 16 + zlib.MAX_WBITS  # zlib writes RFC 1952, with time 0 (zlib.h, deflateInit2)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def checked_level(compression: Compression, level: int | None) -> int:
    """Return a level that `compression` has; the usual one for None.

    :raises UsageError: it has no such level.
    """
    lowest, usual, highest = LEVELS[compression]
    if level is None:
        return usual
    if not lowest <= level <= highest:
        raise UsageError(f"no such level: {compression}: got {level}, want {lowest} to {highest}")
    return level


def compressed(
    chunks: Iterator[bytes], compression: Compression, level: int | None = None
) -> Iterator[bytes]:
    """Compress `chunks`.

    :param level: one of `LEVELS`, the usual one for None.
    :raises UsageError: there is no such level.
    """
    compressor = _compressor(compression, checked_level(compression, level))
    for chunk in chunks:
        if data := compressor.compress(chunk):
            yield data
    yield compressor.flush()


def _compressor(compression: Compression, level: int) -> _Compressor:
    if compression == "gzip":
        return zlib.compressobj(level, zlib.DEFLATED, _GZIP)
    import zstandard  # only who asks for zstd needs it

    return zstandard.ZstdCompressor(level=level).compressobj()
