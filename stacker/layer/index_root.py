"""The tree of a layer in memory, while it grows; an EROFS image is written from it.

Paths come in; inode numbers of their parent directories go out.  Nothing is read from or written
to a filesystem, so a name cannot lead out of the tree.  What later entries replace stays in the
tar, and only its name is dropped.  This module must not use the EROFS format.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from stacker.layer.root import IMPLIED, LayerRoot, LowerTree
from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from stacker.erofs.inodes import Inodes

MAX_NAME: Final = 255
"""The longest name in bytes, as in the kernel's filesystems."""
_COST: Final = 50
"""Bytes that count against the limit of names for each inode."""


class IndexRoot(LayerRoot):
    """A growing tree of inodes.

    :param inodes: where the inodes are added.
    """

    def __init__(
        self, inodes: Inodes, *, lower: LowerTree | None = None, limits: Limits | None = None
    ) -> None:
        super().__init__(lower=lower, limits=limits or Limits())
        self.inodes = inodes
        self.number = inodes.add_directory(IMPLIED)
        self._latest_path: bytes | None = None
        self._latest = self.number, b""

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """See :meth:`LayerRoot.parent`."""
        if path == self._latest_path:
            return self._latest
        physical = self._physical(path)
        if physical != path and self._lower is not None:
            return self.parent(physical)  # a lower symbolic link may be replaced without notice
        self._latest_path, self._latest = path, (self.directory(physical), physical)
        return self._latest

    def directory(self, physical: bytes) -> int:
        """Return the inode of a directory of this tree."""
        number, directories = self.number, self.inodes.directories
        for name in physical.split(b"/") if physical else ():
            number = directories[number][name]
        return number

    def kind(self, parent: int, name: bytes) -> int:
        """See :meth:`LayerRoot.kind`."""
        return self.inodes.kind(self._child(parent, name) if name else parent)

    def target(self, parent: int, name: bytes) -> bytes | None:
        """See :meth:`LayerRoot.target`."""
        return self.inodes.targets.get(self._child(parent, name))

    def link(self, source_parent: int, source: bytes, parent: int, name: bytes) -> None:
        """See :meth:`LayerRoot.link`."""
        self.add(parent, name, self._child(source_parent, source))

    def add(self, parent: int, name: bytes, number: int) -> None:
        """Give an inode a name.

        :raises FileExistsError: the directory has the name.
        :raises OSError: the name is too long.
        """
        names = self.inodes.directories[parent]
        if name in names:
            raise FileExistsError
        check_name(name)
        names[name] = number
        self.budget.spend(len(name) + _COST, name)

    def hide(self, parent: int, name: bytes) -> None:
        """See :meth:`LayerRoot.hide`."""
        self.add(parent, name, self.inodes.add(stat.S_IFCHR, IMPLIED._replace(mode=0)))

    def mark_opaque(self, path: bytes) -> None:
        """See :meth:`LayerRoot.mark_opaque`; the attributes of a directory are set later."""

    def _child(self, parent: int, name: bytes) -> int:
        try:
            return self.inodes.directories[parent][name]
        except KeyError:
            raise FileNotFoundError from None

    def _create_directory(self, parent: int, name: bytes, mode: int) -> None:
        names = self.inodes.directories[parent]
        if name in names:
            raise FileExistsError
        check_name(name)
        self.budget.spend(_COST, name)
        names[name] = self.inodes.add_directory(IMPLIED._replace(mode=mode))

    def _take_away(self, parent: int, name: bytes, physical: bytes) -> int:
        del physical
        return self.inodes.kind(self.inodes.directories[parent].pop(name))

    def _drop_handles(self, physical: bytes, *, symlink: bool) -> None:
        del physical, symlink
        self._latest_path = None


def check_name(name: bytes) -> None:
    """Check a name as the kernel does.

    :raises OSError: it is too long.
    """
    if len(name) > MAX_NAME:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
