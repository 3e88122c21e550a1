"""The tree of a layer while it grows: where each entry belongs.

Paths come in; handles of their parent directories go out.  The layer's author is an attacker, so
storage never gets a whole path.  This module follows symbolic links inside the root itself, one
component at a time (docs/rules.md, Containment).  Subclasses store the tree:
:class:`~stacker.layer.directory_root.DirectoryRoot` on disk, and
:class:`~stacker.layer.index_root.IndexRoot` in memory.  This module must not parse tars, set
metadata or use a filesystem.
"""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from typing import Final, Protocol

from stacker.errors import LayerError
from stacker.layer.pending_links import LINK_BYTES, PendingLinks
from stacker.layer.record import Replacement
from stacker.layer.symlinks import follow_symlinks, join
from stacker.tar.entry import HardLink, Meta, printable
from stacker.tar.limits import Budget, Limits

IMPLIED_MODE: Final = 0o755
IMPLIED: Final = Meta(IMPLIED_MODE, 0, 0, 0, 0, None)
"""The attributes of a directory without an entry in any layer; fixed, so that trees are equal."""


class LowerTree(Protocol):
    """The tree below a layer that is applied again to a known stack."""

    def symlink(self, path: bytes) -> bytes | None:
        """Return the target if ``path`` is a symbolic link; its parents must be directories."""


class LayerRoot(ABC):
    """A growing tree.

    :param lower: the tree below, if it is known.
    :param limits: limits the depth and the names to remember.

    A handle is a number that storage gives to a directory: a descriptor or an inode.
    ``directories`` maps the path of each directory to its :class:`Meta`, or to ``None`` if it has
    no entry.  ``assumed`` has the paths that have entries below them, but no entry of their own.
    ``severed`` has the directories that replaced a non-directory of this layer, so they expose
    nothing of the layers below.  ``pending`` has the hard links that wait for their targets.
    ``entry_number`` is the number of the current entry.  ``budget`` counts the names to remember.
    """

    def __init__(self, *, lower: LowerTree | None, limits: Limits) -> None:
        self.directories: dict[bytes, Meta | None] = {b"": None}
        self.assumed: set[bytes] = set()
        self.severed: set[bytes] = set()
        self.replacements: list[Replacement] = []
        self.pending = PendingLinks()
        self.entry_number = 0
        self.budget = Budget(limits)
        self._depth = limits.depth
        self._inside: dict[bytes, list[bytes]] = {}
        self._lower = lower

    @abstractmethod
    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Return a handle and the physical path of the directory ``path``; make it if needed.

        The handle stays valid during the next replacement (`set_aside`), but not after the one
        that follows.
        """

    @abstractmethod
    def kind(self, parent: int, name: bytes) -> int:
        """Return the ``S_IF*`` constant of a name; the empty name is the directory itself.

        :raises FileNotFoundError: there is no such name.
        """

    @abstractmethod
    def target(self, parent: int, name: bytes) -> bytes | None:
        """Return the target of a symbolic link, and ``None`` for any other type.

        :raises FileNotFoundError: there is no such name.
        """

    @abstractmethod
    def link(self, source_parent: int, source: bytes, parent: int, name: bytes) -> None:
        """Give a file another name; a symbolic link is not followed."""

    @abstractmethod
    def hide(self, parent: int, name: bytes) -> None:
        """Write a whiteout.

        :raises FileExistsError: the name exists.
        """

    @abstractmethod
    def mark_opaque(self, path: bytes) -> None:
        """Mark a directory of this tree opaque."""

    @abstractmethod
    def _create_directory(self, parent: int, name: bytes, mode: int) -> None:
        """Make a directory.

        :raises FileExistsError: the name exists.
        """

    @abstractmethod
    def _take_away(self, parent: int, name: bytes, physical: bytes) -> int:
        """Remove a name from the tree, and return its ``S_IF*`` constant."""

    @abstractmethod
    def _drop_handles(self, physical: bytes, *, symlink: bool) -> None:
        """Forget the handles below a directory that is gone, or through a symbolic link."""

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
            self._create_directory(parent, name, mode)
        except FileExistsError:
            self.set_aside(parent, name, physical)
            self._create_directory(parent, name, mode)
            self.severed.add(physical)
        if self.pending.discard(physical):
            self.severed.add(physical)
        self.directories[physical] = None
        self._inside.setdefault(physical.rpartition(b"/")[0], []).append(physical)
        return True

    def imply_directory(self, above: bytes, name: bytes) -> bool:
        """Make a directory without an entry; return whether nothing was in its place.

        :param above: the physical path of its parent.
        """
        path = join(above, name)
        self.budget.spend(len(path), path)
        try:
            self._create_directory(self.parent(above)[0], name, IMPLIED_MODE)
        except FileExistsError:
            return False
        self.directories[path] = None
        self.assumed.add(path)
        return True

    def defer(self, path: bytes, target: bytes) -> None:
        """Add the hard link at the physical path ``path`` to ``pending``."""
        self.budget.spend(len(path) + len(target) + LINK_BYTES, path)
        self.pending.add(HardLink(path, target))

    def set_aside(self, parent: int, name: bytes, physical: bytes) -> None:
        """Remove a name from the tree; keep the file if it has contents, or the directory."""
        kind = self._take_away(parent, name, physical)
        if kind == stat.S_IFDIR:
            self._forget_below(physical)
        elif kind == stat.S_IFLNK:
            self._drop_handles(physical, symlink=True)

    def exists(self, parent: int, name: bytes) -> bool:
        """Return whether a directory has a name."""
        try:
            self.kind(parent, name)
        except FileNotFoundError:
            return False
        return True

    def _too_deep(self, path: bytes) -> LayerError:
        return LayerError(
            f"over a limit: {printable(path[:80])}...: got more than {self._depth} nested "
            "directories, want fewer",
            hint="raise the limit with --max-depth if you trust the image",
        )

    def _forget_below(self, physical: bytes) -> None:
        gone = [physical]
        for path in gone:
            self.directories.pop(path, None)
            self.pending.discard_inside(path)
            gone += self._inside.pop(path, ())
        self._drop_handles(physical, symlink=False)

    def _physical(self, path: bytes) -> bytes:
        """Return the path of a directory without symbolic links; make it if needed."""
        physical = path if path in self.directories else self._resolve(path)
        if physical not in self.directories:
            self._make(physical)
        return physical

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
            return self.target(self.parent(physical)[0], part)
        except FileNotFoundError:
            return self._lower_symlink(candidate)

    def _lower_symlink(self, path: bytes) -> bytes | None:
        if self._lower is None or path in self.pending:
            return None
        above, inner = path.rpartition(b"/")[0], path
        while above not in self.directories:
            above, inner = above.rpartition(b"/")[0], above
        if inner != path and (inner in self.pending or self._in_directory(above, inner)):
            return None  # a non-directory of this layer hides the lower tree
        while above and above not in self.severed:
            above = above.rpartition(b"/")[0]
        return None if above else self._lower.symlink(path)

    def _in_directory(self, above: bytes, path: bytes) -> bool:
        return self.exists(self.parent(above)[0], path.rpartition(b"/")[2])

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
