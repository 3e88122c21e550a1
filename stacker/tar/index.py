"""The members of an archive that is read for its own sake: names and places, no payloads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from stacker.errors import LayerError
from stacker.tar.blocks import BLOCK
from stacker.tar.entry import Directory, File, HardLink, Symlink, shown
from stacker.tar.reader import TarReader


class Member(NamedTuple):
    """A member of an archive read for its own sake: where it lies in the file."""

    name: bytes
    kind: bytes
    size: int
    offset: int
    linkname: bytes


class _Seeking:
    """Chunks of a file, over whose payloads a reader may jump."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = file.seek(0, os.SEEK_END)
        file.seek(0)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._file.read(16 * BLOCK)
        if not chunk:
            raise StopIteration
        return chunk

    def skip(self, length: int) -> None:
        """Go on ``length`` bytes further, at the most to the end of the file."""
        self._file.seek(min(self._file.tell() + length, self._end))


def read_index(file: BinaryIO, what: str) -> Iterator[Member]:
    """Give the members of the archive ``file``, a seekable file, without reading their payloads.

    :raises LayerError: it is malformed or cut short.
    """
    end = file.seek(0, os.SEEK_END)
    reader = TarReader(_Seeking(file), what=what)
    for entry in reader:
        match entry:
            case File(path=path, size=size, stored=stored):
                if entry.segments is not None or reader.offset + stored > end:
                    raise LayerError(
                        f"malformed archive: {what}: {shown(path)}: got {end} bytes of archive, "
                        f"want {size} bytes of file at {reader.offset}"
                    )
                yield Member(path, b"0", size, reader.offset, b"")
            case Directory(path=path):
                yield Member(path, b"5", 0, reader.offset, b"")
            case Symlink(path=path, target=target):
                yield Member(path, b"2", 0, reader.offset, target)
            case HardLink(path=path, target=target):
                yield Member(path, b"1", 0, reader.offset, target)
            case _:
                continue
