"""The directory a layer is unpacked into, while it grows.

Paths go in, descriptors of their parents come out.  A path is never handed to the kernel
whole: a parent is reached component by component with ``O_NOFOLLOW``, symbolic links are
followed here, inside the root (the layer's author is an attacker), and every descriptor is
dropped when something it was reached through is replaced.  Nothing is ever deleted that a
skeleton needs: what a later entry replaces is set aside.  Knows no tar and no metadata beyond
remembering which directories have some.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

from stacker.errors import LayerError
from stacker.layer.record import Displacement
from stacker.layer.symlinks import followed, joined
from stacker.tar.entry import Meta, shown
from stacker.tar.limits import Budget, Limits

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_AT_ONCE: Final = 128
IMPLIED_MODE: Final = 0o755
IMPLIED: Final = Meta(IMPLIED_MODE, 0, 0, 0, 0, None)
"""What a directory gets that no layer has an entry for: fixed, so that trees compare equal."""


class Lower(Protocol):
    """What lies below the layer, where a layer is unpacked once more onto a known stack."""

    def symlink(self, path: bytes) -> bytes | None:
        """Give the target when ``path``, its parents being directories, is a symbolic link."""


def _components(path: bytes) -> list[bytes]:
    return path.split(b"/")


class Tree:
    """A growing tree with cached descriptors.

    :param root: an existing, private, empty directory.
    :param replaced: where replaced files go; made when needed.
    :param lower: what lies below, when that is known.
    :param limits: how deep it may grow.

    ``directories`` maps each directory's path to its :class:`Meta`, or to ``None`` when it is
    only implied by what lies in it; ``assumed`` are those that something was put into without
    their having an entry.  ``severed`` are those that took the place of
    something of this layer that was no directory, so that nothing from below is left in them.
    ``now`` is the number of the entry being applied.  ``budget`` counts what is remembered.
    """

    def __init__(
        self,
        root: Path,
        *,
        replaced: Path,
        lower: Lower | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.directories: dict[bytes, Meta | None] = {b"": None}
        self.assumed: set[bytes] = set()
        self.severed: set[bytes] = set()
        self.displaced: list[Displacement] = []
        self.pending: dict[bytes, bytes] = {}
        self.now = 0
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

    def __enter__(self) -> Tree:
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
        """Give a descriptor and the physical path for the directory ``path``.

        It is made when it is missing.  The descriptor stays valid over one further call that
        makes nothing.
        """
        if path == self._latest_path:
            return self._latest
        cached = self._open.pop(path, None)
        if cached is None:
            physical = path if path in self.directories else self._resolve(path)
            if physical not in self.directories:
                self._make(physical)
            if physical != path and self._lower is not None:
                return self.parent(physical)  # a link below can be replaced without a trace here
            cached = self._descend(physical), physical
            if len(self._open) >= _OPEN_AT_ONCE:
                os.close(self._open.pop(next(iter(self._open)))[0])
        self._open[path] = cached
        self._latest_path, self._latest = path, cached
        return cached

    def existing(self, path: bytes) -> tuple[int, bytes] | None:
        """Give what :meth:`parent` gives, or ``None`` where the directory is not in this tree."""
        physical = path if path in self.directories else self._resolve(path)
        return self.parent(physical) if physical in self.directories else None

    def make_directory(self, parent: int, name: bytes, physical: bytes, mode: int) -> bool:
        """Make a directory unless there is one; anything else in its place is set aside.

        :returns: whether it was made, and so has ``mode`` (and access for its owner).
        :raises LayerError: it would be too deep; symbolic links lead deeper than names can.
        """
        if physical in self.directories:
            return False
        if physical.count(b"/") >= self._depth:
            raise self._too_deep(physical)
        self.budget.spend(len(physical), physical)
        try:
            os.mkdir(name, mode | 0o700, dir_fd=parent)
        except FileExistsError:
            self.displace(parent, name, physical)
            os.mkdir(name, mode | 0o700, dir_fd=parent)
            self.severed.add(physical)
        if self.pending.pop(physical, None) is not None:
            self.severed.add(physical)
        self.directories[physical] = None
        self._inside.setdefault(physical.rpartition(b"/")[0], []).append(physical)
        return True

    def wait(self, path: bytes, target: bytes) -> None:
        """Leave the hard link ``path``, physical, until the stream has ended."""
        self.budget.spend(len(path) + len(target), path)
        self.pending[path] = target
        self._inside.setdefault(path.rpartition(b"/")[0], []).append(path)

    def displace(self, parent: int, name: bytes, physical: bytes) -> None:
        """Take what is called ``name`` out of the tree; keep it if it holds file contents."""
        mode = os.lstat(name, dir_fd=parent).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            self._replaced.mkdir(mode=0o700, exist_ok=True)
            number = len(self.displaced)
            self.budget.spend(len(physical), physical)
            os.rename(name, self._replaced / str(number), src_dir_fd=parent)
            self.displaced.append(Displacement(self.now, physical, number))
        else:
            os.unlink(name, dir_fd=parent)
        if stat.S_ISDIR(mode):
            self._forget_below(physical)
        elif stat.S_ISLNK(mode):
            self._retire({logical for logical, (_, real) in self._open.items() if logical != real})

    def innermost_first(self) -> Generator[tuple[bytes, int], None, None]:
        """Give every directory, after those inside it, with a descriptor that can read it."""
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
            f"over a limit: {shown(path[:80])}...: got more than {self._depth} directories in "
            "each other",
            hint="raise the limit with --max-depth if you trust the image",
        )

    def _forget_below(self, physical: bytes) -> None:
        inside, gone = physical + b"/", [physical]
        for path in gone:
            self.directories.pop(path, None)
            self.pending.pop(path, None)
            gone += self._inside.pop(path, ())
        self._retire(
            {
                logical
                for logical, (_, real) in self._open.items()
                if logical != real or real == physical or real.startswith(inside)
            }
        )

    def _retire(self, paths: set[bytes]) -> None:
        """Forget descriptors.  The caller may hold one of them, so they are closed a step later."""
        self._close_retired()
        self._latest_path = None
        self._retired = [self._open.pop(path)[0] for path in paths]

    def _close_retired(self) -> None:
        while self._retired:
            os.close(self._retired.pop())

    def _descend(self, physical: bytes) -> int:
        """Open a directory of this tree, from its nearest open ancestor down."""
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
        """Follow symbolic links inside the root; what is not there stays as it is."""

        def check(left: int) -> None:
            if left > self._depth:  # 40 links of 4096 bytes would make a very long walk
                raise self._too_deep(path)

        return followed(path, self._target, want="a directory", left=self._left, check=check)

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
                return None  # it is something else
            raise

    def _lower_symlink(self, path: bytes) -> bytes | None:
        if self._lower is None or path in self.pending:
            return None
        above, inner = path.rpartition(b"/")[0], path
        while above not in self.directories:
            above, inner = above.rpartition(b"/")[0], above
        if inner != path and (inner in self.pending or self._exists(above, inner)):
            return None  # something of this layer that is no directory hides what is below
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
        """Make ``path``, a physical one, and whatever is missing above it."""
        made = b""
        for part in path.split(b"/"):
            above, made = made, joined(made, part)
            if made not in self.directories:
                self._imply(above, part, made)

    def _imply(self, physical: bytes, part: bytes, candidate: bytes) -> None:
        if candidate in self.pending:
            raise LayerError(
                f"malformed layer: {shown(candidate)}: got a path below a hard link, "
                "want a directory"
            )
        self.assumed.add(candidate)
        self.make_directory(self.parent(physical)[0], part, candidate, IMPLIED_MODE)
