"""Locks between unrelated processes: flock(2) on a file or directory that both can name.

In comes a path, out comes a held `Lock`, which is a context manager.  The kernel drops it when
the process ends, however it ends.  Knows nothing of what is being locked.

A lock file may be removed by its holder.  Whoever waited on the removed file then holds a lock
that nobody else can meet, so after each wait the path is looked up again.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class Lock:
    """A lock that is held until `release`, or the end of a ``with`` block.

    :param path: what is locked.
    :param descriptor: the open file that carries the lock; closed by `release`.
    """

    __slots__ = ("descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def release(self) -> None:
        """Let go; a second call does nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def exclusive(path: Path, *, create: bool = True) -> Lock:
    """Wait for the only lock on a path.

    :param create: make the file, with mode 0600, if it is missing; ``False`` to lock what is
        there, which may be a directory.
    :raises OSError: when the path cannot be opened.
    """
    return _held(_acquire(path, fcntl.LOCK_EX, create=create))


def shared(path: Path, *, create: bool = True) -> Lock:
    """Wait for a lock that others may share, but not with an exclusive one.

    :param create: as for `exclusive`.
    :raises OSError: when the path cannot be opened.
    """
    return _held(_acquire(path, fcntl.LOCK_SH, create=create))


def try_exclusive(path: Path, *, create: bool = True) -> Lock | None:
    """Take the only lock on a path at once, or return ``None`` when somebody holds one.

    :param create: as for `exclusive`.
    :raises OSError: when the path cannot be opened.
    """
    return _acquire(path, fcntl.LOCK_EX | fcntl.LOCK_NB, create=create)


def try_shared(path: Path, *, create: bool = True) -> Lock | None:
    """Take a shared lock at once, or return ``None`` when somebody holds the only one.

    :param create: as for `exclusive`.
    :raises OSError: when the path cannot be opened.
    """
    return _acquire(path, fcntl.LOCK_SH | fcntl.LOCK_NB, create=create)


def _acquire(path: Path, operation: int, *, create: bool) -> Lock | None:
    # NFS carries flock as a byte-range lock, which wants a file open for writing.
    flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
    while True:
        lock = Lock(path, os.open(path, flags | os.O_CLOEXEC, 0o600))
        try:
            fcntl.flock(lock.descriptor, operation)
            if _is_still_at(path, lock.descriptor):
                return lock
        except BlockingIOError:
            lock.release()
            return None
        except BaseException:
            lock.release()
            raise
        lock.release()


def _is_still_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _held(lock: Lock | None) -> Lock:
    if lock is None:  # flock without LOCK_NB waits
        raise AssertionError
    return lock
