"""A merged tree with an upper directory that receives all writes.

The lower tree, which never changes, and an upper directory in the format of the kernel's overlayfs
come in (filesystems/overlayfs.rst).  The kernel can mount the same directories before and after.
This module must not use FUSE, and does not check permissions: the kernel or the server checks them
first.

Inodes are numbers and names are bytes.  Errors are `OSError` with the errno of the corresponding
system call.  No path is resolved: each step is a name in a directory that a descriptor holds, and
no symbolic link is followed.

Overlayfs features that stacker's mounts turn off are refused and never written: redirect_dir
and metacopy.  So renaming a directory that a lower layer has fails with ``EXDEV``, and mv(1) copies
it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from stacker.linux import opath, safe_path
from stacker.tree.copy_up import CopyUp
from stacker.tree.creation import Creation
from stacker.tree.file_operations import Files
from stacker.tree.inode import Listing
from stacker.tree.inodes import Inodes
from stacker.tree.protocol import ROOT
from stacker.tree.rename import Renamer
from stacker.tree.whiteout_dialects import is_reserved
from stacker.tree.workdir import WorkDirectory

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.tree.creation import Caller
    from stacker.tree.inode import Inode
    from stacker.tree.protocol import LowerTree, Node
    from stacker.tree.whiteout_dialects import WhiteoutDialect


class WritableTree:
    """A writable `stacker.tree.protocol.Tree`; only one may use an upper directory at a time.

    An inode keeps its number while the tree is open, through renames and copying up.  A server
    calls `remember` when it passes an inode to the kernel, and `forget` when the kernel drops it;
    in between the inode can be used even without a name.

    Names are created, linked, renamed and removed here; `files` reads and changes inodes.

    :param upper: the directory that receives the writes.
    :param work: a directory on the same filesystem; ``work`` inside it is emptied and used.
    :param durable: whether synced writes must survive a crash of the machine.
    :param acls: whether POSIX ACLs can be set and are inherited.
    :raises OSError: a directory lacks xattrs, or has marks of overlayfs features that are off.
    """

    def __init__(
        self,
        lower: LowerTree,
        dialect: WhiteoutDialect,
        upper: Path,
        work: Path,
        *,
        durable: bool,
        acls: bool = True,
    ) -> None:
        self._work = WorkDirectory(work, dialect)
        try:
            self._inodes = Inodes(lower, dialect, safe_path.open_directory(upper))
        except BaseException:
            self._work.close()
            raise
        self._copy_up = CopyUp(self._inodes, self._work, durable=durable)
        self._renamer = Renamer(self._inodes, self._work)
        self._creation = Creation(self._inodes, self._work, acls=acls)
        self.files = Files(self._inodes, self._copy_up, durable=durable, acls=acls)
        self.acls = acls
        self.remember, self.forget = self._inodes.remember, self._inodes.forget
        # Bound, not wrapped, so that a FUSE server makes no extra call for a request.
        self.lookup, self.entries = self._inodes.lookup, self._inodes.entries
        self.kind, self.parent = self._inodes.kind, self._inodes.parent
        self.number = self._inodes.number
        self.status, self.readlink, self.read = (
            self.files.status,
            self.files.readlink,
            self.files.read,
        )
        self.xattr, self.xattr_names = self.files.xattr, self.files.xattr_names
        self.birth, self.flags = self.files.birth, self.files.flags
        try:
            next(self.entries(ROOT), None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all descriptors."""
        self._inodes.close()
        self._work.close()

    def space(self) -> os.statvfs_result:
        """Return the free space of the upper directory's filesystem."""
        root = self._copy_up.ensure(ROOT)
        return os.statvfs(opath.proc_path(self._inodes.pin(root)))

    # New names

    def create(self, directory: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """Make an empty regular file, and return its inode.

        :param mode: the permissions before the umask.
        """
        above = self._parent_for(directory, name)
        file = self._creation.file(above, name, mode, caller)
        inode = self._add_name(above, name, self._inodes.add(stat.S_IFREG))
        inode.is_bare = True
        self._inodes.keep_open(inode.number, file)  # the next request usually writes to it
        return inode.number

    def make_unnamed(self, directory: Node, mode: int, caller: Caller, *, exclusive: bool) -> Node:
        """Make a regular file without a name (O_TMPFILE of open(2)), and return its inode.

        :param directory: the directory that a name of the file would be in.
        :param exclusive: whether the file can get no name later.
        :raises OSError: ``EOPNOTSUPP`` if the filesystem does not support such files.
        """
        above = self._directory(directory)
        file = self._creation.unnamed(above, mode, caller, exclusive=exclusive)
        inode = self._inodes.add(stat.S_IFREG)
        inode.held = file
        return inode.number

    def make_node(
        self, directory: Node, name: bytes, mode: int, device: int, caller: Caller
    ) -> Node:
        """Make a file, FIFO, socket or device, and return its inode.

        :param mode: file type, and permissions before the umask.
        :raises OSError: ``EPERM`` for the device 0:0, which would be a whiteout.
        """
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFREG:
            return self.create(directory, name, stat.S_IMODE(mode), caller)
        if kind == stat.S_IFCHR and not device:
            raise OSError(errno.EPERM, "device 0:0 is a whiteout")
        above = self._parent_for(directory, name)
        self._creation.node(above, name, kind | stat.S_IMODE(mode), device, caller)
        return self._add_name(above, name, self._inodes.add(kind)).number

    def symlink(self, directory: Node, name: bytes, target: bytes, caller: Caller) -> Node:
        """Make a symbolic link, and return its inode."""
        above = self._parent_for(directory, name)
        self._creation.symlink(above, name, target, caller)
        return self._add_name(above, name, self._inodes.add(stat.S_IFLNK)).number

    def make_directory(self, directory: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a directory, and return its inode; it hides lower directories of that name."""
        above = self._parent_for(directory, name)
        self._creation.directory(above, name, mode, caller)
        inode = self._add_name(above, name, self._inodes.add(stat.S_IFDIR))
        inode.listing = Listing()
        inode.inherits = above.inherits
        return inode.number

    def link(self, node: Node, directory: Node, name: bytes) -> None:
        """Add a name to an inode.

        :raises OSError: ``EPERM`` for a directory.
        """
        above = self._parent_for(directory, name)
        if self.kind(node) == stat.S_IFDIR:
            raise OSError(errno.EPERM, "a directory cannot be hard linked")
        inode = self._copy_up.ensure(node)
        source = opath.proc_path(self._inodes.pin(inode))
        made = self._work.name()
        if inode.is_copy:
            self._copy_up.mark_impure(above)
        os.link(source, made, dst_dir_fd=self._work.directory, follow_symlinks=True)
        self._work.move_to(made, name, self._inodes.pin(above))
        self._add_name(above, name, inode)

    def _parent_for(self, directory: Node, name: bytes) -> Inode:
        """Return a directory of the upper, after checking that a name in it is free."""
        if self.lookup(directory, self._check_new_name(name)) is not None:
            raise OSError(errno.EEXIST, "name exists")
        return self._directory(directory)

    def _check_new_name(self, name: bytes) -> bytes:
        """Return ``name`` if a file may have it.

        :raises OSError: ``EINVAL`` for a malformed name, and for one that would be a whiteout.
        """
        if self._inodes.dialect.has_names and is_reserved(name):
            raise OSError(errno.EINVAL, "name is reserved for whiteouts")
        return check_name(name)

    def _directory(self, node: Node) -> Inode:
        if self.kind(node) != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, "not a directory")
        return self._copy_up.ensure(node)

    def _whiteouts(self, directory: Inode) -> set[bytes]:
        return self._inodes.listing(directory).whiteouts

    def _add_name(self, above: Inode, name: bytes, inode: Inode) -> Inode:
        self._whiteouts(above).discard(name)
        self._inodes.link(above, name, inode)
        return inode

    # Removed names

    def unlink(self, directory: Node, name: bytes) -> None:
        """Remove a name of anything but a directory.

        :raises OSError: ``ENOENT``, ``EISDIR``.
        """
        node = self._existing(directory, name)
        if self.kind(node) == stat.S_IFDIR:
            raise OSError(errno.EISDIR, "is a directory")
        above, inode = self._directory(directory), self._inodes.upper_inode(node)
        if inode is not None:
            self._inodes.hold(inode)
        held = self._inodes.pin(above)
        if self._inodes.lower_name(above, name) is not None:
            self._work.hide(name, held, instead=0 if inode is None else stat.S_IFREG)
            self._whiteouts(above).add(name)
        else:
            os.unlink(name, dir_fd=held)
        self._inodes.unlink(above, name)

    def remove_directory(self, directory: Node, name: bytes) -> None:
        """Remove a directory without entries.

        :raises OSError: ``ENOENT``, ``ENOTDIR``, ``ENOTEMPTY``.
        """
        node = self._existing(directory, name)
        if not self._inodes.is_empty(node):  # also raises ENOTDIR
            raise OSError(errno.ENOTEMPTY, "directory is not empty")
        above, inode = self._directory(directory), self._inodes.upper_inode(node)
        if inode is not None:
            self._inodes.hold(inode)
        self._renamer.remove_directory(above, name, inode)
        self._inodes.unlink(above, name)

    def rename(self, source: Node, name: bytes, target: Node, new: bytes, flags: int = 0) -> None:
        """Rename a file or directory; an existing target is replaced.

        :param flags: ``RENAME_NOREPLACE`` or ``RENAME_EXCHANGE``.
        :raises OSError: ``EXDEV`` for a directory that a lower layer has, so that the caller copies
            it; otherwise as in rename(2).
        """
        if flags not in {0, opath.RENAME_NOREPLACE, opath.RENAME_EXCHANGE}:
            raise OSError(errno.EINVAL, "unknown rename flags")
        node, victim = self._existing(source, name), self.lookup(target, self._check_new_name(new))
        if victim is not None and flags == opath.RENAME_NOREPLACE:
            raise OSError(errno.EEXIST, "name exists")
        if victim is None and flags == opath.RENAME_EXCHANGE:
            raise OSError(errno.ENOENT, "target to exchange does not exist")
        if node == victim:
            return
        if self._is_in(target, node) or (flags and self._is_in(source, victim)):
            raise OSError(errno.EINVAL, "a directory cannot be moved into itself")
        self._renamer.check(node, victim, exchange=flags == opath.RENAME_EXCHANGE)
        inode = self._copy_up.ensure(node)
        above, below = self._directory(source), self._directory(target)
        if inode.is_copy:
            self._copy_up.mark_impure(below)
        if victim is not None and flags == opath.RENAME_EXCHANGE:
            self._copy_up.mark_impure(above)
            self._renamer.exchange((above, name, inode), (below, new, self._copy_up.ensure(victim)))
            return
        gone = None if victim is None else self._inodes.upper_inode(victim)
        if gone is not None:
            self._inodes.hold(gone)
        self._renamer.move((above, name, inode), (below, new, gone))

    def _is_in(self, directory: Node, outer: Node | None) -> bool:
        while directory != outer:
            inner, directory = directory, self.parent(directory)
            if directory == inner:  # the root or a removed directory
                return False
        return True

    def _existing(self, directory: Node, name: bytes) -> Node:
        node = self.lookup(directory, check_name(name))
        if node is None:
            raise OSError(errno.ENOENT, "no such name")
        return node


def check_name(name: bytes) -> bytes:
    """Return ``name`` if it is a single component; nothing else may reach a system call.

    :raises OSError: ``EINVAL``.
    """
    if not name or name in {b".", b".."} or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not a file name")
    return name
