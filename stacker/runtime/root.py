"""Read files of an image's root filesystem, in which the image's author chooses every name.

A directory comes in; bytes and resolved paths go out.  A symlink leads to what it would lead to
after chroot(2), never out of the directory.  Only regular files are opened for reading: opening a
FIFO would wait, and opening a device can have effects.  This module must not write.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError
from stacker.linux import safe_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOUNT_POINTS: Final = ("/proc", "/dev", "/sys")
"""The directories that a runtime mounts over."""
FILE_LIMIT: Final = 4 * 1024 * 1024
"""Maximum bytes of /etc/passwd and /etc/group."""
_LINK_LIMIT = 40  # MAXSYMLINKS, include/linux/namei.h
_MISSING = {errno.ENOENT, errno.ENOTDIR}
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Root:
    """An open root filesystem.

    :param descriptor: of its directory; the caller closes it.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    @contextmanager
    def open(cls, directory: Path) -> Iterator[Root]:
        """Open a root filesystem for the block, without following a symlink on its path.

        :raises OSError: the directory is missing, or a component is a symlink.
        """
        descriptor = safe_path.open_directory(directory)
        try:
            yield cls(descriptor)
        finally:
            os.close(descriptor)

    def read(self, path: str) -> bytes | None:
        """Return the contents of a file; ``None`` if it does not exist.

        :param path: absolute in the root.
        :raises IntegrityError: another kind of file, over `FILE_LIMIT`, or a loop of symlinks.
        """
        try:
            pinned = safe_path.open_in_root(self._descriptor, path, os.O_PATH)
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise _unusable(path, error.strerror or "", "a readable file") from error
        try:
            return _contents(pinned, path)
        finally:
            os.close(pinned)

    def resolve(self, path: str) -> str:
        """Return the absolute path in the root that a path leads to; a missing name stays.

        :raises IntegrityError: a loop of symlinks, or a name that the kernel refuses.
        """
        left, found, links = path.split("/")[::-1], list[str](), 0
        while left:
            name = left.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                del found[-1:]
                continue
            target = self._target("/".join([*found, name]))
            if target is None:
                found.append(name)
                continue
            links += 1
            if links > _LINK_LIMIT:
                raise _unusable(path, "a loop of symlinks", "a directory")
            found = [] if target.startswith("/") else found
            left += target.split("/")[::-1]
        return "/" + "/".join(found)

    def require_mount_points(self) -> None:
        """Require that each of `MOUNT_POINTS` is a directory or missing.

        A runtime that follows a symlink there mounts /proc elsewhere, and its masks cover nothing
        (CVE-2019-19921, CVE-2023-27561).

        :raises IntegrityError: one of them is a symlink or another kind of file.
        """
        for path in MOUNT_POINTS:
            mode = self._mode(path)
            if mode is not None and not stat.S_ISDIR(mode):
                raise _unusable(path, _kind(mode), "a directory")

    def _target(self, path: str) -> str | None:
        """Return the target of a symlink whose parents are directories; ``None`` otherwise."""
        try:
            pinned = safe_path.open_in_root(self._descriptor, path, os.O_PATH | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise _unusable(path, error.strerror or "", "a directory") from error
        try:
            is_link = stat.S_ISLNK(os.fstat(pinned).st_mode)
            return os.readlink("", dir_fd=pinned) if is_link else None
        finally:
            os.close(pinned)

    def _mode(self, path: str) -> int | None:
        try:
            return os.stat(path[1:], dir_fd=self._descriptor, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None


def _contents(pinned: int, path: str) -> bytes:
    """Read a file that an ``O_PATH`` descriptor refers to."""
    status = os.fstat(pinned)
    if not stat.S_ISREG(status.st_mode):
        raise _unusable(path, _kind(status.st_mode), "a regular file")
    try:
        file = os.open(f"/proc/self/fd/{pinned}", _READ)
    except OSError as error:
        raise _unusable(path, error.strerror or "", "a readable file") from error
    with open(file, "rb") as opened:
        raw = opened.read(FILE_LIMIT + 1)
    if len(raw) > FILE_LIMIT:
        raise _unusable(path, f"{status.st_size} bytes", f"at most {FILE_LIMIT}")
    return raw


def _kind(mode: int) -> str:
    names = {
        stat.S_IFLNK: "a symlink",
        stat.S_IFDIR: "a directory",
        stat.S_IFREG: "a regular file",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    return names.get(stat.S_IFMT(mode), "a device")


def _unusable(path: str, got: str, want: str) -> IntegrityError:
    return IntegrityError(f"unsafe root filesystem: {path!r} in the image: got {got}, want {want}")
