"""Whiteouts of one layer, from the names in its tar to the marks on disk.

They act on lower layers only, wherever they stand in the stream (image-spec layer.md), so they
are collected first and written when the layer's own tree is complete.  What they name is a path
of the layers below: the layer's own symbolic links do not lead them anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from stacker.layer.root import IMPLIED, IMPLIED_MODE, Tree
from stacker.layer.symlinks import joined
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tar.entry import OpaqueWhiteout, Whiteout, is_redundant
from stacker.tar.limits import Budget

_SEARCH = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Marks:
    """Collects whiteouts, then writes them.

    ``opaque`` is the set of directories marked, ``written`` the number of char devices 0:0 and
    ``holders`` the directories these lie in.
    ``stranded`` and ``stranded_opaque`` are those below a non-directory of this layer.
    """

    def __init__(self, whiteout_format: WhiteoutFormat, budget: Budget) -> None:
        self.opaque: set[bytes] = set()
        self.written = 0
        self.holders: set[bytes] = set()
        self.stranded: list[bytes] = []
        self.stranded_opaque: list[bytes] = []
        self._format = whiteout_format
        self._budget = budget
        self._hidden: dict[bytes, None] = {}
        self._emptied: dict[bytes, None] = {}

    def whiteout(self, entry: Whiteout) -> None:
        """Take note of a path to hide."""
        self._budget.spend(len(entry.path), entry.path)
        self._hidden[entry.path] = None

    def opaque_whiteout(self, entry: OpaqueWhiteout) -> None:
        """Take note of a directory whose lower contents are to be hidden."""
        self._budget.spend(len(entry.path), entry.path)
        self._emptied[entry.path] = None

    def write(self, tree: Tree) -> None:
        """Write what was collected into the finished ``tree``."""
        for path in self._needed(self._emptied):
            if _is_directory(tree, path):
                self.opaque.add(path)
            else:
                self.stranded_opaque.append(path)
        for path in self._needed(self._hidden):
            if not self._by_directory(tree, path):
                self._hide(tree, path)
        for path in tree.severed:
            self._by_directory(tree, path)
        for path in self.opaque:
            self._make_opaque(tree, path)

    def _needed(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the paths that no other whiteout of this layer hides already.

        So neither an opaque directory nor a hidden one holds whiteouts.
        """
        return sorted(p for p in paths if not is_redundant(p, self._hidden, self._emptied))

    def _by_directory(self, tree: Tree, path: bytes) -> bool:
        """Let a directory of this layer hide a lower one of the same name by being opaque."""
        if path not in tree.directories:
            return False
        if tree.directories[path] is None:
            tree.directories[path] = IMPLIED  # the lower one, whose attributes it had, is gone
        self.opaque.add(path)
        return True

    def _hide(self, tree: Tree, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        if not _is_directory(tree, above) or above in tree.severed:
            self.stranded.append(path)
            return
        parent, _ = tree.parent(above)
        try:
            self._format.hide(parent, name)
            self.written += 1
            self.holders.add(above)
        except FileExistsError:
            pass  # the layer's own file hides the lower one

    def _make_opaque(self, tree: Tree, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        parent, _ = tree.parent(above)
        fd = os.open(name or b".", _SEARCH, dir_fd=parent)
        try:
            self._format.make_opaque(fd)
        finally:
            os.close(fd)


def _is_directory(tree: Tree, path: bytes) -> bool:
    """Make ``path`` a directory if nothing of the layer is or was in the way; say if it is one."""
    made = b""
    for name in path.split(b"/") if path else ():
        if made in tree.severed:
            return False
        inner = joined(made, name)
        if inner not in tree.directories:
            tree.budget.spend(len(inner), inner)
            parent, _ = tree.parent(made)
            try:
                os.mkdir(name, IMPLIED_MODE, dir_fd=parent)
            except FileExistsError:
                return False
            tree.directories[inner] = None
            tree.assumed.add(inner)
        made = inner
    return True
