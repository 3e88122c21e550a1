"""What a write does: a merged tree below, an upper directory above that takes all changes.

In come the lower tree, which stays as it is, and a directory in the kernel overlayfs's own format
(Documentation/filesystems/overlayfs.rst): whiteouts are character devices 0:0, opaque directories
have a mark.  The kernel can mount the same directory over the same layers afterwards, and the
other way round.  Features that this program's overlay mounts leave off are not written and are
refused: redirect_dir (so a directory that lower layers have part in cannot be renamed: ``EXDEV``,
and mv copies it) and metacopy.

`WritableTree` is what an adapter needs to know, with its `WritableTree.files`: inodes are numbers,
names are bytes, errors are `OSError` with the errno that the system call of that name gives.  Who
may do what is not checked here; whoever asks has been let in.  No path is ever resolved: every step
is a name in a directory that is held by a descriptor, and no link is followed.

POSIX ACLs are neither kept nor inherited; a umask has been taken off a mode before it comes here.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.linux import opath
from stacker.tree.copy_up import CopyUp
from stacker.tree.file_operations import Files
from stacker.tree.inode import Listing
from stacker.tree.inodes import Inodes
from stacker.tree.protocol import ROOT
from stacker.tree.rename import Renaming
from stacker.tree.whiteout_dialects import is_reserved
from stacker.tree.workdir import Staging

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stacker.tree.inode import Inode
    from stacker.tree.merged import MergedTree
    from stacker.tree.protocol import Node
    from stacker.tree.whiteout_dialects import WhiteoutDialect

_UPPER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Caller(NamedTuple):
    """Whose a new inode is."""

    uid: int
    gid: int


class WritableTree:
    """A tree that takes writes; nobody else may change the upper directory meanwhile.

    An inode's number stays the same as long as the tree is open, through renames and copying up.
    Whoever has been told of one says so (`remember`), and that it needs it no more (`forget`): in
    between it can be used even when its last name is gone.

    Questions are `lookup`, `entries`, `kind`, `parent` (as of `stacker.tree.inodes.Inodes`),
    `space` and those of `files`; everything else changes something.

    :param upper: the directory that takes the writes.
    :param work: a directory on the same filesystem; ``work`` inside it is emptied and used.
    :param durable: whether what has been synced must survive the machine's crash.
    :raises OSError: a directory cannot be used: no xattrs, or written with features that are off.
    """

    def __init__(
        self, lower: MergedTree, dialect: WhiteoutDialect, upper: Path, work: Path, *, durable: bool
    ) -> None:
        self._staging = Staging(work, dialect)
        try:
            self._inodes = Inodes(lower, dialect, os.open(upper, _UPPER))
        except BaseException:
            self._staging.close()
            raise
        self._copy_up = CopyUp(self._inodes, self._staging, durable=durable)
        self._renaming = Renaming(self._inodes, self._staging)
        self.files = Files(self._inodes, self._copy_up, durable=durable)
        self.remember, self.forget = self._inodes.remember, self._inodes.forget
        # Bound here, not wrapped, so that a FUSE server makes no further call for each request.
        self.lookup, self.entries = self._inodes.lookup, self._inodes.entries
        self.kind, self.parent = self._inodes.kind, self._inodes.parent
        self.status, self.readlink, self.read = (
            self.files.status,
            self.files.readlink,
            self.files.read,
        )
        self.xattr, self.xattr_names = self.files.xattr, self.files.xattr_names
        try:
            next(self.entries(ROOT), None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close everything."""
        self._inodes.close()
        self._staging.close()

    def space(self) -> os.statvfs_result:
        """Say how much room the upper directory's filesystem has."""
        root = self._copy_up.raised(ROOT)
        return os.statvfs(opath.proc_path(self._inodes.pin(root)))

    # New names

    def create(self, directory: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """Make an empty regular file, and give its inode.

        :param mode: permissions, exactly.
        """
        above = self._free(directory, name)
        made, file = self._staging.file(mode)
        try:
            self._settle(above, name, made, file, mode=stat.S_IFREG | mode, caller=caller)
        except BaseException:
            os.close(file)
            raise
        inode = self._named(above, name, self._inodes.add(stat.S_IFREG))
        self._inodes.keep_open(inode.number, file)  # whoever makes a file writes it next
        return inode.number

    def make_node(
        self, directory: Node, name: bytes, mode: int, device: int, caller: Caller
    ) -> Node:
        """Make a file, pipe, socket or device, and give its inode.

        :param mode: type and permissions.
        :raises OSError: ``EPERM`` for the device 0:0, which would be a whiteout.
        """
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFCHR and not device:
            raise OSError(errno.EPERM, "this device is a whiteout to overlayfs")
        return self._made(
            *(directory, name, kind | stat.S_IMODE(mode), caller),
            lambda made, within: os.mknod(made, kind | 0o600, device, dir_fd=within),
        ).number

    def symlink(self, directory: Node, name: bytes, target: bytes, caller: Caller) -> Node:
        """Make a symbolic link, and give its inode."""
        return self._made(
            *(directory, name, stat.S_IFLNK | 0o777, caller),
            lambda made, within: os.symlink(target, made, dir_fd=within),
        ).number

    def make_directory(self, directory: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a directory, and give its inode; lower ones of that name stay hidden."""
        inode = self._made(directory, name, stat.S_IFDIR | mode, caller, _make_directory)
        inode.listing = Listing()
        return inode.number

    def _made(
        self,
        directory: Node,
        name: bytes,
        mode: int,
        caller: Caller,
        make: Callable[[bytes, int], None],
    ) -> Inode:
        above = self._free(directory, name)
        made, held = self._staging.made(make)
        try:
            self._settle(above, name, made, held, mode=mode, caller=caller)
        finally:
            os.close(held)
        return self._named(above, name, self._inodes.add(stat.S_IFMT(mode)))

    def _settle(
        self, above: Inode, name: bytes, made: bytes, held: int, *, mode: int, caller: Caller
    ) -> None:
        """Describe what was made in the work directory, and give it its name."""
        over = False
        try:
            self._describe(held, mode, caller, os.fstat(self._inodes.pin(above)))
            if stat.S_ISDIR(mode):
                over = name in self._whiteouts(above)
                if self._inodes.lower_directory(above, name) is not None:
                    self._staging.mark_opaque(held)
        except BaseException:
            self._staging.discard(made)
            raise
        self._staging.place(made, name, self._inodes.pin(above), held=held, over=over)

    @staticmethod
    def _describe(held: int, mode: int, caller: Caller, above: os.stat_result) -> None:
        """Give something new owner and mode, as a kernel does it (inode_init_owner)."""
        path, gid = opath.proc_path(held), caller.gid
        if above.st_mode & stat.S_ISGID:
            gid = above.st_gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
            elif mode & stat.S_IXGRP and caller.uid and caller.gid != gid:
                mode &= ~stat.S_ISGID
        status = os.fstat(held)
        given = (status.st_uid, status.st_gid) != (caller.uid, gid)
        if given:
            os.chown(path, caller.uid, gid)
        if not stat.S_ISLNK(mode) and (given or status.st_mode != mode):
            os.chmod(path, stat.S_IMODE(mode))

    def link(self, node: Node, directory: Node, name: bytes) -> None:
        """Give an inode one more name.

        :raises OSError: ``EPERM`` for a directory.
        """
        above = self._free(directory, name)
        if self.kind(node) == stat.S_IFDIR:
            raise OSError(errno.EPERM, "a directory has one name")
        inode = self._copy_up.raised(node)
        source = opath.proc_path(self._inodes.pin(inode))
        made = self._staging.name()
        os.link(source, made, dst_dir_fd=self._staging.directory, follow_symlinks=True)
        self._staging.place(made, name, self._inodes.pin(above))
        self._named(above, name, inode)

    def _free(self, directory: Node, name: bytes) -> Inode:
        """Give a directory of the upper that a new name can go to."""
        if self.lookup(directory, self._usable(name)) is not None:
            raise OSError(errno.EEXIST, "the name is taken")
        return self._directory(directory)

    def _usable(self, name: bytes) -> bytes:
        """Give a name back that something can get.

        :raises OSError: ``EINVAL`` for none, and for one that would be a deletion.
        """
        if self._inodes.dialect.has_names and is_reserved(name):
            raise OSError(errno.EINVAL, "the name is reserved for deletions")
        return checked(name)

    def _directory(self, node: Node) -> Inode:
        if self.kind(node) != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, "not a directory")
        return self._copy_up.raised(node)

    def _whiteouts(self, directory: Inode) -> set[bytes]:
        return self._inodes.listing(directory).whiteouts

    def _named(self, above: Inode, name: bytes, inode: Inode) -> Inode:
        self._whiteouts(above).discard(name)
        self._inodes.link(above, name, inode)
        return inode

    # Names that go

    def unlink(self, directory: Node, name: bytes) -> None:
        """Remove a name of anything but a directory.

        :raises OSError: ``ENOENT``, ``EISDIR``.
        """
        node = self._found(directory, name)
        if self.kind(node) == stat.S_IFDIR:
            raise OSError(errno.EISDIR, "a directory")
        above, inode = self._directory(directory), self._inodes.raised(node)
        if inode is not None:
            self._inodes.hold(inode)
        held = self._inodes.pin(above)
        if self._inodes.lower_name(above, name) is not None:
            self._staging.hide(name, held, instead=0 if inode is None else stat.S_IFREG)
            self._whiteouts(above).add(name)
        else:
            os.unlink(name, dir_fd=held)
        self._inodes.unlink(above, name)

    def remove_directory(self, directory: Node, name: bytes) -> None:
        """Remove a directory that shows nothing.

        :raises OSError: ``ENOENT``, ``ENOTDIR``, ``ENOTEMPTY``.
        """
        node = self._found(directory, name)
        if not self._inodes.is_empty(node):  # ENOTDIR too
            raise OSError(errno.ENOTEMPTY, "the directory has something in it")
        above, inode = self._directory(directory), self._inodes.raised(node)
        if inode is not None:
            self._inodes.hold(inode)
        self._renaming.clear(above, name, inode)
        self._inodes.unlink(above, name)

    def rename(self, source: Node, name: bytes, target: Node, new: bytes, flags: int = 0) -> None:
        """Give something another name; one that is there already goes.

        :param flags: ``RENAME_NOREPLACE`` or ``RENAME_EXCHANGE``.
        :raises OSError: ``EXDEV`` for a directory that lower layers have part in, so that whoever
            asks copies it; otherwise as rename(2) says.
        """
        if flags not in {0, opath.RENAME_NOREPLACE, opath.RENAME_EXCHANGE}:
            raise OSError(errno.EINVAL, "no such way to rename")
        node, victim = self._found(source, name), self.lookup(target, self._usable(new))
        if victim is not None and flags == opath.RENAME_NOREPLACE:
            raise OSError(errno.EEXIST, "the name is taken")
        if victim is None and flags == opath.RENAME_EXCHANGE:
            raise OSError(errno.ENOENT, "nothing to exchange with")
        if node == victim:
            return
        if self._is_in(target, node) or (flags and self._is_in(source, victim)):
            raise OSError(errno.EINVAL, "a directory cannot go into itself")
        self._renaming.check(node, victim, exchange=flags == opath.RENAME_EXCHANGE)
        inode = self._copy_up.raised(node)
        above, below = self._directory(source), self._directory(target)
        if victim is not None and flags == opath.RENAME_EXCHANGE:
            self._renaming.exchange(
                (above, name, inode), (below, new, self._copy_up.raised(victim))
            )
            return
        gone = None if victim is None else self._inodes.raised(victim)
        if gone is not None:
            self._inodes.hold(gone)
        self._renaming.move((above, name, inode), (below, new, gone))

    def _is_in(self, directory: Node, outer: Node | None) -> bool:
        while directory != outer:
            inner, directory = directory, self.parent(directory)
            if directory == inner:  # the root, or a removed one
                return False
        return True

    def _found(self, directory: Node, name: bytes) -> Node:
        node = self.lookup(directory, checked(name))
        if node is None:
            raise OSError(errno.ENOENT, "no such name")
        return node


def checked(name: bytes) -> bytes:
    """Give a name back that is one; nothing else may ever reach a system call.

    :raises OSError: ``EINVAL``.
    """
    if not name or name in {b".", b".."} or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not a name")
    return name


def _make_directory(name: bytes, directory: int) -> None:
    os.mkdir(name, 0o700, dir_fd=directory)
