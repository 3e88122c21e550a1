"""The kernel's FUSE protocol as numbers and layouts.

Facts of include/uapi/linux/fuse.h and Documentation/filesystems/fuse.rst: operations, flags, and
how requests and replies lie in memory, in the machine's own byte order.  Knows no tree.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 31
"""What is spoken: Linux 5.4 offers it, and every later kernel accepts it."""

(LOOKUP, FORGET, GETATTR) = 1, 2, 3
(READLINK, OPEN, READ, STATFS, RELEASE) = 5, 14, 15, 17, 18
(GETXATTR, LISTXATTR, FLUSH, INIT) = 22, 23, 25, 26
(OPENDIR, READDIR, RELEASEDIR) = 27, 28, 29
(INTERRUPT, DESTROY, BATCH_FORGET, READDIRPLUS, LSEEK) = 36, 38, 42, 44, 46

WRITING: Final = frozenset({4, 6, 8, 9, 10, 11, 12, 13, 16, 20, 21, 24, 30, 35, 43, 45, 47})
"""Operations that change something, from SETATTR to COPY_FILE_RANGE."""

INIT_ASYNC_READ: Final = 1 << 0
INIT_DO_READDIRPLUS: Final = 1 << 13
INIT_ASYNC_DIO: Final = 1 << 15
INIT_NO_OPEN_SUPPORT: Final = 1 << 17
INIT_PARALLEL_DIROPS: Final = 1 << 18
INIT_MAX_PAGES: Final = 1 << 22
INIT_CACHE_SYMLINKS: Final = 1 << 23
INIT_NO_OPENDIR_SUPPORT: Final = 1 << 24
INIT_EXT: Final = 1 << 30
INIT2_PASSTHROUGH: Final = 1 << 5
"""FUSE_PASSTHROUGH, bit 37, in the second word of flags that INIT_EXT announces."""

OPEN_KEEP_CACHE: Final = 1 << 1
OPEN_NO_FLUSH: Final = 1 << 5
OPEN_PASSTHROUGH: Final = 1 << 7

WANTED: Final = (
    INIT_ASYNC_READ
    | INIT_DO_READDIRPLUS
    | INIT_ASYNC_DIO
    | INIT_NO_OPEN_SUPPORT
    | INIT_PARALLEL_DIROPS
    | INIT_MAX_PAGES
    | INIT_CACHE_SYMLINKS
    | INIT_NO_OPENDIR_SUPPORT
)

IOC_CLONE: Final = 0x8004E500
"""FUSE_DEV_IOC_CLONE: make an open /dev/fuse another channel of a connection."""

IOC_BACKING_OPEN: Final = 0x4010E501
"""FUSE_DEV_IOC_BACKING_OPEN: tell a connection of a file that it may read by itself."""

ROOT_ID: Final = 1
LARGEST_READ: Final = 1 << 20
PAGES: Final = LARGEST_READ // 4096
READ_AHEAD: Final = 4 << 20
MAX_WRITE: Final = 4096  # the least the kernel takes; nothing is ever written
REQUEST: Final = 64 << 10
"""Bytes for one request; the kernel wants at least 8 KiB (FUSE_MIN_READ_BUFFER)."""
FOREVER: Final = 10 * 365 * 24 * 3600
"""Seconds that names and attributes stay valid: the tree never changes."""

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
# struct fuse_attr_out: attr_valid, attr_valid_nsec, padding, fuse_attr
ATTR_HEAD: Final = Struct("=QII")
# struct fuse_read_in: fh, offset, size, read_flags, lock_owner, flags, padding
READ_IN: Final = Struct("=QQIIQII")
# struct fuse_getxattr_in and fuse_getxattr_out: size, padding
XATTR: Final = Struct("=II")
# struct fuse_lseek_in: fh, offset, whence, padding
LSEEK_IN: Final = Struct("=QqII")
LSEEK_OUT: Final = Struct("=q")
# struct fuse_kstatfs: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, 7 spare words
STATFS_OUT: Final = Struct("=QQQQQIII28x")
# struct fuse_dirent: ino, off, namelen, type; the name follows, padded to eight bytes
DIRENT: Final = Struct("=QQII")


def reply(unique: int, body: bytes = b"") -> bytes:
    """Give a whole reply."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, unique) + body


def failure(unique: int, number: int) -> bytes:
    """Give a reply that says a request failed.

    :param number: an errno, positive.
    """
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def device_number(device: int) -> int:
    """Encode a device's number in the 32 bits the kernel has for it (new_encode_dev)."""
    minor = os.minor(device)
    return (minor & 0xFF) | os.major(device) << 8 | ((minor & ~0xFF) << 12 & 0xFFFFFFFF)
