"""Partial blobs: the first bytes of interrupted downloads, which a later pull resumes.

    $STORE/partial/<algorithm>-<hex>

`PartialStore` takes a digest and returns a `Partial`, a locked file for one process at a time.  Its
content is not verified, so it is not below ``blobs/``.  This module does not download.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stacker.errors import NO_SPACE
from stacker.image.digest import Digest
from stacker.linux import lock

STALE_AFTER: Final = 7 * 24 * 3600
"""Seconds after the last write when a partial blob is abandoned."""


class Partial:
    """The first ``size`` bytes of a blob, in a file that this process has locked.

    :param descriptor: the file, open for reading and writing.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.is_complete = self._is_gone = False
        self._position = 0

    @property
    def is_suspect(self) -> bool:
        """Whether bytes of an earlier pull can be the cause of a wrong digest."""
        return self.size > 0 and not self.is_complete

    def read(self, size: int, /) -> bytes:
        """Return the next bytes of the partial blob, ``b""`` at its end."""
        data = os.pread(self._descriptor, min(size, self.size - self._position), self._position)
        self._position += len(data)
        return data

    def clear(self) -> None:
        """Truncate the file to nothing."""
        os.ftruncate(self._descriptor, 0)
        self.size = self._position = 0

    def remove(self) -> None:
        """Unlink the file, unless it is already removed or renamed to a blob."""
        if not self._is_gone:  # another process may use the name by now
            self.path.unlink(missing_ok=True)
            self._is_gone = True

    def tee(self, chunks: Iterator[bytes], *, is_needed: bool) -> Iterator[bytes]:
        """Yield the chunks of the complete blob, and append the missing ones to the file.

        The blob is complete after the last chunk, because verified chunks end only if they match.

        :param is_needed: whether a full disk is an error; otherwise the file is truncated.
        :raises OSError: a write fails.
        """
        seen, is_writing = 0, True
        for chunk in chunks:
            start, seen = seen, seen + len(chunk)
            if is_writing and seen > self.size:
                fresh = memoryview(chunk)[max(0, self.size - start) :]
                is_writing = self._write(fresh, seen - len(fresh), is_needed=is_needed)
            yield chunk
        self.is_complete = True

    def _write(self, data: memoryview, offset: int, *, is_needed: bool) -> bool:
        try:
            while data:
                done = os.pwrite(self._descriptor, data, offset)
                data, offset = data[done:], offset + done
        except OSError as error:
            if is_needed or error.errno not in NO_SPACE:
                raise
            os.ftruncate(self._descriptor, 0)
            return False
        return True


@dataclass(frozen=True, slots=True)
class PartialStore:
    """The directory ``partial/`` of a store, created on first use."""

    root: Path

    @contextmanager
    def locked(self, digest: Digest) -> Iterator[Partial | None]:
        """Lock a partial blob, and yield it; it may be empty.

        The file stays after the context, unless it is empty.  Yields ``None`` if another process
        has the lock.
        """
        self.root.mkdir(mode=0o700, exist_ok=True)
        path = self.root / f"{digest.algorithm}-{digest.hex}"
        held = lock.try_exclusive(path)
        if held is None:
            yield None
            return
        with held:
            partial = Partial(path, held.descriptor)
            try:
                yield partial
            finally:
                if not os.fstat(held.descriptor).st_size:
                    partial.remove()

    def abandoned(self, *, older_than: float = STALE_AFTER) -> Iterator[Path]:
        """Yield partial blobs without a recent write, each locked until the next one.

        :param older_than: seconds since the last write.
        """
        limit = time.time() - older_than
        for path in self._all():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime >= limit:
                    continue
                held = lock.try_exclusive(path, create=False)
                if held is not None:
                    with held:
                        yield path

    def sweep(self) -> int:
        """Remove partial blobs without a recent write.

        :returns: the number of removed files.
        """
        swept = 0
        for path in self.abandoned():
            path.unlink()
            swept += 1
        return swept

    def _all(self) -> list[Path]:
        try:
            return sorted(self.root.iterdir())
        except FileNotFoundError:
            return []
