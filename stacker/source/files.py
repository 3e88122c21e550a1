"""A tree of named files to read from: a directory, or whatever else plays that role.

In comes a name such as ``blobs/sha256/…``, out comes a window of a file.  What the files mean
is not known here.
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
    """The bytes from `offset` up to `offset + size` of a descriptor, which it owns and closes.

    It reads with pread(2), so that nobody else's position matters, and gives no byte beyond its
    end even when the file has more.
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
        """Return up to `size` bytes, all that are left when negative, b"" at the end."""
        if size is None or size < 0:
            return self.readall()
        data = os.pread(self._fd, min(size, self._end - self._position), self._position)
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill as much of `buffer` as one read gives and return how much that is."""
        view = memoryview(buffer)[: self._end - self._position]
        count = os.preadv(self._fd, [view], self._position)
        self._position += count
        return count

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        if not self.closed:
            os.close(self._fd)
            self._fd = -1  # its number may soon be another file's
        super().close()


class FileTree(Protocol):
    """A read-only tree of files."""

    @property
    def what(self) -> str:
        """How the tree is called in messages."""

    def open(self, name: str) -> FileSlice:
        """Open the file at `name`, a relative path without ``.`` and ``..``.

        :raises NotFoundError: there is none.
        :raises IntegrityError: it is no regular file, or cannot be reached.
        """


@dataclass(frozen=True, slots=True)
class Directory:
    """The files below the absolute `path`."""

    path: str
    what: str

    def open(self, name: str) -> FileSlice:
        """Open a file below the directory; see `FileTree`."""
        fd, size = open_regular(f"{self.path}/{name}", f"{self.what}: {name}")
        return FileSlice(fd, 0, size)


def open_regular(path: str, what: str) -> tuple[int, int]:
    """Open a regular file for reading; return its descriptor and its size in bytes.

    :raises NotFoundError: there is none.
    :raises IntegrityError: it is something else, such as a directory.
    :raises StackerError: the kernel refuses for another reason.
    """
    try:
        # Not blocking: a FIFO in the place of a blob must not hang the reader.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"not found: {what}") from None
    except OSError as error:
        raise StackerError(f"cannot open: {what}: {error.strerror}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise IntegrityError(f"cannot read: {what}: got no regular file, want one")
    return fd, status.st_size


def read_document_file(files: FileTree, name: str) -> bytes:
    """Return a whole file that is to be a JSON document.

    :raises NotFoundError: there is none.
    :raises IntegrityError: it has more than `DOCUMENT_LIMIT` bytes.
    """
    with files.open(name) as window:
        if window.size > DOCUMENT_LIMIT:
            raise IntegrityError(
                f"document too large: {files.what}: {quoted(name)}: got {window.size} bytes, "
                f"want at most {DOCUMENT_LIMIT}"
            )
        return window.readall()


def open_blob_file(files: FileTree, name: str, descriptor: Descriptor) -> BinaryIO:
    """Open the file at `name` as the blob that `descriptor` describes.

    :raises NotFoundError: it is not there; the hint says where else a foreign layer may be had.
    :raises IntegrityError: its size is not the descriptor's.
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
