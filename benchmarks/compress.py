"""Compress a layer in the three forms that the suites measure.

In: an uncompressed tar.  Out: a blob.  Equal tars give equal blobs.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_READ = 1 << 20
_MEMBER = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 6
_ZSTD_LEVEL = 3

Form = Callable[[BinaryIO], Iterator[bytes]]


def gzip_stream(tar: BinaryIO) -> Iterator[bytes]:
    """Return one gzip member at zlib's level 6, which most builders write."""
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    for chunk in _chunks(tar, _READ):
        yield deflate.compress(chunk)
    yield deflate.flush()


def gzip_members(tar: BinaryIO) -> Iterator[bytes]:
    """Return one gzip member for each 64 KiB, as seekable and parallel compressors write."""
    for chunk in _chunks(tar, _MEMBER):
        deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        yield deflate.compress(chunk) + deflate.flush()


def zstd(tar: BinaryIO) -> Iterator[bytes]:
    """Return one zstd frame at level 3, the usual default."""
    import zstandard

    compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
    for chunk in _chunks(tar, _READ):
        yield compress.compress(chunk)
    yield compress.flush()


FORMS: dict[str, tuple[Form, str]] = {
    "gzip": (gzip_stream, "application/vnd.oci.image.layer.v1.tar+gzip"),
    "gzip-members": (gzip_members, "application/vnd.oci.image.layer.v1.tar+gzip"),
    "zstd": (zstd, "application/vnd.oci.image.layer.v1.tar+zstd"),
}
"""Each form's compressor and media type (image-spec, layer.md)."""


def compressed(tar: Path, form: str, blob: Path) -> str:
    """Write ``tar`` to ``blob`` in ``form``; return the blob's digest."""
    sha256 = hashlib.sha256()
    with tar.open("rb") as source, blob.open("wb") as target:
        for chunk in FORMS[form][0](source):
            sha256.update(chunk)
            target.write(chunk)
    return f"sha256:{sha256.hexdigest()}"


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while chunk := file.read(size):
        yield chunk
