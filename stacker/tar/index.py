"""List the members of a seekable archive without reading their payloads.

An open file comes in; names, types and byte ranges go out.  `stacker.source` reads single files
of a docker archive through them.  This module must not interpret a member's content.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from stacker.errors import LayerError
from stacker.tar.blocks import BLOCK
from stacker.tar.entry import Directory, File, HardLink, Symlink, printable
from stacker.tar.reader import TarReader


class Member(NamedTuple):
    """A member of an archive.

    :param name: its normalised path.
    :param kind: the type flag: ``0`` file, ``1`` hard link, ``2`` symbolic link, ``5`` directory.
    :param size: the length of the payload in bytes.
    :param offset: the position of the payload in the archive.
    :param linkname: the target of a link.
    """

    name: bytes
    kind: bytes
    size: int
    offset: int
    linkname: bytes


class SeekableChunks:
    """The chunks of a file; a reader can seek over payloads with :meth:`skip`."""

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
        """Advance by ``length`` bytes, at most to the end of the file."""
        self._file.seek(min(self._file.tell() + length, self._end))


def read_index(file: BinaryIO, what: str) -> Iterator[Member]:
    """Yield the members of the seekable archive ``file``.

    :param what: the name of the archive in errors.
    :raises LayerError: the archive is malformed or truncated.
    """
    end = file.seek(0, os.SEEK_END)
    reader = TarReader(SeekableChunks(file), what=what)
    for entry in reader:
        match entry:
            case File(path=path, size=size, stored=stored):
                if entry.segments is not None or reader.offset + stored > end:
                    raise LayerError(
                        f"malformed archive: {what}: {printable(path)}: got {end} bytes of "
                        f"archive, want {size} bytes of file at {reader.offset}"
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
