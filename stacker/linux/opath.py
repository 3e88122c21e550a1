"""Files held by a descriptor that only names them (O_PATH), and what is done to them.

In come such a descriptor, or a directory's and a name; symbolic links are never followed.  Most
calls refuse a descriptor of this kind, so they get the path under /proc that leads to the very
same object, a symbolic link included (open(2), *O_PATH*; proc_pid_fd(5)).  Knows no tree.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, TypeVar

from stacker.linux.syscall import checked, libc

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4  # include/uapi/linux/fs.h


def pin(name: bytes, directory: int) -> int:
    """Hold what a name in a directory is, whatever it is; the caller closes it.

    :raises OSError: as the kernel says.
    """
    return os.open(name, _PIN, dir_fd=directory)


def path_of(descriptor: int) -> bytes:
    """Give a path that leads to what a descriptor holds."""
    return b"/proc/self/fd/%d" % descriptor


def reopened(descriptor: int, flags: int) -> int:
    """Open a regular file or a directory that is held, for reading or writing.

    What its mode denies to its owner is granted for the moment: whoever asks was let in by the
    mode it shows elsewhere, or has it open already.

    :raises OSError: ``EINVAL`` for anything else; otherwise as the kernel says.
    """
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind not in {stat.S_IFREG, stat.S_IFDIR}:  # to open a device or a pipe would do something
        raise OSError(errno.EINVAL, "neither a file nor a directory")
    flags |= os.O_CLOEXEC | os.O_NOCTTY
    return unlocked(descriptor, lambda: os.open(path_of(descriptor), flags))


def opened_to_read(path: bytes, flags: int, *, directory: int | None = None) -> int:
    """Open a file of ours for reading, even where its mode denies it to its owner.

    Images have such files (``/etc/gshadow`` is 0000, sudo is 4111), and only root reads them as
    they are.

    :param flags: besides ``O_RDONLY``; a symbolic link is not followed.
    :raises OSError: as the kernel says.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)
    except PermissionError:
        above = os.open(os.path.dirname(path) or b".", _LIST, dir_fd=directory)
        try:
            fcntl.flock(above, fcntl.LOCK_EX)  # two at once could take the other's mode for its own
            return _reopened_at(os.path.basename(path), above, flags)
        finally:
            os.close(above)


def _reopened_at(name: bytes, directory: int, flags: int) -> int:
    held = pin(name, directory)
    try:
        return reopened(held, os.O_RDONLY | flags)
    finally:
        os.close(held)


def unlocked(descriptor: int, action: Callable[[], _Result]) -> _Result:
    """Do something to an inode of ours, even where its mode denies it to its owner.

    :raises OSError: as the action says.
    """
    try:
        return action()
    except PermissionError as error:
        status = os.fstat(descriptor)
        if error.errno != errno.EACCES or status.st_uid != os.geteuid():
            raise
        mode = stat.S_IMODE(status.st_mode)
        os.chmod(path_of(descriptor), mode | stat.S_IRWXU)
        try:
            return action()
        finally:
            os.chmod(path_of(descriptor), mode)


def rename(source: bytes, source_in: int, target: bytes, target_in: int, flags: int) -> None:
    """Rename, as renameat2(2) does.

    :param flags: ``RENAME_*``, or 0.
    :raises OSError: ``EINVAL`` too where the filesystem does not know a flag.
    """
    if not flags:
        os.rename(source, target, src_dir_fd=source_in, dst_dir_fd=target_in)
        return
    checked(libc().renameat2(source_in, source, target_in, target, flags), target)


def allocate(file: int, mode: int, offset: int, length: int) -> None:
    """Reserve, free or zero a piece of a file (fallocate(2)).

    :param mode: ``FALLOC_FL_*``.
    :raises OSError: as the kernel says.
    """
    import ctypes

    checked(libc().fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)))
