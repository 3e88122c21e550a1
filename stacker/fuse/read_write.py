"""A writable tree in the kernel's own FUSE protocol.

Requests come in; each becomes a call of `stacker.tree.writable.WritableTree`, and its result
becomes the reply.  This module must not decide what a write does to the upper directory.

One process answers all requests, and only it changes the tree.  Each change therefore comes through
the kernel, which then drops the cached names, listings and attributes that the change affects.  So
the kernel may cache everything forever.  This needs stable inode numbers: a copy-up keeps the
number of an inode, and all names of an inode have one number.

* The adapter answers ENOSYS to OPEN and OPENDIR.  An inode lives until the kernel forgets it, with
  or without names, and listings have stable offsets, so handles are not needed.
* There is no FUSE_WRITEBACK_CACHE: with it, only the kernel would know sizes and times until it
  writes back, and a crash would leave arbitrary data in the upper directory.  Shared writable
  mappings work without it.
* The kernel checks permissions (default_permissions), by mode and POSIX ACL.  With ACLs, the tree
  applies the umask, since a default ACL replaces it.
* The adapter answers ENOSYS to CREATE.  The kernel then sends MKNOD, and needs no RELEASE later.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final

from stacker.fuse import protocol as fuse
from stacker.fuse.dispatch import HEADER, TreeHandler, list_xattrs, name_at
from stacker.fuse.replies import (
    ABSENT,
    NO_ENTRY,
    PATH_MAX,
    VALID,
    pack_attributes,
    pack_dirent,
    pack_entry,
    pack_xattr,
)
from stacker.tree.creation import Caller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.tree.protocol import Node
    from stacker.tree.writable import WritableTree

_SECOND: Final = 1_000_000_000
_HEADER_SPACE: Final = 4096  # as in libfuse; the kernel needs 80 bytes besides the data


class WritableAdapter(TreeHandler):
    """Answers requests about one tree.

    :param tree: this adapter is its only user.
    """

    largest_write: ClassVar[int] = fuse.LARGEST_WRITE
    largest_read: ClassVar[int] = fuse.LARGEST_WRITE
    request_size: ClassVar[int] = fuse.LARGEST_WRITE + _HEADER_SPACE

    def __init__(self, tree: WritableTree) -> None:
        wanted = fuse.WANTED_TO_WRITE | (fuse.WANTED_FOR_ACLS if tree.acls else 0)
        super().__init__(wanted, tree, tree.status)
        self._tree = tree
        self._files = tree.files
        self._handlers |= {
            fuse.LOOKUP: self._lookup,
            fuse.GETATTR: self._getattr,
            fuse.TMPFILE: self._tmpfile,
            fuse.SETATTR: self._setattr,
            fuse.READLINK: self._readlink,
            fuse.READDIR: self._readdir,
            fuse.READDIRPLUS: self._readdirplus,
            fuse.STATFS: self._statfs,
            fuse.LSEEK: self._lseek,
            fuse.GETXATTR: self._getxattr,
            fuse.LISTXATTR: self._listxattr,
            fuse.SETXATTR: self._setxattr,
            fuse.REMOVEXATTR: self._removexattr,
            fuse.MKNOD: self._mknod,
            fuse.MKDIR: self._mkdir,
            fuse.SYMLINK: self._symlink,
            fuse.LINK: self._link,
            fuse.UNLINK: self._unlink,
            fuse.RMDIR: self._rmdir,
            fuse.RENAME: self._rename,
            fuse.RENAME2: self._rename2,
            fuse.WRITE: self._write,
            fuse.FSYNC: self._fsync,
            fuse.FSYNCDIR: self._fsync,
            fuse.FALLOCATE: self._fallocate,
            fuse.COPY_FILE_RANGE: self._copy_file_range,
        }

    def close(self) -> None:
        """Close the tree."""
        self._tree.close()

    def _handle_without_reply(self, opcode: int, node: Node, request: bytes) -> None:
        """Decrease the number of lookups that the kernel holds of an inode."""
        if opcode == fuse.FORGET:
            self._tree.forget(node, *fuse.FORGET_IN.unpack_from(request, HEADER))
        elif opcode == fuse.BATCH_FORGET:
            count, _ = fuse.BATCH_FORGET_IN.unpack_from(request, HEADER)
            start = HEADER + fuse.BATCH_FORGET_IN.size
            for each in range(count):
                at = start + each * fuse.FORGET_ONE.size
                number, times = fuse.FORGET_ONE.unpack_from(request, at)
                self._tree.forget(number - fuse.ROOT_ID, times)

    # Reading

    def _entry(self, node: Node) -> bytes:
        """Return an entry, and count it as a lookup until the kernel forgets the inode."""
        status = self._status(node)  # first, since it also gets the number
        entry = pack_entry(node, self._tree.number(node), status)
        self._tree.remember(node)
        return entry

    def _lookup(self, node: Node, request: bytes) -> bytes:
        found = self._tree.lookup(node, name_at(request, HEADER))
        return ABSENT if found is None else self._entry(found)

    def _getattr(self, node: Node, request: bytes) -> bytes:
        del request
        return VALID + pack_attributes(self._tree.number(node), self._status(node))

    def _readlink(self, node: Node, request: bytes) -> bytes:
        del request
        return self._files.readlink(node)

    def _readdir(self, node: Node, request: bytes) -> bytes:
        return self._list(node, request, full=False)

    def _readdirplus(self, node: Node, request: bytes) -> bytes:
        return self._list(node, request, full=True)

    def _list(self, node: Node, request: bytes, *, full: bool) -> bytes:
        """Return as much of a listing as the reply can hold.

        :param full: whether an entry with attributes precedes each name; it counts as a lookup.
        """
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, HEADER)
        left, parts, tree = min(size, fuse.LARGEST_READ), list[bytes](), self._tree
        for at, name, inode in self._names(node, offset):
            number, status = tree.number(inode), None
            if full and at > 2:
                with suppress(OSError):  # the name is still listed
                    status = self._status(inode)
            kind = tree.kind(inode) if status is None else status.mode
            listed = pack_dirent(number, at, name, kind)
            left -= len(listed) + full * len(NO_ENTRY)
            if left < 0:
                break
            if status is not None:
                parts.append(pack_entry(inode, number, status))
                tree.remember(inode)
            elif full:
                parts.append(NO_ENTRY)
            parts.append(listed)
        return b"".join(parts)

    def _names(self, node: Node, offset: int) -> Iterator[tuple[int, bytes, Node]]:
        """Yield the offset, name and inode of each entry after an offset, ``.`` and ``..`` first.

        The kernel ignores the inodes of these two.
        """
        if offset < 1:
            yield 1, b".", node
        if offset < 2:
            yield 2, b"..", self._tree.parent(node)
        for at, name, inode in self._tree.entries(node, max(offset - 2, 0)):
            yield at + 2, name, inode

    def _getxattr(self, node: Node, request: bytes) -> bytes:
        size, _ = fuse.XATTR.unpack_from(request, HEADER)
        return pack_xattr(self._files.xattr(node, name_at(request, HEADER + fuse.XATTR.size)), size)

    def _listxattr(self, node: Node, request: bytes) -> bytes:
        return list_xattrs(self._files.xattr_names(node), request)

    def _statfs(self, node: Node, request: bytes) -> bytes:
        del node, request
        space = self._tree.space()
        return fuse.STATFS_OUT.pack(
            *(space.f_blocks, space.f_bfree, space.f_bavail, space.f_files, space.f_ffree),
            *(space.f_bsize, space.f_namemax, space.f_frsize),
        )

    def _lseek(self, node: Node, request: bytes) -> bytes:
        _, offset, whence, _ = fuse.LSEEK_IN.unpack_from(request, HEADER)
        return fuse.LSEEK_OUT.pack(self._files.seek(node, offset, whence))

    def _read_into(self, node: Node, buffer: memoryview, offset: int) -> int:
        return self._files.read_into(node, buffer, offset)

    # Creating

    def _tmpfile(self, node: Node, request: bytes) -> bytes:
        flags, mode, umask, _ = fuse.CREATE_IN.unpack_from(request, HEADER)
        exclusive, caller = bool(flags & os.O_EXCL), self._caller(request, umask)
        made = self._tree.make_unnamed(node, stat.S_IMODE(mode), caller, exclusive=exclusive)
        return self._entry(made) + fuse.OPEN_OUT.pack(0, fuse.OPEN_KEEP_CACHE, 0)

    def _mknod(self, node: Node, request: bytes) -> bytes:
        mode, device, umask, _ = fuse.MKNOD_IN.unpack_from(request, HEADER)
        name = name_at(request, HEADER + fuse.MKNOD_IN.size)
        caller, number = self._caller(request, umask), fuse.device_of(device)
        return self._entry(self._tree.make_node(node, name, mode, number, caller))

    def _mkdir(self, node: Node, request: bytes) -> bytes:
        mode, umask = fuse.MKDIR_IN.unpack_from(request, HEADER)
        name = name_at(request, HEADER + fuse.MKDIR_IN.size)
        caller = self._caller(request, umask)
        return self._entry(self._tree.make_directory(node, name, stat.S_IMODE(mode), caller))

    def _symlink(self, node: Node, request: bytes) -> bytes:
        name = name_at(request, HEADER)
        target = name_at(request, HEADER + len(name) + 1, most=PATH_MAX)
        return self._entry(self._tree.symlink(node, name, target, self._caller(request)))

    def _link(self, node: Node, request: bytes) -> bytes:
        (old,) = fuse.NODE_IN.unpack_from(request, HEADER)
        name = name_at(request, HEADER + fuse.NODE_IN.size)
        self._tree.link(old - fuse.ROOT_ID, node, name)
        return self._entry(old - fuse.ROOT_ID)

    # Removing and renaming

    def _unlink(self, node: Node, request: bytes) -> bytes:
        self._tree.unlink(node, name_at(request, HEADER))
        return b""

    def _rmdir(self, node: Node, request: bytes) -> bytes:
        self._tree.remove_directory(node, name_at(request, HEADER))
        return b""

    def _rename(self, node: Node, request: bytes) -> bytes:
        (target,) = fuse.NODE_IN.unpack_from(request, HEADER)
        old, new = _two_names(request, HEADER + fuse.NODE_IN.size)
        self._tree.rename(node, old, target - fuse.ROOT_ID, new)
        return b""

    def _rename2(self, node: Node, request: bytes) -> bytes:
        target, flags, _ = fuse.RENAME2_IN.unpack_from(request, HEADER)
        old, new = _two_names(request, HEADER + fuse.RENAME2_IN.size)
        self._tree.rename(node, old, target - fuse.ROOT_ID, new, flags)
        return b""

    # Changing inodes

    def _setattr(self, node: Node, request: bytes) -> bytes:
        """Change attributes: the owner before the mode, since chown(2) clears set-ID bits."""
        valid, _, _, size, _, atime, mtime, _, atime_rest, mtime_rest, _, mode, _, uid, gid, _ = (
            fuse.SETATTR_IN.unpack_from(request, HEADER)
        )
        if valid & fuse.FATTR_SIZE:
            self._files.truncate(node, size, drop_ids=bool(valid & fuse.FATTR_KILL_SUIDGID))
        if valid & (fuse.FATTR_UID | fuse.FATTR_GID):
            owner = uid if valid & fuse.FATTR_UID else -1
            group = gid if valid & fuse.FATTR_GID else -1
            self._change_owner(node, owner, group)
        if valid & fuse.FATTR_MODE:
            self._files.change_mode(node, mode)
        if valid & (fuse.FATTR_ATIME | fuse.FATTR_MTIME):
            now = time.time_ns()
            access = now if valid & fuse.FATTR_ATIME_NOW else atime * _SECOND + atime_rest
            change = now if valid & fuse.FATTR_MTIME_NOW else mtime * _SECOND + mtime_rest
            self._files.change_times(
                node,
                access if valid & fuse.FATTR_ATIME else None,
                change if valid & fuse.FATTR_MTIME else None,
            )
        return VALID + pack_attributes(self._tree.number(node), self._status(node))

    def _change_owner(self, node: Node, uid: int, gid: int) -> None:
        """Set owner and group; -1 keeps the current one."""
        self._files.change_owner(node, uid, gid)

    def _caller(self, request: bytes, umask: int = 0) -> Caller:
        """Return the user and group in the header of a request.

        :param umask: in the request; the kernel has applied it unless INIT_DONT_MASK is agreed.
        """
        _, _, _, _, uid, gid, _, _, _ = fuse.IN_HEADER.unpack_from(request)
        return Caller(uid, gid, umask if self._agreed & fuse.INIT_DONT_MASK else 0)

    def _setxattr(self, node: Node, request: bytes) -> bytes:
        size, flags = fuse.SETXATTR_IN.unpack_from(request, HEADER)
        at, more_flags = HEADER + fuse.SETXATTR_IN.size, 0
        if self._agreed & fuse.INIT_SETXATTR_EXT:
            _, _, more_flags, _ = fuse.SETXATTR_EXT_IN.unpack_from(request, HEADER)
            at = HEADER + fuse.SETXATTR_EXT_IN.size
        name = name_at(request, at)
        value = _data_at(request, at + len(name) + 1, size)
        drop_group_id = bool(more_flags & fuse.SETXATTR_ACL_KILL_SGID)
        self._files.set_xattr(node, name, bytes(value), flags, drop_group_id=drop_group_id)
        return b""

    def _removexattr(self, node: Node, request: bytes) -> bytes:
        self._files.remove_xattr(node, name_at(request, HEADER))
        return b""

    def _write(self, node: Node, request: bytes) -> bytes:
        _, offset, size, flags, _, _, _ = fuse.WRITE_IN.unpack_from(request, HEADER)
        data = _data_at(request, HEADER + fuse.WRITE_IN.size, size)
        drop_ids, done = bool(flags & fuse.WRITE_KILL_SUIDGID), 0
        while done < size:
            try:
                done += self._files.write(node, data[done:], offset + done, drop_ids=drop_ids)
            except OSError:
                if not done:
                    raise
                break  # report the bytes that were written before the disk was full
        return fuse.WRITE_OUT.pack(done, 0)

    def _fsync(self, node: Node, request: bytes) -> bytes:
        _, flags, _ = fuse.FSYNC_IN.unpack_from(request, HEADER)
        self._files.sync(node, data_only=bool(flags & fuse.FSYNC_DATA_ONLY))
        return b""

    def _fallocate(self, node: Node, request: bytes) -> bytes:
        _, offset, length, mode, _ = fuse.FALLOCATE_IN.unpack_from(request, HEADER)
        if max(offset, length) >= 1 << 63:
            raise OSError(errno.EFBIG, "beyond the largest file offset")
        self._files.allocate(node, mode, offset, length)
        return b""

    def _copy_file_range(self, node: Node, request: bytes) -> bytes:
        _, start, target, _, offset, length, _ = fuse.COPY_IN.unpack_from(request, HEADER)
        count = self._files.copy(node, start, target - fuse.ROOT_ID, offset, length)
        return fuse.WRITE_OUT.pack(count, 0)


def _two_names(request: bytes, start: int) -> tuple[bytes, bytes]:
    first = name_at(request, start)
    return first, name_at(request, start + len(first) + 1)


def _data_at(request: bytes, start: int, size: int) -> memoryview:
    """Return the data at an offset of a request.

    :raises ValueError: the request is shorter.
    """
    data = memoryview(request)[start : start + size]
    if len(data) != size:
        raise ValueError(size)
    return data
