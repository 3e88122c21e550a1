"""Operations on the inodes of a writable tree: contents, attributes, xattrs.

Inode numbers and values come in.  Each change copies the inode up first.  An inode can be read and
written as long as it exists, without a handle; opening it for writing copies nothing.  Errors are
`OSError` with the errno of the corresponding system call.  This module must not use names of files.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from stacker.linux import acl, opath
from stacker.linux.inode_attributes import birth_time, file_flags
from stacker.tree.contents import HOLE, read_into
from stacker.tree.protocol import Status

if TYPE_CHECKING:
    from stacker.tree.copy_up import CopyUp
    from stacker.tree.inode import Inode
    from stacker.tree.inodes import Inodes
    from stacker.tree.protocol import Node

_CAPABILITY: Final = b"security.capability"
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_COPIED_AT_ONCE: Final = 64 << 20
"""Bytes after which a copy returns, so that a server can answer other requests."""


class Files:
    """Reads and changes inodes.

    :param durable: whether `sync` flushes to disk.
    :param acls: whether POSIX ACLs are supported.
    """

    def __init__(self, inodes: Inodes, copy_up: CopyUp, *, durable: bool, acls: bool) -> None:
        self._inodes = inodes
        self._copy_up = copy_up
        self._durable = durable
        self._acls = acls

    # Attributes

    def status(self, node: Node) -> Status:
        """Return an inode's attributes.

        Directories have one link, like merged directories of overlayfs.  The ctime of a lower inode
        is its mtime, or the time when it lost a name.
        """
        inode = self._inodes.upper_inode(node)
        if inode is None:
            return self._inodes.lower_status(node)
        seen = self._inodes.stat(inode)
        mode, _, _, nlink, uid, gid, size, _, _, _ = seen
        if nlink and inode.kind == stat.S_IFDIR:
            nlink = 1
        times = seen.st_atime_ns, seen.st_mtime_ns, seen.st_ctime_ns
        # Status() would add a Python call to most requests of a FUSE server.
        return tuple.__new__(
            Status, (mode, nlink, uid, gid, size, seen.st_blocks, seen.st_rdev, *times)
        )

    def birth(self, node: Node) -> int | None:
        """Return when a file was made, in nanoseconds; ``None`` if that is not known."""
        inode = self._inodes.upper_inode(node)
        if inode is None:
            return self._inodes.lower.birth(node)
        return birth_time(self._inodes.pin(inode))

    def flags(self, node: Node) -> int:
        """Return the flags of a file or directory, as lsattr(1) shows them.

        :raises OSError: ``ENOTTY`` if its filesystem has none.
        """
        inode = self._inodes.upper_inode(node)
        if inode is None:
            return self._inodes.lower.flags(node)
        file = opath.reopen(self._inodes.pin(inode), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return file_flags(file)
        finally:
            os.close(file)

    def change_mode(self, node: Node, mode: int) -> None:
        """Set the permissions; the file type in `mode` is ignored."""
        os.chmod(self._target(node), stat.S_IMODE(mode))

    def change_owner(self, node: Node, uid: int = -1, gid: int = -1) -> None:
        """Set owner and group; -1 keeps the old one.

        :raises OSError: ``EPERM`` if this process may not change the owner.
        """
        os.chown(self._target(node), uid, gid)

    def change_times(self, node: Node, atime: int | None, mtime: int | None) -> None:
        """Set the times, nanoseconds since the epoch; ``None`` keeps the old one."""
        target = self._target(node)
        if atime is None or mtime is None:
            now = self.status(node)
            atime = now.atime if atime is None else atime
            mtime = now.mtime if mtime is None else mtime
        os.utime(target, ns=(atime, mtime))

    def _target(self, node: Node) -> int | bytes:
        """Copy an inode up, and return its open file or a path to it, as functions of os accept."""
        inode, file = self._copy_up.ensure(node), self._inodes.open_file(node)
        return self._path_of(inode) if file is None else file

    def _path_of(self, inode: Inode) -> bytes:
        return opath.proc_path(self._inodes.pin(inode))

    # Symbolic links and extended attributes

    def readlink(self, node: Node) -> bytes:
        """Return the target of a symbolic link.

        :raises OSError: ``EINVAL`` for any other file type.
        """
        inode = self._inodes.upper_inode(node)
        if inode is not None:
            if inode.kind != stat.S_IFLNK:
                raise OSError(errno.EINVAL, "not a symbolic link")
            return os.readlink(b"", dir_fd=self._inodes.pin(inode))
        return self._inodes.lower.readlink(node)

    def xattr(self, node: Node, name: bytes) -> bytes:
        """Return the value of an extended attribute; overlayfs's marks are hidden.

        :raises OSError: ``ENODATA``; ``EOPNOTSUPP`` for POSIX ACLs, if they are off.
        """
        self._require_support(name)
        inode = self._inodes.upper_inode(node)
        if inode is not None:
            if inode.is_bare and name == _CAPABILITY:  # the kernel asks at each chown(2)
                raise OSError(errno.ENODATA, "no such attribute")
            return os.getxattr(self._path_of(inode), self._inodes.dialect.escape(name))
        return self._inodes.lower.xattr(node, name)

    def xattr_names(self, node: Node) -> list[bytes]:
        """Return the names of all extended attributes, without overlayfs's marks."""
        inode, names = self._inodes.upper_inode(node), list[bytes | None]()
        if inode is None:
            names += self._inodes.lower.xattrs(node)
        else:
            listed = map(os.fsencode, os.listxattr(self._path_of(inode)))
            names += map(self._inodes.dialect.unescape, listed)
        return [name for name in names if name is not None and self._supports(name)]

    def set_xattr(
        self, node: Node, name: bytes, value: bytes, flags: int = 0, *, drop_group_id: bool = False
    ) -> None:
        """Set an extended attribute; a name of overlayfs is escaped, so overlayfs ignores it.

        :param flags: ``XATTR_CREATE`` or ``XATTR_REPLACE``.
        :param drop_group_id: clear the set-group-ID bit, as for a user who sets an access ACL and
            is not in the group.
        :raises OSError: as in setxattr(2); ``EOPNOTSUPP`` for POSIX ACLs, if they are off.
        """
        self._require_support(name)
        if flags:  # checked first, so that a failure copies nothing up
            self._check_presence(node, name, flags)
        path = self._path_to_change(node)
        os.setxattr(path, self._inodes.dialect.escape(name), value, flags)
        if drop_group_id:
            mode = stat.S_IMODE(self.status(node).mode)
            if mode & stat.S_ISGID:
                os.chmod(path, mode & ~stat.S_ISGID)

    def _path_to_change(self, node: Node) -> bytes:
        """Copy an inode up, and forget what is known of its xattrs; return a path to it."""
        inode = self._copy_up.ensure(node)
        inode.inherits, inode.is_bare = None, False
        return self._path_of(inode)

    def _supports(self, name: bytes) -> bool:
        return self._acls or not name.startswith(acl.PREFIX)

    def _require_support(self, name: bytes) -> None:
        if not self._supports(name):
            raise OSError(errno.EOPNOTSUPP, "POSIX ACLs are off")

    def _check_presence(self, node: Node, name: bytes, flags: int) -> None:
        present = name in self.xattr_names(node)
        if flags & os.XATTR_CREATE and present:
            raise OSError(errno.EEXIST, "attribute exists")
        if flags & os.XATTR_REPLACE and not present:
            raise OSError(errno.ENODATA, "no such attribute")

    def remove_xattr(self, node: Node, name: bytes) -> None:
        """Remove an extended attribute.

        :raises OSError: ``ENODATA``; otherwise as in removexattr(2).
        """
        self._require_support(name)
        if self._inodes.upper_inode(node) is None and name not in self._inodes.lower.xattrs(node):
            raise OSError(errno.ENODATA, "no such attribute")
        os.removexattr(self._path_to_change(node), self._inodes.dialect.escape(name))

    # Contents of regular files

    def read(self, node: Node, offset: int, length: int) -> bytes:
        """Return a range of a file; fewer than ``length`` bytes only at its end."""
        buffer = bytearray(length)
        return bytes(buffer[: self.read_into(node, memoryview(buffer), offset)])

    def read_into(self, node: Node, buffer: memoryview, offset: int) -> int:
        """Read into a buffer; return the number of bytes, less than its length only at the end."""
        contents = self._inodes.contents(node)
        if contents is not None:
            return read_into(contents, buffer, offset)
        file, length = self._inodes.file(node), 0
        while length < len(buffer):
            count = os.preadv(file, [buffer[length:]], offset + length)
            if not count:
                break
            length += count
        return length

    def write(
        self, node: Node, data: bytes | memoryview, offset: int, *, drop_ids: bool = False
    ) -> int:
        """Write, and return the number of bytes written.

        :param drop_ids: clear the set-user-ID and set-group-ID bits, as for an unprivileged writer.
        """
        file = self._inodes.open_file(node)
        if file is None:
            file = self._writable(node)
        if drop_ids:
            self._drop_ids(file)
        return os.pwrite(file, data, offset)

    def truncate(self, node: Node, size: int, *, drop_ids: bool = False) -> None:
        """Truncate a file, or extend it by a hole; copy up only the bytes that remain."""
        if self._inodes.upper_inode(node) is None and self._inodes.kind(node) == stat.S_IFREG:
            self._copy_up.ensure(node, length=size)
        file = self._writable(node)
        if drop_ids:
            self._drop_ids(file)
        os.ftruncate(file, size)

    def allocate(self, node: Node, mode: int, offset: int, length: int) -> None:
        """Allocate, punch or zero a range, as fallocate(2) does."""
        opath.allocate(self._writable(node), mode, offset, length)

    def copy(self, source: Node, start: int, target: Node, offset: int, length: int) -> int:
        """Copy a range between files; return the number of bytes, at most ``length``.

        :raises OSError: ``EXDEV`` among others; the caller then copies by reading and writing.
        """
        writable = self._writable(target)
        length, contents = min(length, _COPIED_AT_ONCE), self._inodes.contents(source)
        if contents is None:
            return os.copy_file_range(self._inodes.file(source), writable, length, start, offset)
        if start >= contents.size:
            return 0
        file, start, length = contents.piece(start, length)
        if file == HOLE:
            raise OSError(errno.EXDEV, "a hole")
        return os.copy_file_range(file, writable, length, start, offset)

    def seek(self, node: Node, offset: int, whence: int) -> int:
        """Find data or a hole.

        :param whence: ``SEEK_DATA`` or ``SEEK_HOLE``.
        :raises OSError: ``ENXIO`` past the end.
        """
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise OSError(errno.EINVAL, "want SEEK_DATA or SEEK_HOLE")
        contents = self._inodes.contents(node)
        if contents is not None:
            return contents.seek(offset, whence)
        return os.lseek(self._inodes.file(node), offset, whence)

    def sync(self, node: Node, *, data_only: bool = False) -> None:
        """Flush an inode to disk; does nothing if the mount's writes are discarded at unmount."""
        inode = self._inodes.upper_inode(node)
        if inode is None or not self._durable:
            return
        if inode.kind == stat.S_IFREG:
            (os.fdatasync if data_only else os.fsync)(self._inodes.file(node))
        elif inode.kind == stat.S_IFDIR:
            fd = opath.reopen(self._inodes.pin(inode), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _writable(self, node: Node) -> int:
        if self._inodes.kind(node) == stat.S_IFREG:
            self._copy_up.ensure(node)
        return self._inodes.file(node)

    @staticmethod
    def _drop_ids(file: int) -> None:
        mode = stat.S_IMODE(os.fstat(file).st_mode)
        # Without group execute permission, the set-group-ID bit once meant mandatory locking.
        dropped = _SET_ID if mode & stat.S_IXGRP else stat.S_ISUID
        if mode & dropped:
            os.fchmod(file, mode & ~dropped)
