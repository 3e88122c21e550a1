"""Moving names about in an upper directory, and what must be left where they were.

In come inodes of the upper directory and names that have been looked up; out go renames, whiteouts
and opaque marks, each step one that a crash leaves done or not done.  Copies nothing up.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, TypeAlias

from stacker.linux import opath

if TYPE_CHECKING:
    from stacker.tree.inode import Inode
    from stacker.tree.inodes import Inodes
    from stacker.tree.protocol import Node
    from stacker.tree.workdir import Staging

    Place: TypeAlias = tuple[Inode, bytes, Inode]
    """A directory, a name in it, and what the name leads to."""
    Aim: TypeAlias = tuple[Inode, bytes, Inode | None]
    """The same, where the upper may have nothing."""


class Renaming:
    """Moves names."""

    def __init__(self, inodes: Inodes, staging: Staging) -> None:
        self._inodes = inodes
        self._staging = staging

    def check(self, node: Node, victim: Node | None, *, exchange: bool) -> None:
        """Refuse what cannot be renamed.

        :raises OSError: ``EXDEV``, ``EISDIR``, ``ENOTDIR``, ``ENOTEMPTY``.
        """
        moving = [node, victim] if exchange else [node]
        for each in moving:
            if each is not None and self._is_merged(each):
                raise OSError(errno.EXDEV, "lower layers have part in the directory")
        if victim is None or exchange:
            return
        if self._is_directory(victim) != self._is_directory(node):
            number = errno.EISDIR if self._is_directory(victim) else errno.ENOTDIR
            raise OSError(number, "a directory and something else")
        if self._is_directory(victim) and not self._inodes.is_empty(victim):
            raise OSError(errno.ENOTEMPTY, "the directory has something in it")

    def _is_directory(self, node: Node) -> bool:
        return self._inodes.kind(node) == stat.S_IFDIR

    def _is_merged(self, node: Node) -> bool:
        if not self._is_directory(node):
            return False
        inode = self._inodes.raised(node)
        return inode is None or inode.lower is not None

    def clear(self, above: Inode, name: bytes, inode: Inode | None) -> None:
        """Remove a directory that shows nothing, and hide lower ones.

        :param inode: the directory, if the upper has it.
        """
        directory = self._inodes.pin(above)
        hidden = self._inodes.lower_name(above, name) is not None

        def remove() -> None:
            if hidden:
                instead = 0 if inode is None else stat.S_IFDIR
                self._staging.hide(name, directory, instead=instead)
            else:
                self._staging.take(name, directory)

        if inode is None:
            remove()
        else:  # to move a directory one must be allowed to write it
            opath.with_owner_access(self._inodes.pin(inode), remove)
        if hidden:
            self._inodes.listing(above).whiteouts.add(name)

    def exchange(self, one: Place, other: Place) -> None:
        """Let two names change places."""
        (above, name, inode), (below, new, second) = one, other
        self._prepare(inode, below, new)
        self._prepare(second, above, name)
        self._rename(above, name, below, new, opath.RENAME_EXCHANGE)
        second.places[above.number, name] = None  # so that neither is ever without a name
        self._inodes.link(below, new, inode)
        self._inodes.link(above, name, second)

    def move(self, source: Place, target: Aim) -> None:
        """Move a name over what is there, a file or an empty directory."""
        (above, name, inode), (below, new, victim) = source, target
        hidden = self._inodes.lower_name(above, name) is not None
        left, ours = self._inodes.listing(above).whiteouts, self._inodes.listing(below).whiteouts
        self._prepare(inode, below, new)
        in_the_way = victim is not None or new in ours
        if inode.kind == stat.S_IFDIR and in_the_way:
            self._rename(above, name, below, new, opath.RENAME_EXCHANGE)
            if victim is not None:
                self.clear(above, name, victim)
            elif hidden:
                left.add(name)
            else:
                os.unlink(name, dir_fd=self._inodes.pin(above))
        elif hidden:
            self._leave_whiteout(above, name, below, new)
        else:
            self._rename(above, name, below, new, 0)
        ours.discard(new)
        self._inodes.link(below, new, inode)
        self._inodes.unlink(above, name)

    def _leave_whiteout(self, above: Inode, name: bytes, below: Inode, new: bytes) -> None:
        try:
            self._rename(above, name, below, new, opath.RENAME_WHITEOUT)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a filesystem that does not know how
                raise
            self._rename(above, name, below, new, 0)
            self._inodes.dialect.hide(self._inodes.pin(above), name)
        self._inodes.listing(above).whiteouts.add(name)

    def _prepare(self, inode: Inode, directory: Inode, name: bytes) -> None:
        """Keep lower directories from showing in one that gets their name."""
        lower = self._inodes.lower_directory(directory, name)
        if inode.kind == stat.S_IFDIR and lower is not None:
            self._staging.mark_opaque(self._inodes.pin(inode))

    def _rename(self, above: Inode, name: bytes, below: Inode, new: bytes, flags: int) -> None:
        opath.rename(name, self._inodes.pin(above), new, self._inodes.pin(below), flags)
