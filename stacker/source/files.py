"""Read-only trees of named files: a directory or an archive.

A name such as ``blobs/sha256/…`` comes in; a `FileSlice` goes out.  This module must not know what
the files mean.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from stacker.errors import IntegrityError, NotFoundError, StackerError
from stacker.image.document import DOCUMENT_LIMIT, quoted

if TYPE_CHECKING:
    from typing import BinaryIO

    from stacker.image.descriptor import Descriptor


class FileSlice(io.RawIOBase):
    """The bytes from `offset` up to `offset + size` of a file descriptor, which it owns.

    It reads with pread(2), so it neither uses nor changes the descriptor's file offset.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._position = offset
        self._end = offset + size
        self.size = size

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, all that are left if negative, b"" at the end."""
        if size is None or size < 0:
            return self.readall()
        data = os.pread(self._fd, min(size, self._end - self._position), self._position)
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Read bytes into `buffer`, and return how many."""
        view = memoryview(buffer)[: self._end - self._position]
        count = os.preadv(self._fd, [view], self._position)
        self._position += count
        return count

    def close(self) -> None:
        """Close the descriptor; further calls do nothing."""
        if not self.closed:
            os.close(self._fd)
            self._fd = -1  # the kernel may reuse the number
        super().close()


class FileTree(Protocol):
    """A read-only tree of files."""

    @property
    def what(self) -> str:
        """The tree's name for messages."""

    def open(self, name: str) -> FileSlice:
        """Return the content of the file at `name`.

        :param name: a relative path without ``.`` and ``..``.
        :raises NotFoundError: no such file.
        :raises IntegrityError: not a regular file, or a broken link.
        """


@dataclass(frozen=True, slots=True)
class Directory:
    """The files below the absolute `path`."""

    path: str
    what: str

    def open(self, name: str) -> FileSlice:
        """Return the content of a file below the directory; see `FileTree`."""
        fd, size = open_regular(f"{self.path}/{name}", f"{self.what}: {name}")
        return FileSlice(fd, 0, size)


def open_regular(path: str, what: str) -> tuple[int, int]:
    """Open a regular file for reading; return its descriptor and its size in bytes.

    :raises NotFoundError: no such file.
    :raises IntegrityError: not a regular file.
    :raises StackerError: the kernel refuses for another reason.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not hang.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"not found: {what}") from None
    except OSError as error:
        raise StackerError(f"cannot open: {what}: {error.strerror}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise IntegrityError(f"cannot read: {what}: got another type, want a regular file")
    return fd, status.st_size


def read_document_file(files: FileTree, name: str) -> bytes:
    """Return the whole content of a JSON document.

    :raises NotFoundError: no such file.
    :raises IntegrityError: it exceeds `DOCUMENT_LIMIT` bytes.
    """
    with files.open(name) as window:
        if window.size > DOCUMENT_LIMIT:
            raise IntegrityError(
                f"document too large: {files.what}: {quoted(name)}: got {window.size} bytes, "
                f"want at most {DOCUMENT_LIMIT}"
            )
        return window.readall()


def open_blob_file(files: FileTree, name: str, descriptor: Descriptor) -> BinaryIO:
    """Return the file at `name`, the blob that `descriptor` describes; not verified.

    :raises NotFoundError: no such file; the hint has the URLs of a foreign layer.
    :raises IntegrityError: the file has another size than the descriptor.
    """
    try:
        window = files.open(name)
    except NotFoundError as error:
        hint = f"a foreign layer: fetch it from {', '.join(map(quoted, descriptor.urls))}"
        raise NotFoundError(
            f"blob {error.message}",
            hint=hint if descriptor.is_foreign and descriptor.urls else None,
        ) from None
    if window.size != descriptor.size:
        window.close()
        raise IntegrityError(
            f"wrong size: {files.what}: {descriptor.digest}: "
            f"got {window.size} bytes, want {descriptor.size}"
        )
    return cast("BinaryIO", window)
