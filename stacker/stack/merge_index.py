"""Merge the trees of layers in memory, so that one tree without whiteouts is left.

The inodes of layers come in, base first, with their records; the tree that a process would see goes
out.  The rules are those of :mod:`stacker.stack.build`, without directories on disk
(docs/rules.md, Stacking).  This module must not read or write files.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from stacker.layer.root import IMPLIED
from stacker.layer.symlinks import join
from stacker.stack.links import LinkMaker, make_links
from stacker.stack.lookup import SymlinkLookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.erofs.inodes import Inodes
    from stacker.layer.record import LayerRecord
    from stacker.tar.entry import HardLink, Meta


class MergedInodes(SymlinkLookup):
    """A tree onto which layers are merged.

    :param inodes: the inodes of this tree and of the layers.
    :param implied: the attributes of directories without an entry in any layer.
    """

    def __init__(self, inodes: Inodes, implied: Meta = IMPLIED) -> None:
        self._inodes = inodes
        self._implied = implied
        self.root = inodes.add_directory(implied)

    def find(self, path: bytes) -> int | None:
        """Return the inode at a path; a symbolic link is not followed."""
        number, directories = self.root, self._inodes.directories
        for name in path.split(b"/") if path else ():
            found = directories.get(number, {}).get(name)
            if found is None:
                return None
            number = found
        return number

    def symlink(self, path: bytes) -> bytes | None:
        """See :meth:`SymlinkLookup.symlink`."""
        number = self.find(path)
        return None if number is None else self._inodes.targets.get(number)

    def merge(self, layer: int, record: LayerRecord) -> None:
        """Merge a layer onto the tree.

        :param layer: its root; the caller must not use its directories afterwards.
        """
        if b"" in record.opaque:
            self._inodes.directories[self.root].clear()
        todo = [(b"", self.root, layer)]
        while todo:
            path, below, above = todo.pop()
            if path not in record.implied:
                self._inodes.copy_attributes(above, below)
            todo += self._merge_names(path, below, above, record)
        if b"" in record.opaque:
            self._remove_mark(self.root, record)

    def _merge_names(
        self, path: bytes, below: int, above: int, record: LayerRecord
    ) -> list[tuple[bytes, int, int]]:
        """Merge one directory; return the directories that both trees have."""
        inodes, common = self._inodes, list[tuple[bytes, int, int]]()
        directories = inodes.directories
        names = directories[below]
        for name, child in directories[above].items():
            if child in directories:
                inner, old = join(path, name), names.get(name)
                if old in directories and inner not in record.opaque:
                    common.append((inner, old, child))
                    continue
                if record.whiteouts or record.opaque:
                    self._remove_marks(inner, child, record)
                if old in directories and inner in record.implied:
                    inodes.copy_attributes(old, child)
                names[name] = child
            elif self._is_whiteout(child):
                names.pop(name, None)
            else:
                names[name] = child
        return common

    def _remove_marks(self, path: bytes, directory: int, record: LayerRecord) -> None:
        """Remove the whiteouts and opaque marks of a directory that hides nothing any more."""
        directories, todo = self._inodes.directories, [(path, directory)]
        while todo:
            above, number = todo.pop()
            if above in record.opaque:
                self._remove_mark(number, record)
            names = directories[number]
            for name, child in [*names.items()]:
                if child in directories:
                    todo.append((join(above, name), child))
                elif self._is_whiteout(child):
                    del names[name]

    def _remove_mark(self, directory: int, record: LayerRecord) -> None:
        (mark,) = record.whiteout_format.opaque_marks
        kept = tuple(pair for pair in self._inodes.xattr_set(directory) if pair[0] != mark)
        self._inodes.set_xattrs(directory, kept)

    def _is_whiteout(self, number: int) -> bool:
        inodes = self._inodes
        return stat.S_ISCHR(inodes.mode[number]) and not inodes.start[number]

    def add_links(self, links: Sequence[HardLink], what: str) -> None:
        """Make hard links whose targets are in this tree.

        :param what: the name of the layer in errors.
        :raises LayerError: a target does not exist, or is a directory.
        """
        maker = _InodeLinks(links, self, self._inodes, what)
        make_links(maker)
        for path, number in maker.made:
            self._add_link(path, number)

    def _add_link(self, path: bytes, number: int) -> None:
        above, _, name = path.rpartition(b"/")
        inodes, parent = self._inodes, self.root
        for part in above.split(b"/") if above else ():
            names = inodes.directories[parent]
            child = names.get(part)
            if child not in inodes.directories:
                child = names[part] = inodes.add_directory(self._implied)
            parent = child
        inodes.directories[parent][name] = number


class _InodeLinks(LinkMaker[int]):
    """Finds the inodes of links; ``made`` has the path and the inode of each."""

    def __init__(
        self, links: Sequence[HardLink], tree: MergedInodes, inodes: Inodes, what: str
    ) -> None:
        super().__init__(links, what)
        self.made: list[tuple[bytes, int]] = []
        self._tree = tree
        self._inodes = inodes

    def _find(self, path: bytes) -> tuple[int, bool] | None:
        number = self._tree.find(path)
        return None if number is None else (number, number in self._inodes.directories)

    def _symlink_below(self, path: bytes) -> bytes | None:
        return self._tree.symlink(path)

    def _target_of(self, file: int) -> bytes | None:
        return self._inodes.targets.get(file)

    def _link(self, file: int, path: bytes) -> int:
        self.made.append((path, file))
        return file
