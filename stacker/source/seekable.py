"""Compressed archives made seekable: unpacked into a temporary file for as long as needed.

In comes the path of an archive, out comes the path of a plain one: the same, when it is not
compressed.  What is in the archive is not known here.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError, StackerError
from stacker.stream.compression import decompressed, detect_compression, read_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

SPOOL_LIMIT = 1 << 40
"""Bytes a compressed archive may unpack to."""

_MAGIC = 4  # bytes that tell gzip, zstd and tar apart


@contextmanager
def seekable(path: str, what: str, *, spool: Path, limit: int = SPOOL_LIMIT) -> Iterator[str]:
    """Give the path of a plain archive that may be opened until the context ends.

    A compressed one, by its magic, is unpacked into a file of `spool` that is removed at the
    end; so is whatever comes out of a pipe.

    :param path: an absolute path.
    :param what: the archive's name for messages.
    :param limit: bytes that may be written to `spool`.
    :raises NotFoundError: there is no such file.
    :raises IntegrityError: it is corrupt, or over the limit.
    :raises StackerError: it cannot be opened.
    """
    with _opened(path, what) as file:
        plain = path if _is_plain(file) else _spooled(file, what, spool, limit)
    try:
        yield plain
    finally:
        if plain != path:
            os.unlink(plain)


def _opened(path: str, what: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"not found: {what}") from None
    except OSError as error:
        raise StackerError(f"cannot open: {what}: {error.strerror}") from error


def _is_plain(file: BinaryIO) -> bool:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return False
    return detect_compression(os.pread(file.fileno(), _MAGIC, 0)) == "none"


def _spooled(archive: BinaryIO, what: str, spool: Path, limit: int) -> str:
    from tempfile import mkstemp  # heavy, and only a compressed archive needs it

    name = None
    try:
        fd, name = mkstemp(prefix="archive-", suffix=".tar", dir=spool)
        with os.fdopen(fd, "wb") as file:
            _write(decompressed(read_chunks(archive), what=what), file, what, limit)
    except BaseException as error:
        if name is not None:
            os.unlink(name)
        if isinstance(error, OSError):
            raise StackerError(
                f"cannot decompress the archive: {what}: {error.strerror}",
                hint=f"stacker decompresses it into a temporary file in {spool}",
            ) from error
        raise
    return name


def _write(chunks: Iterator[bytes], file: BinaryIO, what: str, limit: int) -> None:
    room = limit
    for chunk in chunks:
        room -= len(chunk)
        if room < 0:
            raise IntegrityError(
                f"too large: {what}: got more than {limit} bytes unpacked, want fewer"
            )
        file.write(chunk)
