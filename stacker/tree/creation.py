"""Make new files in an upper directory, with the owner, mode and ACLs that the kernel would give.

Directories of the upper directory, names and modes come in; files go out, which are complete when
they get their names.  A file is made under its name if one system call makes it complete.
Otherwise it is made in the work directory and renamed.  This module must not use the lower tree.

The rules are those of the kernel: ``inode_init_owner`` for owners, ``posix_acl_create`` for ACLs.
The umask applies only in a directory without a default ACL (umask(2)).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from stacker.linux import acl, opath

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.tree.inode import Inode
    from stacker.tree.inodes import Inodes
    from stacker.tree.workdir import WorkDirectory

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL_BITS: Final = ~0o777


class Caller(NamedTuple):
    """The owner of a new inode.

    :param umask: the umask of the caller; 0 if the kernel has already applied it to the mode.
    """

    uid: int
    gid: int
    umask: int = 0


class Creation:
    """Makes files.

    :param acls: whether new files inherit the default ACL of their directory.
    """

    def __init__(self, inodes: Inodes, work: WorkDirectory, *, acls: bool) -> None:
        self._inodes = inodes
        self._work = work
        self._acls = acls
        self._ids = os.geteuid(), os.getegid()
        self._refused = os.umask(0) | _SPECIAL_BITS
        os.umask(self._refused & 0o777)

    def file(self, above: Inode, name: bytes, mode: int, caller: Caller) -> int:
        """Make an empty file; return a descriptor open for writing.

        :param mode: the permissions before the umask.
        """
        if self._is_direct(above, name, mode := self._masked(above, mode, caller), caller):
            return os.open(name, _NEW, mode, dir_fd=self._inodes.pin(above))
        made, file = self._work.file()
        try:
            self._publish(above, name, made, file, mode=stat.S_IFREG | mode, caller=caller)
        except BaseException:
            os.close(file)
            raise
        return file

    def unnamed(self, above: Inode, mode: int, caller: Caller, *, exclusive: bool) -> int:
        """Make a file without a name, as in a directory; return a descriptor open for writing.

        :param exclusive: whether the file can get no name later.
        """
        mode = self._masked(above, mode, caller)
        file = self._work.unnamed(mode, exclusive=exclusive)
        try:
            self._describe(file, stat.S_IFREG | mode, caller, above)
        except BaseException:
            os.close(file)
            raise
        return file

    def node(self, above: Inode, name: bytes, mode: int, device: int, caller: Caller) -> None:
        """Make a FIFO, socket or device.

        :param mode: file type, and permissions before the umask.
        """
        kind, mode = stat.S_IFMT(mode), self._masked(above, mode, caller)
        if self._is_direct(above, name, stat.S_IMODE(mode), caller):
            os.mknod(name, mode, device, dir_fd=self._inodes.pin(above))
            return
        self._make(
            *(above, name, mode, caller),
            lambda made, within: os.mknod(made, kind | 0o600, device, dir_fd=within),
        )

    def symlink(self, above: Inode, name: bytes, target: bytes, caller: Caller) -> None:
        """Make a symbolic link."""
        if self._is_direct(above, name, 0, caller):
            os.symlink(target, name, dir_fd=self._inodes.pin(above))
            return
        self._make(
            *(above, name, stat.S_IFLNK | 0o777, caller),
            lambda made, within: os.symlink(target, made, dir_fd=within),
        )

    def directory(self, above: Inode, name: bytes, mode: int, caller: Caller) -> None:
        """Make a directory, which hides lower directories of that name.

        :param mode: the permissions before the umask.
        """
        mode = self._masked(above, mode, caller)
        opaque = self._inodes.lower_directory(above, name) is not None
        if not opaque and self._is_direct(above, name, mode, caller):
            os.mkdir(name, mode, dir_fd=self._inodes.pin(above))
            return
        self._make(above, name, stat.S_IFDIR | mode, caller, _make_directory, opaque=opaque)

    def _is_direct(self, above: Inode, name: bytes, mode: int, caller: Caller) -> bool:
        """Return whether one system call of this process makes a file complete."""
        uid, gid, _ = caller
        return not (
            (uid, gid) != self._ids
            or mode & self._refused
            or above.inherits
            or name in self._inodes.listing(above).whiteouts
        )

    def _masked(self, above: Inode, mode: int, caller: Caller) -> int:
        """Return a mode after the umask, which does not apply under a default ACL."""
        default = above.inherits
        if default is None:
            default = above.inherits = self._default_acl(above)
        return mode if default and self._acls else mode & ~caller.umask

    def _default_acl(self, directory: Inode) -> bytes:
        held = self._inodes.pin(directory)
        path = opath.proc_path(held)
        try:
            return opath.with_owner_access(held, lambda: os.getxattr(path, acl.DEFAULT))
        except OSError as error:
            if error.errno in {errno.ENODATA, errno.EOPNOTSUPP}:
                return b""
            raise

    def _make(
        self,
        above: Inode,
        name: bytes,
        mode: int,
        caller: Caller,
        make: Callable[[bytes, int], None],
        *,
        opaque: bool = False,
    ) -> None:
        made, held = self._work.make(make)
        try:
            self._publish(above, name, made, held, mode=mode, caller=caller, opaque=opaque)
        finally:
            os.close(held)

    def _publish(
        self,
        above: Inode,
        name: bytes,
        made: bytes,
        held: int,
        *,
        mode: int,
        caller: Caller,
        opaque: bool = False,
    ) -> None:
        """Set the attributes of a file in the work directory, and move it to its name."""
        over = stat.S_ISDIR(mode) and name in self._inodes.listing(above).whiteouts
        try:
            self._describe(held, mode, caller, above)
            if opaque:
                self._work.mark_opaque(held)
        except BaseException:
            self._work.discard(made)
            raise
        self._work.move_to(made, name, self._inodes.pin(above), held=held, over=over)

    def _describe(self, held: int, mode: int, caller: Caller, above: Inode) -> None:
        """Set owner, ACLs and mode of a new file."""
        path, gid, parent = opath.proc_path(held), caller.gid, os.fstat(self._inodes.pin(above))
        if parent.st_mode & stat.S_ISGID:
            gid = parent.st_gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
            elif mode & stat.S_IXGRP and caller.uid and caller.gid != gid:
                mode &= ~stat.S_ISGID
        status = os.fstat(held)
        given = (status.st_uid, status.st_gid) != (caller.uid, gid)
        if given:
            os.chown(path, caller.uid, gid)
        if stat.S_ISLNK(mode):
            return
        if above.inherits and self._acls:
            mode = _inherit(path, above.inherits, mode)
        if given or status.st_mode != mode:
            os.chmod(path, stat.S_IMODE(mode))


def _inherit(path: bytes, default: bytes, mode: int) -> int:
    """Set the ACLs of a new file, and return its mode."""
    mode, access = acl.inherited(default, mode)
    if access:
        os.setxattr(path, acl.ACCESS, access)
    if stat.S_ISDIR(mode):
        os.setxattr(path, acl.DEFAULT, default)
    return mode


def _make_directory(name: bytes, directory: int) -> None:
    os.mkdir(name, 0o700, dir_fd=directory)
