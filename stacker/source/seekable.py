"""Decompress an archive into a temporary file, so that it can be read at any offset.

The path of an archive comes in; the path of an uncompressed archive goes out.  It is the same path
if the archive is not compressed.  This module does not read the archive's members.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

from stacker.errors import LayerError, NotFoundError, StackerError, UsageError
from stacker.image.location import STDIN
from stacker.stream.compression import decompressed, detect_compression, read_chunks
from stacker.stream.verify import metered
from stacker.tar.limits import ARCHIVE_GRACE, ARCHIVE_RATIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_STDIN = 0
_MAGIC = 4  # bytes that distinguish gzip, zstd and tar


@contextmanager
def seekable(path: str, what: str, *, spool: Path, ratio: int = ARCHIVE_RATIO) -> Iterator[str]:
    """Yield the path of an uncompressed archive, which exists until the context ends.

    A compressed archive (by its magic) and the content of a pipe go to a temporary file without a
    name in `spool`.  The limits of layers do not apply to that file, because it also has the
    members that belong to no layer.

    :param path: an absolute path, or one of `STDIN`.
    :param what: the archive's name for messages.
    :param ratio: maximum decompressed bytes per byte of the archive, beyond `ARCHIVE_GRACE`.
    :raises UsageError: stdin is a terminal.
    :raises NotFoundError: no such file.
    :raises IntegrityError: the archive is corrupt.
    :raises LayerError: the archive exceeds the limit.
    :raises StackerError: the archive cannot be opened.
    """
    with _opened(path, what) as file:
        if not _is_plain(file):
            opened = _spooled(file, what, spool, ratio)
        elif path in STDIN:
            opened = os.fdopen(os.dup(file.fileno()), "rb")
        else:
            opened = None
    if opened is None:
        yield path
        return
    with opened:  # a spooled file has no name: a killed command leaves no file
        os.set_inheritable(opened.fileno(), True)  # noqa: FBT003 - it has no keyword
        yield f"/proc/self/fd/{opened.fileno()}"  # worker processes inherit the descriptor


def _opened(path: str, what: str) -> BinaryIO:
    try:
        if path not in STDIN:
            return open(path, "rb")
        if os.isatty(_STDIN):
            raise UsageError(
                f"refusing to read an archive from a terminal: {what}", hint="redirect stdin"
            )
        return os.fdopen(os.dup(_STDIN), "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"no such file: {what}") from None
    except OSError as error:
        raise StackerError(f"cannot open: {what}: {error.strerror}") from error


def _is_plain(file: BinaryIO) -> bool:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return False
    return detect_compression(os.pread(file.fileno(), _MAGIC, 0)) == "none"


def _spooled(archive: BinaryIO, what: str, spool: Path, ratio: int) -> BinaryIO:
    """Return the decompressed archive as an open file without a name."""
    from tempfile import TemporaryFile  # heavy, and only a compressed archive needs it

    try:
        with ExitStack() as undo:
            file = undo.enter_context(TemporaryFile(prefix="stacker-archive-", dir=spool))
            for chunk in _bounded(archive, what, ratio):
                file.write(chunk)
            file.flush()
            undo.pop_all()
    except OSError as error:
        raise StackerError(
            f"cannot decompress the archive: {what}: {error.strerror}",
            hint=f"free space in {spool}, or decompress the archive yourself",
        ) from error
    return cast("BinaryIO", file)


def _bounded(archive: BinaryIO, what: str, ratio: int) -> Iterator[bytes]:
    """Decompress an archive up to a ratio; for a pipe, to the bytes that were read so far."""
    size = os.fstat(archive.fileno()).st_size
    read = written = 0

    def count(length: int) -> None:
        nonlocal read
        read += length

    for chunk in decompressed(metered(read_chunks(archive), count), what=what):
        written += len(chunk)
        if written > max(ARCHIVE_GRACE, ratio * max(size, read)):
            raise LayerError(
                f"over a limit: {what}: got {written} decompressed bytes from {max(size, read)} "
                f"bytes, want at most {ratio} decompressed bytes per byte",
                hint="if you trust the archive, raise the limit with --max-archive-ratio, or "
                "decompress the archive yourself",
            )
        yield chunk
