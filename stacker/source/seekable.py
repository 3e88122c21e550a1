"""Decompress an archive into a temporary file, so that it can be read at any offset.

The path of an archive comes in; the path of an uncompressed archive goes out.  It is the same path
if the archive is not compressed.  This module does not read the archive's members.
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
"""Maximum bytes of a decompressed archive."""

_MAGIC = 4  # bytes that distinguish gzip, zstd and tar


@contextmanager
def seekable(path: str, what: str, *, spool: Path, limit: int = SPOOL_LIMIT) -> Iterator[str]:
    """Yield the path of an uncompressed archive, which exists until the context ends.

    A compressed archive (by its magic) and the content of a pipe go to a temporary file in
    `spool`.

    :param path: an absolute path.
    :param what: the archive's name for messages.
    :param limit: maximum bytes of the temporary file.
    :raises NotFoundError: no such file.
    :raises IntegrityError: the archive is corrupt, or exceeds the limit.
    :raises StackerError: the archive cannot be opened.
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
                f"too large: {what}: got more than {limit} bytes decompressed, want at most {limit}"
            )
        file.write(chunk)
