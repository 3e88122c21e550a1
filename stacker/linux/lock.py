"""Locks between unrelated processes: flock(2) on a path, fcntl(2) on single bytes of a file.

A path comes in; a held `Lock`, a context manager, goes out.  The kernel releases the lock when the
process ends, even after SIGKILL.  `ByteLocks` holds any number of locks with one descriptor.  This
module does not depend on the locked object.

The holder may unlink its lock file.  A process that waited for the lock then locks a file without
a name, and excludes no other process.  So `_acquire` compares the path and the descriptor after
each wait, and tries again if they differ.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class Lock:
    """A held lock; `release` or the end of a ``with`` block drops it.

    :param path: the locked file or directory.
    :param descriptor: the open file that carries the lock; `release` closes it.
    """

    __slots__ = ("descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def exclusive(path: Path, *, create: bool = True) -> Lock:
    """Wait for an exclusive lock on a path.

    :param create: create a missing file with mode 0600.  With ``False`` the path must exist and
        may be a directory.
    :raises OSError: the path cannot be opened.
    """
    return _held(_acquire(path, fcntl.LOCK_EX, create=create))


def shared(path: Path, *, create: bool = True) -> Lock:
    """Wait for a shared lock on a path.

    :param create: as for `exclusive`.
    :raises OSError: the path cannot be opened.
    """
    return _held(_acquire(path, fcntl.LOCK_SH, create=create))


def try_exclusive(path: Path, *, create: bool = True) -> Lock | None:
    """Take an exclusive lock on a path without waiting.

    :param create: as for `exclusive`.
    :returns: ``None`` if another holder has a lock of either kind.
    :raises OSError: the path cannot be opened.
    """
    return _acquire(path, fcntl.LOCK_EX | fcntl.LOCK_NB, create=create)


def try_shared(path: Path, *, create: bool = True) -> Lock | None:
    """Take a shared lock on a path without waiting.

    :param create: as for `exclusive`.
    :returns: ``None`` if another holder has an exclusive lock.
    :raises OSError: the path cannot be opened.
    """
    return _acquire(path, fcntl.LOCK_SH | fcntl.LOCK_NB, create=create)


class ByteLocks(Lock):
    """Locks on single bytes of a file, all of which `release` drops.

    They belong to this object, as a `Lock` does, not to the process (fcntl_locking(2), *Open file
    description locks*).  The file is empty, and no process unlinks it.  In a sandbox without such
    locks, one flock(2) lock covers all bytes.

    :param path: the file; created with mode 0600 if it is missing.
    :raises OSError: the path cannot be opened.
    """

    __slots__ = ()

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def share(self, offset: int) -> None:
        """Wait for a shared lock on a byte.

        :param offset: less than 2**63.
        """
        if not self._set(fcntl.F_OFD_SETLKW, fcntl.F_RDLCK, offset):
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def try_exclude(self, offset: int) -> bool:
        """Take an exclusive lock on a byte without waiting; return whether that succeeded.

        :param offset: less than 2**63.
        """
        try:
            if not self._set(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, offset):
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
            return False
        return True

    def _set(self, command: int, kind: int, offset: int) -> bool:
        """Lock a byte; return False if the kernel has no open file description locks."""
        try:
            fcntl.fcntl(self.descriptor, command, struct.pack(_FLOCK, kind, 0, offset, 1, 0))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True


_FLOCK = "hhqqi0q"
"""The C type struct flock: kind, whence, start, length, process."""


def _acquire(path: Path, operation: int, *, create: bool) -> Lock | None:
    # NFS maps flock to a byte-range lock, which needs a file open for writing (flock(2)).
    flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
    while True:
        lock = Lock(path, os.open(path, flags | os.O_CLOEXEC, 0o600))
        try:
            fcntl.flock(lock.descriptor, operation)
            if _is_still_at(path, lock.descriptor):
                return lock
        except BlockingIOError:
            lock.release()
            if not operation & fcntl.LOCK_NB:  # the kernel has no memory for the lock
                raise
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
