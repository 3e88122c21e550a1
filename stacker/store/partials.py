"""Blobs of which only the beginning is here: what a pull that died had got.

    $STORE/partial/<algorithm>-<hex>

In comes a digest, out comes a file that one process at a time may go on with; the file itself
carries the lock.  What is in it is not verified: a name here promises nothing, which is why it
stands outside of ``blobs/``.  Where the rest comes from is not known here.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stacker.image.digest import Digest
from stacker.linux import lock

STALE_AFTER: Final = 7 * 24 * 3600
"""Seconds after its last write when a partial blob counts as given up."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Partial:
    """The first ``size`` bytes of a blob, in a file that is ours alone.

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
        """Whether bytes of an earlier run may be at fault for what went wrong."""
        return self.size > 0 and not self.is_complete

    def read(self, size: int, /) -> bytes:
        """Read on in what was here at the start; b"" at its end."""
        data = os.pread(self._descriptor, min(size, self.size - self._position), self._position)
        self._position += len(data)
        return data

    def clear(self) -> None:
        """Forget what is here."""
        os.ftruncate(self._descriptor, 0)
        self.size = self._position = 0

    def remove(self) -> None:
        """Take the file away; nothing happens when it has gone, or become a blob."""
        if not self._is_gone:  # what has the name then is somebody else's
            self.path.unlink(missing_ok=True)
            self._is_gone = True

    def tee(self, chunks: Iterator[bytes], *, is_needed: bool) -> Iterator[bytes]:
        """Pass the whole blob's ``chunks`` on, and write what is not here yet.

        At their end, which they reach only when they were verified, the blob is whole.

        :param is_needed: a full disk is an error; otherwise the file gives way.
        :raises OSError: it cannot be written.
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
            if is_needed or error.errno not in _NO_SPACE:
                raise
            os.ftruncate(self._descriptor, 0)
            return False
        return True


@dataclass(frozen=True, slots=True)
class PartialStore:
    """The directory ``partial/`` of a store; it is made when it is needed."""

    root: Path

    @contextmanager
    def locked(self, digest: Digest) -> Iterator[Partial | None]:
        """Give what there is of a blob, ``None`` while somebody else goes on with it.

        What is there when the context ends stays, unless it is empty.
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

    def sweep(self, *, older_than: float = STALE_AFTER) -> int:
        """Remove what nobody wrote to for ``older_than`` seconds; say how many there were."""
        swept, limit = 0, time.time() - older_than
        for path in self._all():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime >= limit:
                    continue
                held = lock.try_exclusive(path, create=False)
                if held is not None:
                    with held:
                        path.unlink()
                    swept += 1
        return swept

    def _all(self) -> list[Path]:
        try:
            return sorted(self.root.iterdir())
        except FileNotFoundError:
            return []
