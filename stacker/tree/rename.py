"""Rename and remove names in an upper directory, and leave whiteouts and opaque marks.

Inodes of the upper directory and their names come in.  Each step is atomic, so a crash leaves it
done or not done.  This module must not copy inodes up; the caller has done so.
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
    from stacker.tree.workdir import WorkDirectory

    DirectoryEntry: TypeAlias = tuple[Inode, bytes, Inode]
    """A directory, a name in it, and the inode of that name."""
    RenameTarget: TypeAlias = tuple[Inode, bytes, Inode | None]
    """The same for a target, which need not exist in the upper directory."""


class Renamer:
    """Renames and removes names."""

    def __init__(self, inodes: Inodes, work: WorkDirectory) -> None:
        self._inodes = inodes
        self._work = work

    def check(self, node: Node, victim: Node | None, *, exchange: bool) -> None:
        """Check that a rename is possible.

        :raises OSError: ``EXDEV``, ``EISDIR``, ``ENOTDIR``, ``ENOTEMPTY``.
        """
        moving = [node, victim] if exchange else [node]
        for each in moving:
            if each is not None and self._is_merged(each):
                raise OSError(errno.EXDEV, "a lower layer has the directory")
        if victim is None or exchange:
            return
        if self._is_directory(victim) != self._is_directory(node):
            number = errno.EISDIR if self._is_directory(victim) else errno.ENOTDIR
            raise OSError(number, "only one of the two is a directory")
        if self._is_directory(victim) and not self._inodes.is_empty(victim):
            raise OSError(errno.ENOTEMPTY, "directory is not empty")

    def _is_directory(self, node: Node) -> bool:
        return self._inodes.kind(node) == stat.S_IFDIR

    def _is_merged(self, node: Node) -> bool:
        if not self._is_directory(node):
            return False
        inode = self._inodes.upper_inode(node)
        return inode is None or inode.lower is not None

    def remove_directory(self, above: Inode, name: bytes, inode: Inode | None) -> None:
        """Remove a directory without entries, and hide lower ones of that name.

        :param inode: the directory, if the upper directory has it.
        """
        directory = self._inodes.pin(above)
        hidden = self._inodes.lower_name(above, name) is not None

        def remove() -> None:
            if hidden:
                instead = 0 if inode is None else stat.S_IFDIR
                self._work.hide(name, directory, instead=instead)
            else:
                self._work.remove_directory(name, directory)

        if inode is None:
            remove()
        else:  # moving a directory requires write permission for it
            opath.with_owner_access(self._inodes.pin(inode), remove)
        if hidden:
            self._inodes.listing(above).whiteouts.add(name)

    def exchange(self, one: DirectoryEntry, other: DirectoryEntry) -> None:
        """Exchange two names."""
        (above, name, inode), (below, new, second) = one, other
        self._prepare(inode, below, new)
        self._prepare(second, above, name)
        self._rename(above, name, below, new, opath.RENAME_EXCHANGE)
        second.names[above.number, name] = None  # so that neither is without a name in between
        self._inodes.link(below, new, inode)
        self._inodes.link(above, name, second)

    def move(self, source: DirectoryEntry, target: RenameTarget) -> None:
        """Move a name; replace a file or an empty directory at the target."""
        (above, name, inode), (below, new, victim) = source, target
        hidden = self._inodes.lower_name(above, name) is not None
        left, ours = self._inodes.listing(above).whiteouts, self._inodes.listing(below).whiteouts
        self._prepare(inode, below, new)
        in_the_way = victim is not None or new in ours
        if inode.kind == stat.S_IFDIR and in_the_way:
            self._rename(above, name, below, new, opath.RENAME_EXCHANGE)
            if victim is not None:
                self.remove_directory(above, name, victim)
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
            if error.errno != errno.EINVAL:  # the filesystem does not support RENAME_WHITEOUT
                raise
            self._rename(above, name, below, new, 0)
            self._inodes.dialect.hide(self._inodes.pin(above), name)
        self._inodes.listing(above).whiteouts.add(name)

    def _prepare(self, inode: Inode, directory: Inode, name: bytes) -> None:
        """Mark a directory opaque if its new name has a lower directory."""
        lower = self._inodes.lower_directory(directory, name)
        if inode.kind == stat.S_IFDIR and lower is not None:
            self._work.mark_opaque(self._inodes.pin(inode))

    def _rename(self, above: Inode, name: bytes, below: Inode, new: bytes, flags: int) -> None:
        opath.rename(name, self._inodes.pin(above), new, self._inodes.pin(below), flags)
