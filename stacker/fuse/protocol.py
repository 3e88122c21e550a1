"""The constants and structures of the kernel's FUSE protocol.

From include/uapi/linux/fuse.h and Documentation/filesystems/fuse.rst: operations, flags, and the
layout of requests and replies in native byte order.  This module must not use a tree.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 31
"""The version of this server: Linux 5.4 offers it, and every later kernel accepts it."""

(LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK) = 1, 2, 3, 4, 5, 6
(MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK) = 8, 9, 10, 11, 12, 13
(OPEN, READ, WRITE, STATFS, RELEASE, FSYNC) = 14, 15, 16, 17, 18, 20
(SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT) = 21, 22, 23, 24, 25, 26
(OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, CREATE) = 27, 28, 29, 30, 35
(INTERRUPT, DESTROY, BATCH_FORGET, FALLOCATE, READDIRPLUS) = 36, 38, 42, 43, 44
(RENAME2, LSEEK, COPY_FILE_RANGE) = 45, 46, 47
(IOCTL, TMPFILE, STATX) = 39, 51, 52

NOTIFY_STORE: Final = 4
"""FUSE_NOTIFY_STORE, in the error field of a message that answers no request."""

WRITING: Final = frozenset(
    {SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, FSYNC, SETXATTR}
    | {REMOVEXATTR, FSYNCDIR, CREATE, FALLOCATE, RENAME2, COPY_FILE_RANGE, TMPFILE}
)
"""Operations that change the tree."""

INIT_ASYNC_READ: Final = 1 << 0
INIT_EXPORT_SUPPORT: Final = 1 << 4
INIT_BIG_WRITES: Final = 1 << 5
INIT_DONT_MASK: Final = 1 << 6
INIT_DO_READDIRPLUS: Final = 1 << 13
INIT_ASYNC_DIO: Final = 1 << 15
INIT_NO_OPEN_SUPPORT: Final = 1 << 17
INIT_PARALLEL_DIROPS: Final = 1 << 18
INIT_POSIX_ACL: Final = 1 << 20
INIT_MAX_PAGES: Final = 1 << 22
INIT_CACHE_SYMLINKS: Final = 1 << 23
INIT_NO_OPENDIR_SUPPORT: Final = 1 << 24
INIT_SETXATTR_EXT: Final = 1 << 29
INIT_EXT: Final = 1 << 30
INIT2_PASSTHROUGH: Final = 1 << 5
"""FUSE_PASSTHROUGH, bit 37, in the second word of flags, which exists with INIT_EXT."""

OPEN_KEEP_CACHE: Final = 1 << 1
OPEN_NO_FLUSH: Final = 1 << 5
OPEN_PASSTHROUGH: Final = 1 << 7
INIT_HANDLE_KILLPRIV_V2: Final = 1 << 28

WANTED: Final = (
    INIT_ASYNC_READ
    | INIT_EXPORT_SUPPORT
    | INIT_DO_READDIRPLUS
    | INIT_ASYNC_DIO
    | INIT_NO_OPEN_SUPPORT
    | INIT_PARALLEL_DIROPS
    | INIT_MAX_PAGES
    | INIT_CACHE_SYMLINKS
    | INIT_NO_OPENDIR_SUPPORT
)

WANTED_TO_WRITE: Final = WANTED & ~INIT_EXPORT_SUPPORT | INIT_BIG_WRITES | INIT_HANDLE_KILLPRIV_V2
"""With INIT_HANDLE_KILLPRIV_V2 the kernel does not read security.capability before each write: the
server clears set-ID bits and capabilities on write, truncate and chown."""

WANTED_FOR_ACLS: Final = INIT_POSIX_ACL | INIT_DONT_MASK | INIT_SETXATTR_EXT
"""With INIT_DONT_MASK the server applies the umask, which it does where no default ACL applies."""

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FATTR_ATIME, FATTR_MTIME, FATTR_ATIME_NOW, FATTR_MTIME_NOW = 1 << 4, 1 << 5, 1 << 7, 1 << 8
FATTR_KILL_SUIDGID: Final = 1 << 11
WRITE_KILL_SUIDGID: Final = 1 << 2
FSYNC_DATA_ONLY: Final = 1 << 0

IOC_CLONE: Final = 0x8004E500
"""FUSE_DEV_IOC_CLONE: make an open /dev/fuse another channel of a connection."""

IOC_BACKING_OPEN: Final = 0x4010E501
"""FUSE_DEV_IOC_BACKING_OPEN: register a file that the kernel reads without the server."""

ROOT_ID: Final = 1
LARGEST_READ: Final = 512 << 10
"""Bytes of data in a reply: an unprivileged user's pipe holds 1 MiB (pipe(7)), header included."""
PAGE: Final = 4096
READ_AHEAD: Final = 4 << 20
LEAST_WRITE: Final = 4096
"""The smallest size of writes that the kernel accepts, for read-only mounts."""
LARGEST_WRITE: Final = 1 << 20
REQUEST: Final = 64 << 10
"""Bytes of a request without data; the kernel requires 8 KiB (FUSE_MIN_READ_BUFFER)."""
FOREVER: Final = 10 * 365 * 24 * 3600
"""Seconds that names and attributes stay valid, since all changes come through the kernel."""

# struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
IN_HEADER: Final = Struct("=IIQQIIIHH")
OUT_HEADER: Final = Struct("=IiQ")
# struct fuse_init_in: major, minor, max_readahead, flags
INIT_IN: Final = Struct("=IIII")
# struct fuse_init_out: major, minor, max_readahead, flags, max_background, congestion_threshold,
# max_write, time_gran, max_pages, map_alignment, flags2, max_stack_depth, and 24 bytes for later
# versions
INIT_OUT: Final = Struct("=IIIIHHIIHHII24x")
# of the same struct fuse_init_in, from version 7.36 on: flags2
INIT_IN_FLAGS2: Final = Struct("=I")
# struct fuse_open_in and fuse_open_out: flags, open_flags; fh, open_flags, backing_id
OPEN_IN: Final = Struct("=II")
OPEN_OUT: Final = Struct("=QIi")
# struct fuse_backing_map: fd, flags, padding
BACKING_MAP: Final = Struct("=iIQ")
# struct fuse_entry_out: nodeid, generation, entry_valid, attr_valid, their nanoseconds, fuse_attr
ENTRY_HEAD: Final = Struct("=QQQQII")
# struct fuse_attr: ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid,
# gid, rdev, blksize, flags
ATTR: Final = Struct("=QQQqqqIIIIIIIIII")
# struct fuse_statx_out: attr_valid, attr_valid_nsec, flags, spare; then struct fuse_statx: mask,
# blksize, attributes, nlink, uid, gid, mode, spare, ino, size, blocks, attributes_mask; atime,
# btime, ctime and mtime; major and minor numbers of rdev and dev; spare
STATX_HEAD: Final = Struct("=QII16x")
STATX_OUT: Final = Struct("=IIQIIIHxxQQQQ")
STATX_TIME: Final = Struct("=qI4x")
STATX_DEVICES: Final = Struct("=IIII112x")
# struct fuse_attr_out: attr_valid, attr_valid_nsec, padding, fuse_attr
ATTR_HEAD: Final = Struct("=QII")
# struct fuse_read_in: fh, offset, size, read_flags, lock_owner, flags, padding
READ_IN: Final = Struct("=QQIIQII")
# struct fuse_getxattr_in and fuse_getxattr_out: size, padding
XATTR: Final = Struct("=II")
# struct fuse_notify_store_out: nodeid, offset, size, padding; the data follow
STORE_OUT: Final = Struct("=QQII")
# struct fuse_ioctl_in: fh, flags, cmd, arg, in_size, out_size
IOCTL_IN: Final = Struct("=QIIQII")
# struct fuse_ioctl_out: result, flags, in_iovs, out_iovs; the flags of the inode follow
IOCTL_OUT: Final = Struct("=iIIII")
# struct fuse_lseek_in: fh, offset, whence, padding
LSEEK_IN: Final = Struct("=QqII")
LSEEK_OUT: Final = Struct("=q")
# struct fuse_setattr_in: valid, padding, fh, size, lock_owner, atime, mtime, ctime, their
# nanoseconds, mode, unused, uid, gid, unused
SETATTR_IN: Final = Struct("=IIQQQqqqIIIIIIII")
# struct fuse_mknod_in: mode, rdev, umask, padding
MKNOD_IN: Final = Struct("=IIII")
# struct fuse_mkdir_in: mode, umask
MKDIR_IN: Final = Struct("=II")
# struct fuse_rename_in, and fuse_link_in: newdir, oldnodeid; rename2 has flags and padding too
NODE_IN: Final = Struct("=Q")
RENAME2_IN: Final = Struct("=QII")
# struct fuse_create_in: flags, mode, umask, open_flags
CREATE_IN: Final = Struct("=IIII")
# struct fuse_write_in: fh, offset, size, write_flags, lock_owner, flags, padding
WRITE_IN: Final = Struct("=QQIIQII")
# struct fuse_write_out: size, padding
WRITE_OUT: Final = Struct("=II")
# struct fuse_fsync_in: fh, flags, padding
FSYNC_IN: Final = Struct("=QII")
# struct fuse_setxattr_in: size, flags; with FUSE_SETXATTR_EXT also setxattr_flags, padding
SETXATTR_IN: Final = Struct("=II")
SETXATTR_EXT_IN: Final = Struct("=IIII")
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
# struct fuse_fallocate_in: fh, offset, length, mode, padding
FALLOCATE_IN: Final = Struct("=QQQII")
# struct fuse_copy_file_range_in: fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
COPY_IN: Final = Struct("=QQQQQQQ")
# struct fuse_forget_in: nlookup; fuse_batch_forget_in: count, dummy; fuse_forget_one: nodeid,
# nlookup
FORGET_IN: Final = Struct("=Q")
BATCH_FORGET_IN: Final = Struct("=II")
FORGET_ONE: Final = Struct("=QQ")
# struct fuse_kstatfs: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, 7 spare words
STATFS_OUT: Final = Struct("=QQQQQIII28x")
# struct fuse_dirent: ino, off, namelen, type; the name follows, padded to eight bytes
DIRENT: Final = Struct("=QQII")


def reply(unique: int, body: bytes = b"") -> bytes:
    """Return a reply with its header."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, unique) + body


def failure(unique: int, number: int) -> bytes:
    """Return a reply with an error.

    :param number: an errno, positive.
    """
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def device_number(device: int) -> int:
    """Encode a device number in 32 bits, as the kernel's new_encode_dev does."""
    minor = os.minor(device)
    return (minor & 0xFF) | os.major(device) << 8 | ((minor & ~0xFF) << 12 & 0xFFFFFFFF)


def device_of(number: int) -> int:
    """Decode a device number that `device_number` encoded."""
    return os.makedev(number >> 8 & 0xFFF, (number & 0xFF) | (number >> 12 & 0xFFF00))
