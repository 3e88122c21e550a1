"""The tar of a layer of the store, whichever form the layer has, and the checksums of its files.

The paths of a layer and its record come in; the tar's bytes go out, equal to those that were
unpacked, or the CRC-32 of each file.  This module must not compute digests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError

if TYPE_CHECKING:
    from stacker.layer.checksums import FileContents
    from stacker.layer.paths import LayerPaths
    from stacker.layer.record import LayerRecord

_CHUNK: Final = 1 << 17
"""Bytes; the chunks between two threads fit the second level of a processor's cache."""


def layer_tar(paths: LayerPaths, record: LayerRecord, *, what: str) -> Iterator[bytes]:
    """Yield the layer's tar: the file if there is one, else from the skeleton and the tree.

    :param what: the name of the layer in errors.
    :raises IntegrityError: a file is missing or has another length, or the skeleton is damaged.
    :raises OSError: the disk cannot read a file.
    """
    if paths.index.exists():
        return whole_tar(paths, record, what=what)
    from stacker.layer.skeleton import reassemble

    return reassemble(paths, record, what=what)


def whole_tar(paths: LayerPaths, record: LayerRecord, *, what: str) -> Iterator[bytes]:
    """Yield the file with the layer's tar, without its padding.

    :raises IntegrityError: the file is too short.
    :raises OSError: the disk cannot read it.
    """
    left = record.tar_bytes
    with paths.tar.open("rb", buffering=0) as file:
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise IntegrityError(
                    f"damaged layer: {what}: {paths.tar}: got {record.tar_bytes - left} bytes, "
                    f"want {record.tar_bytes}"
                )
            left -= len(chunk)
            yield chunk


def contents_in_tar(paths: LayerPaths, record: LayerRecord, *, what: str) -> Iterator[FileContents]:
    """Yield the contents of each file in the file with the layer's tar.

    :param what: the name of the layer in errors.
    :raises LayerError: a header is malformed.
    :raises OSError: the disk cannot read a header.
    """
    from stacker.layer.checksums import FileContents, ranges
    from stacker.tar.entry import File
    from stacker.tar.index import SeekableChunks
    from stacker.tar.limits import UNLIMITED
    from stacker.tar.reader import TarReader

    with paths.tar.open("rb") as file:
        reader = TarReader(SeekableChunks(file), what=what, limits=UNLIMITED)
        for entry in reader:
            if isinstance(entry, File):
                path = record.moved.get(reader.count - 1, entry.path)
                lengths = [length for _, length in ranges(entry)]
                got = _checksums(file.fileno(), reader.offset, lengths)
                yield FileContents(path, len(lengths), got)


def _checksums(tar: int, at: int, lengths: list[int]) -> list[int] | str:
    """Return the CRC-32 of each range from a position of the tar, or the kernel's error."""
    found = []
    try:
        for length in lengths:
            found.append(_checksum(tar, at, length))
            at += length
    except OSError as error:
        return error.strerror or "unreadable"
    return found


def _checksum(tar: int, at: int, length: int) -> int:
    from isal.isal_zlib import crc32

    checksum, end = 0, at + length
    while at < end and (data := os.pread(tar, min(_CHUNK, end - at), at)):
        checksum, at = crc32(data, checksum), at + len(data)
    return checksum
