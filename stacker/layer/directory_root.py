"""The tree of a layer in a directory on disk, while it grows.

Paths come in; descriptors of their parent directories go out.  The kernel never gets a whole path:
this module opens a parent component by component with ``O_NOFOLLOW``, and drops a cached descriptor
when anything on its path is replaced (docs/rules.md, Containment).

A replaced file moves to another directory, since the skeleton still needs its content.  This
module must not follow symbolic links or set metadata.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Final

from stacker.layer.record import Replacement
from stacker.layer.root import LayerRoot, LowerTree
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tar.limits import Limits

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_AT_ONCE: Final = 128


def _components(path: bytes) -> list[bytes]:
    return path.split(b"/")


class DirectoryRoot(LayerRoot):
    """A growing tree on disk, with cached descriptors.

    :param root: an existing, private, empty directory.
    :param replaced: the directory for replaced files; made when needed.
    :param whiteout_format: how deletions are written.
    """

    def __init__(
        self,
        root: Path,
        *,
        replaced: Path,
        whiteout_format: WhiteoutFormat,
        lower: LowerTree | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(lower=lower, limits=limits or Limits())
        self._replaced = replaced
        self._format = whiteout_format
        self._root = os.open(root, _DIRECTORY)
        self._open: dict[bytes, tuple[int, bytes]] = {}
        self._latest_path: bytes | None = None
        self._latest = self._root, b""
        self._retired: list[int] = []

    def __enter__(self) -> DirectoryRoot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._retire(set(self._open))
        self._close_retired()
        os.close(self._root)

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """See :meth:`LayerRoot.parent`."""
        if path == self._latest_path:
            return self._latest
        cached = self._open.pop(path, None)
        if cached is None:
            physical = self._physical(path)
            if physical != path and self._lower is not None:
                return self.parent(physical)  # a lower symbolic link may be replaced without notice
            cached = self._descend(physical), physical
            if len(self._open) >= _OPEN_AT_ONCE:
                os.close(self._open.pop(next(iter(self._open)))[0])
        self._open[path] = cached
        self._latest_path, self._latest = path, cached
        return cached

    def kind(self, parent: int, name: bytes) -> int:
        """See :meth:`LayerRoot.kind`."""
        return stat.S_IFMT(os.lstat(name or b".", dir_fd=parent).st_mode)

    def target(self, parent: int, name: bytes) -> bytes | None:
        """See :meth:`LayerRoot.target`."""
        try:
            return os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None  # not a symbolic link
            raise

    def link(self, source_parent: int, source: bytes, parent: int, name: bytes) -> None:
        """See :meth:`LayerRoot.link`."""
        os.link(source, name, src_dir_fd=source_parent, dst_dir_fd=parent, follow_symlinks=False)

    def hide(self, parent: int, name: bytes) -> None:
        """See :meth:`LayerRoot.hide`."""
        self._format.hide(parent, name)

    def mark_opaque(self, path: bytes) -> None:
        """See :meth:`LayerRoot.mark_opaque`."""
        above, _, name = path.rpartition(b"/")
        fd = os.open(name or b".", _READABLE, dir_fd=self.parent(above)[0])
        try:
            self._format.make_opaque(fd)
        finally:
            os.close(fd)

    def innermost_first(self) -> Generator[tuple[bytes, int], None, None]:
        """Yield every directory after those inside it, with a descriptor that can read it."""
        fd, at = os.open(b".", _READABLE, dir_fd=self._root), b""
        try:
            for path in (*sorted(self.directories, key=_components)[1:], None):
                while at and (path is None or at != path.rpartition(b"/")[0]):
                    outer = os.open(b"..", _READABLE, dir_fd=fd)
                    try:
                        yield at, fd
                    finally:
                        os.close(fd)
                        fd, at = outer, at.rpartition(b"/")[0]
                if path is not None:
                    outer, fd = fd, os.open(path.rpartition(b"/")[2], _READABLE, dir_fd=fd)
                    os.close(outer)
                    at = path
            yield b"", fd
        finally:
            os.close(fd)

    def _create_directory(self, parent: int, name: bytes, mode: int) -> None:
        os.mkdir(name, mode | 0o700, dir_fd=parent)

    def _take_away(self, parent: int, name: bytes, physical: bytes) -> int:
        kind = self.kind(parent, name)
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            self._replaced.mkdir(mode=0o700, exist_ok=True)
            number = len(self.replacements)
            self.budget.spend(len(physical), physical)
            os.rename(name, self._replaced / str(number), src_dir_fd=parent)
            self.replacements.append(Replacement(self.entry_number, physical, number))
        else:
            os.unlink(name, dir_fd=parent)
        return kind

    def _drop_handles(self, physical: bytes, *, symlink: bool) -> None:
        """Drop descriptors; close them one call later, since the caller may still use one."""
        inside = physical + b"/"
        gone = {
            logical
            for logical, (_, real) in self._open.items()
            if logical != real or (not symlink and (real == physical or real.startswith(inside)))
        }
        self._retire(gone)

    def _retire(self, paths: set[bytes]) -> None:
        """Drop descriptors; close them one call later, since the caller may still use one."""
        self._close_retired()
        self._latest_path = None
        self._retired = [self._open.pop(path)[0] for path in paths]

    def _close_retired(self) -> None:
        while self._retired:
            os.close(self._retired.pop())

    def _descend(self, physical: bytes) -> int:
        """Open a directory of this tree, starting at its nearest open ancestor."""
        above, names = physical, []
        while above and above not in self._open:
            above, _, name = above.rpartition(b"/")
            names.append(name)
        start = self._root
        if above in self._open and self._open[above][1] == above:
            start = self._open[above][0]
        elif above:
            names = physical.split(b"/")[::-1]
        fd = os.open(names.pop() if names else b".", _DIRECTORY, dir_fd=start)
        while names:
            inner = os.open(names.pop(), _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        return fd
