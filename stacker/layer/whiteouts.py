"""Write the whiteouts of a layer as overlayfs marks.

The paths of whiteouts come in; character devices 0:0 and opaque marks go out.  Whiteouts act on
lower layers only, wherever they are in the stream (image-spec layer.md), so they are written when
the layer's own tree is complete.  A whiteout names a path of the lower layers: this module must
not follow the layer's own symbolic links.
"""

from __future__ import annotations

from collections.abc import Iterable

from stacker.layer.root import IMPLIED, LayerRoot
from stacker.layer.symlinks import join
from stacker.tar.entry import OpaqueWhiteout, Whiteout, is_redundant
from stacker.tar.limits import Budget


class WhiteoutWriter:
    """Collects whiteouts, then writes them.

    After :meth:`write`, ``opaque`` has the directories marked opaque, ``written`` is the number of
    character devices 0:0, and ``parents`` has the directories with these devices.  ``stranded`` and
    ``stranded_opaque`` have the whiteouts below a non-directory of this layer.
    """

    def __init__(self, budget: Budget) -> None:
        self.opaque: set[bytes] = set()
        self.written = 0
        self.parents: set[bytes] = set()
        self.stranded: list[bytes] = []
        self.stranded_opaque: list[bytes] = []
        self._budget = budget
        self._hidden: dict[bytes, None] = {}
        self._emptied: dict[bytes, None] = {}

    def add(self, entry: Whiteout) -> None:
        """Add a path to hide."""
        self._budget.spend(len(entry.path), entry.path)
        self._hidden[entry.path] = None

    def add_opaque(self, entry: OpaqueWhiteout) -> None:
        """Add a directory whose lower contents are hidden."""
        self._budget.spend(len(entry.path), entry.path)
        self._emptied[entry.path] = None

    def write(self, tree: LayerRoot) -> None:
        """Write the collected whiteouts into the complete ``tree``."""
        for path in self._needed(self._emptied):
            if _is_directory(tree, path):
                self.opaque.add(path)
            else:
                self.stranded_opaque.append(path)
        for path in self._needed(self._hidden):
            if not self._make_directory_opaque(tree, path):
                self._hide(tree, path)
        for path in tree.severed:
            self._make_directory_opaque(tree, path)
        for path in self.opaque:
            tree.mark_opaque(path)

    def _needed(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the paths that no other whiteout of this layer hides already.

        So an opaque or a hidden directory contains no whiteouts.
        """
        return sorted(p for p in paths if not is_redundant(p, self._hidden, self._emptied))

    def _make_directory_opaque(self, tree: LayerRoot, path: bytes) -> bool:
        """Mark a directory of this layer opaque, to hide the lower directory of that name.

        :returns: whether this layer has such a directory.
        """
        if path not in tree.directories:
            return False
        if tree.directories[path] is None:
            tree.directories[path] = (
                IMPLIED  # the lower directory, whose attributes it had, is hidden
            )
        self.opaque.add(path)
        return True

    def _hide(self, tree: LayerRoot, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        if not _is_directory(tree, above) or above in tree.severed:
            self.stranded.append(path)
            return
        parent, _ = tree.parent(above)
        try:
            tree.hide(parent, name)
            self.written += 1
            self.parents.add(above)
        except FileExistsError:
            pass  # the layer's own file hides the lower one


def _is_directory(tree: LayerRoot, path: bytes) -> bool:
    """Return whether ``path`` is a directory of this layer; make it if nothing is in its way."""
    made = b""
    for name in path.split(b"/") if path else ():
        if made in tree.severed:
            return False
        inner = join(made, name)
        if inner not in tree.directories and not tree.imply_directory(made, name):
            return False
        made = inner
    return True
