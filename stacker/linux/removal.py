"""Remove directory trees of any shape, including hostile ones.

`remove_tree` takes a path.  Every system call is relative to the descriptor of one directory, so
that symlinks are not followed and paths stay short.  The walk returns to the parent by ``..`` and
compares its inode, so one descriptor is enough for any depth.  This module does not use layers or
stores.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IRWXU
from typing import TYPE_CHECKING

from stacker.errors import path_of
from stacker.linux import mountinfo, safe_path

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path, *, missing_ok: bool = False) -> None:
    """Remove a directory and its content, without following symlinks or entering mounts.

    Depth costs neither descriptors nor stack, and paths inside may be longer than PATH_MAX.  A
    directory whose mode denies access to its owner gets mode bits u+rwx first.

    :param missing_ok: accept a path that does not exist.
    :raises OSError: NotADirectoryError for any other file type.  EBUSY, before any removal, if
        the tree contains a mount.  Otherwise the kernel's error.
    """
    try:
        with _opened_parent(path) as above:
            _remove_contents(_open_named(path, above), path)
            os.rmdir(path.name, dir_fd=above)
    except FileNotFoundError:
        if not missing_ok or os.path.lexists(path):
            raise


def remove_path(path: Path) -> bool:
    """Remove a file of any type, or a directory tree as `remove_tree` does.

    :returns: whether the path existed.
    :raises OSError: as for `remove_tree`.
    """
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
        return True
    with suppress(FileNotFoundError):
        path.unlink()
        return True
    return False


def remove_contents(directory: Path | int) -> None:
    """Remove the content of a directory, and keep the directory itself.

    :param directory: a path, or a descriptor, which stays open.
    :raises OSError: as for `remove_tree`.
    """
    if isinstance(directory, int):
        _remove_contents(_open_directory(".", directory), _path_of(directory))
        return
    with _opened_parent(directory) as above:
        _remove_contents(_open_named(directory, above), directory)


def _open_named(path: Path, above: int) -> int:
    try:
        return _open_directory(path.name, above)
    except OSError as error:  # the error has the path, not its last component alone
        raise type(error)(error.errno, error.strerror, str(path)) from None


@contextmanager
def _opened_parent(path: Path) -> Iterator[int]:
    """Open the directory that contains a path; another user's symlink is not followed."""
    above = safe_path.open_directory(path.parent, follow=True)
    try:
        yield above
    finally:
        os.close(above)


def _remove_contents(directory: int, path: Path) -> None:
    """Empty a directory, and close its descriptor.

    :param path: its name in errors.
    """
    emptier = _Emptier(directory)
    try:
        _refuse_mounts(directory)
        emptier.run()
    except OSError as error:
        where = "/".join((str(path), *emptier.names_to_current(), path_of(error)))
        raise OSError(error.errno, error.strerror, where) from None
    finally:
        emptier.close()


class _Emptier:
    """A depth-first walk with one open directory, and the pending names of its ancestors."""

    __slots__ = ("_above", "_current", "_here", "_pending")

    def __init__(self, top: int) -> None:
        self._current = top
        self._here = _identity(top)
        self._pending: list[str] = []
        self._above: list[tuple[str, tuple[int, int], list[str]]] = []

    def run(self) -> None:
        self._pending = self._clear()
        while self._pending or self._above:
            if self._pending:
                self._descend(self._pending.pop())
            else:
                self._ascend()

    def close(self) -> None:
        os.close(self._current)

    def names_to_current(self) -> list[str]:
        return [name for name, _, _ in self._above]

    def _clear(self) -> list[str]:
        """Unlink the non-directories in the current directory; return its subdirectories."""
        with os.scandir(self._current) as entries:
            listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in listed:
            if not is_directory:
                os.unlink(name, dir_fd=self._current)
        return [name for name, is_directory in listed if is_directory]

    def _descend(self, name: str) -> None:
        child = _open_directory(name, self._current)
        self._above.append((name, self._here, self._pending))
        self._change_to(child)
        if self._here[0] != self._above[-1][1][0]:
            raise OSError(errno.EXDEV, "another filesystem is mounted here")
        self._pending = self._clear()

    def _ascend(self) -> None:
        parent = os.open("..", os.O_RDONLY | _DIRECTORY, dir_fd=self._current)
        self._change_to(parent)
        name, identity, self._pending = self._above[-1]
        if self._here != identity:
            raise OSError(errno.ESTALE, "the directory was moved during its removal")
        del self._above[-1]
        os.rmdir(name, dir_fd=self._current)

    def _change_to(self, descriptor: int) -> None:
        os.close(self._current)
        self._current = descriptor
        self._here = _identity(descriptor)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _open_directory(name: str, parent: int | None) -> int:
    """Open a directory, and add mode bits u+rwx if they are missing."""
    try:
        descriptor = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=parent)
    except PermissionError:
        _grant_owner_access(name, parent)
        descriptor = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=parent)
    if os.fstat(descriptor).st_mode & S_IRWXU != S_IRWXU:
        with suppress(PermissionError):  # not the owner; unlink(2) may work or fail
            os.fchmod(descriptor, S_IRWXU)
    return descriptor


def _grant_owner_access(name: str, parent: int | None) -> None:
    # fchmodat2(2) with AT_SYMLINK_NOFOLLOW needs Linux 6.6; fchmod(2) rejects O_PATH.
    handle = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", S_IRWXU)
    finally:
        os.close(handle)


def _refuse_mounts(directory: int) -> None:
    real = _path_of(directory)
    table = mountinfo.read()
    if busy := [*table.all_at(real), *table.below(real)]:
        raise OSError(errno.EBUSY, f"mounted here: {busy[0].mount_point}")


def _path_of(directory: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{directory}"))
