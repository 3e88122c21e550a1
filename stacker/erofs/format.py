"""The on-disk structures of EROFS (``fs/erofs/erofs_fs.h`` in the kernel).

Numbers come in and bytes go out, or the reverse.  stacker writes blocks of 512 bytes, so that each
payload of a tar starts at a block.  It uses features that Linux 6.1 reads: chunk-based files,
extra devices, flat and inline data, inline and shared xattrs.  This module must not decide where
anything is placed.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final

MAGIC: Final = 0xE0F5E1E2
BLOCK_BITS: Final = 9
BLOCK: Final = 1 << BLOCK_BITS
SUPERBLOCK_OFFSET: Final = 1024
SLOT_SIZE: Final = 128
"""The size of a device slot; the superblock has the same size."""
INODE_UNIT: Final = 32
"""The unit of inode numbers (nids): the offset of an inode in bytes, divided by this."""

COMPAT_MTIME: Final = 0x2
INCOMPAT_CHUNKED_FILE: Final = 0x4
INCOMPAT_DEVICE_TABLE: Final = 0x8
KNOWN_INCOMPAT: Final = INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE

SUPERBLOCK: Final = Struct("<IIIBBHQqIIII16s16sIHHHBBIQB23x")
"""magic, checksum, compat, block bits, slots, root nid, inodes, epoch, nanoseconds, blocks,
metadata block, xattr block, UUID, volume, incompat, algorithms, devices, device slot, directory
bits, prefixes, prefix start, packed nid, filter."""

DEVICE_SLOT: Final = Struct("<64sII56x")
"""tag, blocks, address in a flat address space (unused)."""

COMPACT: Final = Struct("<HHHHIIIIHHI")
"""format, xattr count, mode, links, size, reserved, union, number, uid, gid, reserved."""
EXTENDED: Final = Struct("<HHHHQIIIIqII16x")
"""format, xattr count, mode, reserved, size, union, number, uid, gid, seconds, nanoseconds,
links."""

PLAIN: Final = 0 << 1
INLINE: Final = 2 << 1
CHUNKS: Final = 4 << 1
IS_EXTENDED: Final = 1

CHUNK_INDEX: Final = Struct("<HHI")
"""advise, device (0 is the image itself), block."""
HAS_INDEXES: Final = 0x20
HOLE: Final = 0xFFFF_FFFF
MAX_CHUNK_BITS: Final = 31
"""The largest chunk is ``BLOCK << MAX_CHUNK_BITS`` bytes."""

DIRENT: Final = Struct("<QHBx")
"""nid, offset of the name in the block, file type."""
FILE_TYPES: Final = {
    0o100000: 1,  # regular file
    0o040000: 2,  # directory
    0o020000: 3,  # character device
    0o060000: 4,  # block device
    0o010000: 5,  # FIFO
    0o140000: 6,  # socket
    0o120000: 7,  # symbolic link
}

XATTR_HEADER: Final = Struct("<IB7x")
"""name filter (unused), number of shared xattrs; their IDs follow, 4 bytes each."""
XATTR_ENTRY: Final = Struct("<BBH")
"""length of the name's rest, prefix, size of the value; both follow, padded to 4 bytes."""
XATTR_PREFIXES: Final = {
    b"user.": 1,
    b"system.posix_acl_access": 2,
    b"system.posix_acl_default": 3,
    b"trusted.": 4,
    b"security.": 6,
}
MAX_NAME: Final = 255
MAX_BLOCKS: Final = 0xFFFF_FFFF
MAX_DEVICES: Final = 0xFFFF


def encode_device(device: int) -> int:
    """Return a device number as the kernel stores it (``new_encode_dev``)."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_device(encoded: int) -> int:
    """Return the device number that :func:`encode_device` encoded."""
    return os.makedev((encoded >> 8) & 0xFFF, (encoded & 0xFF) | ((encoded >> 12) & 0xFFF00))


def split_xattr_name(name: bytes) -> tuple[int, bytes] | None:
    """Return the prefix number and the rest of an xattr name; ``None`` if EROFS cannot hold it."""
    whole = XATTR_PREFIXES.get(name)
    if whole is not None:
        return (whole, b"") if name[-1:] != b"." else None
    space, dot, rest = name.partition(b".")
    number = XATTR_PREFIXES.get(space + dot)
    if number is None or not rest or len(rest) > MAX_NAME:
        return None
    return number, rest


def join_xattr_name(number: int, rest: bytes) -> bytes:
    """Return the name that :func:`split_xattr_name` split.

    :raises KeyError: no prefix has this number.
    """
    return {value: prefix for prefix, value in XATTR_PREFIXES.items()}[number] + rest


def encode_xattr(name: bytes, value: bytes) -> bytes:
    """Return an xattr entry, padded to 4 bytes; EROFS must be able to hold the name."""
    split = split_xattr_name(name)
    if split is None:
        raise ValueError(name)
    number, rest = split
    entry = XATTR_ENTRY.pack(len(rest), number, len(value)) + rest + value
    return entry + bytes(-len(entry) % 4)


def aligned(offset: int, unit: int) -> int:
    """Return ``offset``, rounded up to a multiple of ``unit``."""
    return offset + -offset % unit
