"""Operations on files that an O_PATH descriptor refers to.

Functions take such a descriptor, or a directory descriptor and a name, and never follow symlinks.
Most system calls reject an O_PATH descriptor, so callers pass them its path under /proc instead,
which also works for a symlink (open(2), *O_PATH*; proc_pid_fd(5)).  This module does not use the
merged tree.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

from stacker.linux.syscall import PATH_MAX, checked, libc

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SEARCH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4  # include/uapi/linux/fs.h


def pin(name: bytes, directory: int) -> int:
    """Open a name in a directory with O_PATH, whatever its file type; the caller closes it.

    :param directory: descriptor of the directory.
    :raises OSError: the name is missing, or the directory cannot be searched.
    """
    return os.open(name, _PIN, dir_fd=directory)


def proc_path(descriptor: int) -> bytes:
    """Return the path under /proc to the file that a descriptor refers to."""
    return b"/proc/self/fd/%d" % descriptor


def reopen(descriptor: int, flags: int) -> int:
    """Open a pinned regular file or directory for reading or writing.

    If the mode denies access to its owner, this function adds u+rwx during the call.  The FUSE
    server has checked the permissions of the calling process already.

    :param descriptor: an ``O_PATH`` descriptor.
    :param flags: ``O_RDONLY`` or another access mode, and more flags of open(2).
    :raises OSError: ``EINVAL`` for any other file type; otherwise the kernel's error.
    """
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind not in {stat.S_IFREG, stat.S_IFDIR}:  # opening a device or a FIFO has side effects
        raise OSError(errno.EINVAL, "neither a file nor a directory")
    flags |= os.O_CLOEXEC | os.O_NOCTTY
    return with_owner_access(descriptor, lambda: os.open(proc_path(descriptor), flags))


def open_for_reading(path: bytes, flags: int, *, directory: int | None = None) -> int:
    """Open a file of this user for reading, even if its mode denies reading to its owner.

    Images contain such files (``/etc/gshadow`` is 0000, sudo is 4111).  Only root can read them
    without a change of the mode.

    :param flags: flags in addition to ``O_RDONLY``; a symlink is not followed.
    :param directory: descriptor that a relative ``path`` starts at.
    :raises OSError: the kernel's error.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)
    except PermissionError:
        above = os.open(os.path.dirname(path) or b".", _LIST, dir_fd=directory)
        try:
            fcntl.flock(above, fcntl.LOCK_EX)  # a concurrent call would restore the widened mode
            return _reopen_at(os.path.basename(path), above, flags)
        finally:
            os.close(above)


def open_below(root: bytes, path: bytes, *, no_symlinks: bool = False) -> int:
    """Open a file for reading below a directory, with a path of any length.

    The kernel accepts at most 4095 bytes at once (path_resolution(7)); a longer path is walked.

    :param path: relative to ``root``; empty for ``root`` itself, which is then a file.
    :param no_symlinks: walk every path, so that no component may be a symlink.
    :raises OSError: the kernel's error.
    """
    if not no_symlinks and len(root) + 1 + len(path) < PATH_MAX:
        return open_for_reading(root + b"/" + path if path else root, os.O_NONBLOCK)
    directory = os.open(root + b"/", _SEARCH)
    try:
        *above, name = path.split(b"/")
        for step in above:
            outer, directory = directory, os.open(step, _SEARCH, dir_fd=directory)
            os.close(outer)
        return open_for_reading(name, os.O_NONBLOCK, directory=directory)
    finally:
        os.close(directory)


def _reopen_at(name: bytes, directory: int, flags: int) -> int:
    held = pin(name, directory)
    try:
        return reopen(held, os.O_RDONLY | flags)
    finally:
        os.close(held)


def with_owner_access(descriptor: int, action: Callable[[], _Result]) -> _Result:
    """Run an action on an inode of this user; on EACCES, retry with mode bits u+rwx.

    The old mode is restored afterwards.

    :param descriptor: ``O_PATH`` descriptor of the inode.
    :raises OSError: the error of the action.
    """
    try:
        return action()
    except PermissionError as error:
        status = os.fstat(descriptor)
        if error.errno != errno.EACCES or status.st_uid != os.geteuid():
            raise
        mode = stat.S_IMODE(status.st_mode)
        os.chmod(proc_path(descriptor), mode | stat.S_IRWXU)
        try:
            return action()
        finally:
            os.chmod(proc_path(descriptor), mode)


def rename(source: bytes, source_in: int, target: bytes, target_in: int, flags: int) -> None:
    """Rename with renameat2(2).

    :param source_in: descriptor of the directory of ``source``.
    :param target_in: descriptor of the directory of ``target``.
    :param flags: ``RENAME_*`` flags, or 0.
    :raises OSError: the kernel's error; ``EINVAL`` if the filesystem does not support a flag.
    """
    if not flags:
        os.rename(source, target, src_dir_fd=source_in, dst_dir_fd=target_in)
        return
    checked(libc().renameat2(source_in, source, target_in, target, flags), target)


def allocate(file: int, mode: int, offset: int, length: int) -> None:
    """Allocate, punch or zero a range of a file (fallocate(2)).

    :param mode: ``FALLOC_FL_*`` flags.
    :param offset: bytes.
    :param length: bytes.
    :raises OSError: the kernel's error.
    """
    import ctypes

    checked(libc().fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)))


class DescriptorCache:
    """Open descriptors by a number; the least recently used one is closed first.

    :param limit: the number of descriptors that stay open.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[int, int] = OrderedDict()

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def get(self, number: int) -> int | None:
        """Return a descriptor, valid until the next call of `keep`; ``None`` if it is closed."""
        fd = self._open.get(number)
        if fd is not None:
            self._open.move_to_end(number)
        return fd

    def keep(self, number: int, fd: int) -> int:
        """Take over a descriptor, and return it."""
        self._open[number] = fd
        if len(self._open) > self._limit:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def drop(self, number: int) -> None:
        """Close a descriptor, if it is open."""
        fd = self._open.pop(number, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close all descriptors."""
        while self._open:
            os.close(self._open.popitem()[1])
