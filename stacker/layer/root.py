"""The directory that a layer is unpacked into, while it grows.

Paths come in; descriptors of their parent directories go out.  The layer's author is an attacker,
so the kernel never gets a whole path.  This module opens a parent component by component with
``O_NOFOLLOW``, and follows symbolic links inside the root itself.  It drops a cached descriptor
when anything on its path is replaced (docs/rules.md, Containment).

A replaced file moves to another directory, since the skeleton still needs its content.  This
module must not parse tars or set metadata.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Final, Protocol

from stacker.errors import LayerError
from stacker.layer.pending_links import LINK_BYTES, PendingLinks
from stacker.layer.record import Replacement
from stacker.layer.symlinks import follow_symlinks, join
from stacker.tar.entry import HardLink, Meta, printable
from stacker.tar.limits import Budget, Limits

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_AT_ONCE: Final = 128
IMPLIED_MODE: Final = 0o755
IMPLIED: Final = Meta(IMPLIED_MODE, 0, 0, 0, 0, None)
"""The attributes of a directory without an entry in any layer; fixed, so that trees are equal."""


class LowerTree(Protocol):
    """The tree below a layer that is applied again to a known stack."""

    def symlink(self, path: bytes) -> bytes | None:
        """Return the target if ``path`` is a symbolic link; its parents must be directories."""


def _components(path: bytes) -> list[bytes]:
    return path.split(b"/")


class LayerRoot:
    """A growing tree with cached descriptors.

    :param root: an existing, private, empty directory.
    :param replaced: the directory for replaced files; made when needed.
    :param lower: the tree below, if it is known.
    :param limits: limits the depth and the names to remember.

    ``directories`` maps the path of each directory to its :class:`Meta`, or to ``None`` if it has
    no entry.  ``assumed`` has the paths that have entries below them, but no entry of their own.
    ``severed`` has the directories that replaced a non-directory of this layer, so they expose
    nothing of the layers below.  ``pending`` has the hard links that wait for their targets.
    ``entry_number`` is the number of the current entry.  ``budget`` counts the names to remember.
    """

    def __init__(
        self,
        root: Path,
        *,
        replaced: Path,
        lower: LowerTree | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.directories: dict[bytes, Meta | None] = {b"": None}
        self.assumed: set[bytes] = set()
        self.severed: set[bytes] = set()
        self.replacements: list[Replacement] = []
        self.pending = PendingLinks()
        self.entry_number = 0
        self.budget = Budget(limits or Limits())
        self._depth = (limits or Limits()).depth
        self._inside: dict[bytes, list[bytes]] = {}
        self._replaced = replaced
        self._lower = lower
        self._root = os.open(root, _DIRECTORY)
        self._open: dict[bytes, tuple[int, bytes]] = {}
        self._latest_path: bytes | None = None
        self._latest = self._root, b""
        self._retired: list[int] = []

    def __enter__(self) -> LayerRoot:
        return self

    def __exit__(self, *_: object) -> None:
        self._retire(set(self._open))
        self._close_retired()
        os.close(self._root)

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Return a descriptor and the physical path of the directory ``path``; make it if needed.

        The descriptor stays open during the next replacement (`set_aside`).  The one after closes
        it.
        """
        if path == self._latest_path:
            return self._latest
        cached = self._open.pop(path, None)
        if cached is None:
            physical = path if path in self.directories else self._resolve(path)
            if physical not in self.directories:
                self._make(physical)
            if physical != path and self._lower is not None:
                return self.parent(physical)  # a lower symbolic link may be replaced without notice
            cached = self._descend(physical), physical
            if len(self._open) >= _OPEN_AT_ONCE:
                os.close(self._open.pop(next(iter(self._open)))[0])
        self._open[path] = cached
        self._latest_path, self._latest = path, cached
        return cached

    def existing(self, path: bytes) -> tuple[int, bytes] | None:
        """Return the result of :meth:`parent` if the directory is in this tree, else ``None``."""
        physical = path if path in self.directories else self._resolve(path)
        return self.parent(physical) if physical in self.directories else None

    def make_directory(self, parent: int, name: bytes, physical: bytes, mode: int) -> bool:
        """Make a directory if there is none; move anything else with its name out of the tree.

        :param physical: its path without symbolic links.
        :returns: whether it was made, with ``mode`` and access for its owner.
        :raises LayerError: it exceeds the depth limit, which symbolic links can get around.
        """
        if physical in self.directories:
            return False
        if physical.count(b"/") >= self._depth:
            raise self._too_deep(physical)
        self.budget.spend(len(physical), physical)
        try:
            os.mkdir(name, mode | 0o700, dir_fd=parent)
        except FileExistsError:
            self.set_aside(parent, name, physical)
            os.mkdir(name, mode | 0o700, dir_fd=parent)
            self.severed.add(physical)
        if self.pending.discard(physical):
            self.severed.add(physical)
        self.directories[physical] = None
        self._inside.setdefault(physical.rpartition(b"/")[0], []).append(physical)
        return True

    def defer(self, path: bytes, target: bytes) -> None:
        """Add the hard link at the physical path ``path`` to ``pending``."""
        self.budget.spend(len(path) + len(target) + LINK_BYTES, path)
        self.pending.add(HardLink(path, target))

    def set_aside(self, parent: int, name: bytes, physical: bytes) -> None:
        """Remove a name from the tree; move a regular file or a directory to ``replaced``."""
        mode = os.lstat(name, dir_fd=parent).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            self._replaced.mkdir(mode=0o700, exist_ok=True)
            number = len(self.replacements)
            self.budget.spend(len(physical), physical)
            os.rename(name, self._replaced / str(number), src_dir_fd=parent)
            self.replacements.append(Replacement(self.entry_number, physical, number))
        else:
            os.unlink(name, dir_fd=parent)
        if stat.S_ISDIR(mode):
            self._forget_below(physical)
        elif stat.S_ISLNK(mode):
            self._retire({logical for logical, (_, real) in self._open.items() if logical != real})

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

    def _too_deep(self, path: bytes) -> LayerError:
        return LayerError(
            f"over a limit: {printable(path[:80])}...: got more than {self._depth} nested "
            "directories, want fewer",
            hint="raise the limit with --max-depth if you trust the image",
        )

    def _forget_below(self, physical: bytes) -> None:
        inside, gone = physical + b"/", [physical]
        for path in gone:
            self.directories.pop(path, None)
            self.pending.discard_inside(path)
            gone += self._inside.pop(path, ())
        self._retire(
            {
                logical
                for logical, (_, real) in self._open.items()
                if logical != real or real == physical or real.startswith(inside)
            }
        )

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

    def _resolve(self, path: bytes) -> bytes:
        """Follow symbolic links inside the root; keep missing components."""

        def check(left: int) -> None:
            if left > self._depth:  # 40 links of 4096 bytes would make a very long walk
                raise self._too_deep(path)

        return follow_symlinks(path, self._target, want="a directory", left=self._left, check=check)

    def _left(self, physical: bytes) -> None:
        if physical not in self.directories and physical not in self.assumed:
            self.budget.spend(len(physical), physical)
            self.assumed.add(physical)

    def _target(self, candidate: bytes) -> bytes | None:
        if candidate in self.directories:
            return None
        physical, _, part = candidate.rpartition(b"/")
        return self._symlink(physical, part, candidate)

    def _symlink(self, physical: bytes, part: bytes, candidate: bytes) -> bytes | None:
        if physical not in self.directories:
            return self._lower_symlink(candidate)
        try:
            return os.readlink(part, dir_fd=self.parent(physical)[0])
        except FileNotFoundError:
            return self._lower_symlink(candidate)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None  # not a symbolic link
            raise

    def _lower_symlink(self, path: bytes) -> bytes | None:
        if self._lower is None or path in self.pending:
            return None
        above, inner = path.rpartition(b"/")[0], path
        while above not in self.directories:
            above, inner = above.rpartition(b"/")[0], above
        if inner != path and (inner in self.pending or self._exists(above, inner)):
            return None  # a non-directory of this layer hides the lower tree
        while above and above not in self.severed:
            above = above.rpartition(b"/")[0]
        return None if above else self._lower.symlink(path)

    def _exists(self, above: bytes, path: bytes) -> bool:
        try:
            os.lstat(path.rpartition(b"/")[2], dir_fd=self.parent(above)[0])
        except FileNotFoundError:
            return False
        return True

    def _make(self, path: bytes) -> None:
        """Make the physical path ``path`` and its missing parents."""
        made = b""
        for part in path.split(b"/"):
            above, made = made, join(made, part)
            if made not in self.directories:
                self._imply(above, part, made)

    def _imply(self, physical: bytes, part: bytes, candidate: bytes) -> None:
        target = self.pending.target(candidate)
        if target == candidate:  # a link to itself has no file
            self.pending.discard(candidate)
        elif target is not None:
            raise LayerError(
                f"malformed layer: {printable(candidate)}: got a path below a hard link, "
                "want a directory"
            )
        self.assumed.add(candidate)
        self.make_directory(self.parent(physical)[0], part, candidate, IMPLIED_MODE)
