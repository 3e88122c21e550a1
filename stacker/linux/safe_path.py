"""Open and resolve directories on paths that other users can change meanwhile.

A path comes in; a descriptor, or an absolute path without symlinks, goes out.  The walk opens one
component after another relative to a descriptor, so a directory that is exchanged with a symlink
during the walk redirects nothing.  This module does not use mounts.

Another user who owns a directory on the path can exchange what is inside it (rename(2)).  The
kernel's fs.protected_symlinks protects sticky directories only (proc_sys_fs(5)).  So `resolve`
follows a symlink only if root or the caller owns it, and `open_directory` follows none.
`open_in_root` follows the symlinks of any owner, but none out of a directory.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.linux import process
from stacker.linux.syscall import syscall

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SEARCH = _PIN | os.O_DIRECTORY
_LINK_LIMIT = 40  # MAXSYMLINKS, include/linux/namei.h
_STICKY_WRITABLE = stat.S_IWOTH | stat.S_ISVTX
_OPENAT2 = 437  # on every architecture except alpha
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10  # include/uapi/linux/openat2.h


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open a path as if a directory were the root directory (openat2(2), *RESOLVE_IN_ROOT*).

    Neither a symlink nor ``..`` leads out of the directory, even if another process renames what
    is in it.  The caller closes the descriptor.

    :param root: descriptor of the directory.
    :param flags: as for open(2).
    :raises OSError: ENOSYS before Linux 5.6; otherwise the kernel's error.
    """
    import struct

    resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return syscall(_OPENAT2, root, os.fsencode(path), how, len(how), path=path)


def open_directory(path: Path, *, follow: bool = False) -> int:
    """Open a directory with ``O_PATH``; the caller closes the descriptor.

    :param follow: follow symlinks of root and of the caller, instead of none.
    :raises OSError: ENOTDIR for a symlink, also in place of a parent; ELOOP for a symlink of
        another user; otherwise the kernel's error.  The error has the path.
    """
    with _walking(path, follow=follow) as walk:
        walk.run()
        return walk.reached()


def make_directories(path: Path, *, mode: int, start: int | None = None) -> int:
    """Open a directory with ``O_PATH``, after creating it and its missing parents.

    Symlinks of root and of the caller are followed.

    :param mode: the permissions of a new directory, whatever the umask.
    :param start: descriptor of the directory that a relative path starts at.
    :raises OSError: as for `open_directory`.
    """
    with _walking(path, follow=True, start=start) as walk:
        walk.run()
        while walk.left and walk.error.errno == errno.ENOENT:
            with suppress(FileExistsError):
                os.mkdir(walk.left[-1], mode, dir_fd=walk.here)
                walk.enter(mode)
            walk.run()
        return walk.reached()


def resolve(path: Path, *, strict: bool = False) -> Path:
    """Return the absolute path without symlinks, as realpath(3) does.

    :param strict: require that the path exists.
    :raises OSError: ELOOP for a symlink of another user, or for too many symlinks.  With `strict`
        also the kernel's error for a component.
    """
    walk = _Walk(path, follow=True)
    try:
        walk.run()
        if walk.left and (strict or walk.error.errno == errno.ELOOP) and not walk.is_at_file:
            raise OSError(walk.error.errno, walk.error.strerror, os.fspath(path))
        found = os.readlink(f"/proc/self/fd/{walk.here}")
        rest = [os.fsdecode(name) for name in reversed(walk.left)]
        return Path(os.path.normpath(os.path.join(found, *rest)))
    finally:
        walk.close()


def require_same(path: Path, descriptor: int) -> None:
    """Require that a path still leads to an open directory.

    :raises OSError: ESTALE if another process exchanged it; otherwise the kernel's error.
    """
    now = open_directory(path)
    try:
        if not os.path.sameopenfile(now, descriptor):
            raise OSError(errno.ESTALE, "another process replaced it", os.fspath(path))
    finally:
        os.close(now)


def replaceable_ancestor(path: Path) -> tuple[Path, int] | None:
    """Return the first directory above a path in which another user can replace names.

    That user owns the directory, or everyone can write to it without the sticky bit.

    :param path: absolute, without symlinks; missing components are skipped.
    :returns: the directory and its owner; ``None`` if root and the caller own them all.
    """
    for above in reversed(path.parents):
        try:
            status = os.lstat(above)
        except FileNotFoundError:
            return None
        writable = status.st_mode & _STICKY_WRITABLE == stat.S_IWOTH
        if writable or not process.is_trusted_owner(status.st_uid):
            return above, status.st_uid
    return None


class _Walk:
    """A walk from the root or the working directory to a directory.

    ``here`` is the deepest directory that the walk has reached.  ``left`` has the components after
    it, the next one last.  ``error`` is the reason why the walk cannot enter the next one.
    """

    __slots__ = ("_follow", "_links", "error", "here", "is_at_file", "left")

    def __init__(self, path: Path, *, follow: bool, start: int | None = None) -> None:
        self._follow = follow
        self._links = 0
        self.error = OSError()
        self.is_at_file = False
        self.left = os.fsencode(path).split(b"/")[::-1]
        self.here = os.open(b"/" if path.is_absolute() else b".", _SEARCH, dir_fd=start)

    def run(self) -> None:
        while self.left:
            name = self.left[-1]
            try:
                if name not in {b"", b"."}:
                    self._move(os.open(name, _SEARCH, dir_fd=self.here))
                self.left.pop()
            except NotADirectoryError as error:
                self.error = error
                if not (self._follow and self._follow_link(name)):
                    return
            except OSError as error:
                self.error = error
                return

    def enter(self, mode: int) -> None:
        """Enter a new directory, and set its permissions."""
        self._move(os.open(self.left.pop(), _SEARCH, dir_fd=self.here))
        os.chmod(f"/proc/self/fd/{self.here}", mode)

    def reached(self) -> int:
        """Return a new descriptor of the path's directory, or raise `error`."""
        if self.left:
            raise self.error
        return os.dup(self.here)

    def close(self) -> None:
        os.close(self.here)

    def _move(self, descriptor: int) -> None:
        os.close(self.here)
        self.here = descriptor

    def _follow_link(self, name: bytes) -> bool:
        """Replace a symlink by the components of its target; return False if it cannot."""
        try:
            link = os.open(name, _PIN, dir_fd=self.here)
        except OSError as error:
            self.error = error
            return False
        try:
            status = os.fstat(link)
            if not stat.S_ISLNK(status.st_mode):
                self.is_at_file = len(self.left) == 1
                return False
            return self._replace(name, status.st_uid, os.readlink(b"", dir_fd=link))
        finally:
            os.close(link)

    def _replace(self, name: bytes, owner: int, target: bytes) -> bool:
        self._links += 1
        if not process.is_trusted_owner(owner):
            text = f"{os.fsdecode(name)!r} is a symlink of another user (UID {owner})"
            self.error = OSError(errno.ELOOP, text)
            return False
        if self._links > _LINK_LIMIT:
            self.error = OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            return False
        self.left.pop()
        self.left += target.split(b"/")[::-1]
        if target.startswith(b"/"):
            self._move(os.open(b"/", _SEARCH))
        return True


@contextmanager
def _walking(path: Path, *, follow: bool, start: int | None = None) -> Iterator[_Walk]:
    """Yield a walk, and name the whole path in its errors."""
    walk = _Walk(path, follow=follow, start=start)
    try:
        yield walk
    except OSError as error:
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        walk.close()
