"""The checksums of a layer's files and of an index.

A diff_id proves that a whole layer is unchanged, but does not tell which file is damaged.  So
`stacker verify` keeps a CRC-32 of each file of a layer that it found sound.  An ``array`` of
numbers comes in and goes out.  This module must not read the files of the layer: both forms of a
layer have the same checksums.

An index is a function of tars and records.  If `stacker verify` has built an index again and found
it equal, it keeps one SHA-256 of the index, the tars and the records.  As long as this checksum is
the same, a later `verify` need not build the index.

The file starts with ``CRC32`` and a version, 8 bytes together.  The numbers follow, 4 bytes each,
little-endian, one for each range of data in the order of the tar.  The last 4 bytes are the CRC-32
of all bytes before them, since nothing flushes the file to disk.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from isal.isal_zlib import crc32

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.tar.entry import File

_HEAD: Final = b"CRC32\0\0\1"
_WIDTH: Final = 4
_HEX: Final = frozenset(b"0123456789abcdef")
RULES: Final = b"1"
"""The version of the rules; each change that gives another index for the same tar changes it.

An index that an older version compared is then compared again.
"""


class FileContents(NamedTuple):
    """The contents of one file, as it is on disk.

    :param path: its path in the layer.
    :param ranges: the number of its ranges of data.
    :param got: the CRC-32 of each range, or why they cannot be read.
    """

    path: bytes
    ranges: int
    got: Sequence[int] | str


def new_checksums() -> array[int]:
    """Return an empty array of checksums."""
    return array("I")


def write_checksums(path: Path, checksums: array[int], *, temporary: Path) -> None:
    """Write the checksums of a layer.

    :param temporary: a path on the same filesystem, to write to first.
    :raises OSError: the file cannot be written.
    """
    content = _HEAD + _swapped(checksums).tobytes()
    temporary.write_bytes(content + crc32(content).to_bytes(_WIDTH, "little"))
    temporary.rename(path)


def read_checksums(path: Path) -> array[int] | None:
    """Return the checksums of a layer.

    :returns: ``None`` if there are none yet, if the file is damaged, or if it has another version.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    whole, own = content[:-_WIDTH], content[-_WIDTH:]
    if whole[: len(_HEAD)] != _HEAD or len(whole) % _WIDTH:
        return None
    if crc32(whole).to_bytes(_WIDTH, "little") != own:
        return None
    return _swapped(array("I", whole[len(_HEAD) :]))


def wrong_contents(
    found: Iterable[FileContents], checksums: array[int] | None
) -> Iterator[tuple[bytes, str, str]]:
    """Yield each file with the wrong contents: its path, what it has and what it should have.

    :param found: all files of the layer, in the order of the tar.
    :param checksums: those of the layer, as many as `found` has ranges; ``None`` to yield only
        files that cannot be read.
    """
    wanted = iter(checksums or ())
    for path, count, got in found:
        want = [*islice(wanted, count)]
        if isinstance(got, str):
            yield path, got, "readable"
            continue
        for has, wants in zip(got, want, strict=checksums is not None):
            if has != wants:
                yield path, f"CRC-32 {has:08x}", f"{wants:08x}"
                break


def ranges(entry: File) -> tuple[tuple[int, int], ...]:
    """Return the ranges of a file that the tar has: pairs of offset and length in bytes."""
    return ((0, entry.size),) if entry.segments is None else entry.segments


def index_checksum(index: bytes, *sources: bytes) -> str:
    """Return the SHA-256 of an index, of all that it is built from, and of `RULES`.

    :param sources: the digests of the tars, and the records of the layers.
    """
    running = hashlib.sha256()
    for part in (RULES, *sources, index):
        running.update(len(part).to_bytes(8, "little"))
        running.update(part)
    return running.hexdigest()


def write_index_checksum(path: Path, checksum: str, *, temporary: Path) -> None:
    """Write the checksum of an index that was compared; parameters as for `write_checksums`.

    :raises OSError: the file cannot be written.
    """
    temporary.write_text(f"{checksum}\n")
    temporary.rename(path)


def has_index_checksum(path: Path, checksum: str) -> bool:
    """Return whether a file has this checksum; a damaged or a missing file has none."""
    try:
        return path.read_bytes() == f"{checksum}\n".encode()
    except OSError:
        return False


def is_damaged(path: Path) -> bool:
    """Return whether a file of checksums exists and cannot be used.

    :param path: the checksums of a layer's files, or the checksum of an index.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return False
    if path.suffix == ".sha256":
        return len(content) != 65 or not _HEX.issuperset(content[:-1]) or content[-1:] != b"\n"
    return read_checksums(path) is None


def _swapped(numbers: array[int]) -> array[int]:
    """Return numbers in the byte order of the file, or of this machine."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
