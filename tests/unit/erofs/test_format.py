"""Structures of EROFS: device numbers, names of xattrs, and padding."""

from __future__ import annotations

import os
from struct import Struct

import pytest

from stacker.erofs import format as on_disk
from stacker.erofs.format import (
    aligned,
    decode_device,
    encode_device,
    encode_xattr,
    join_xattr_name,
    split_xattr_name,
)


@pytest.mark.parametrize(
    ("structure", "size"),
    [
        (on_disk.SUPERBLOCK, 128),
        (on_disk.DEVICE_SLOT, 128),
        (on_disk.COMPACT, 32),
        (on_disk.EXTENDED, 64),
        (on_disk.CHUNK_INDEX, 8),
        (on_disk.DIRENT, 12),
        (on_disk.XATTR_HEADER, 12),
        (on_disk.XATTR_ENTRY, 4),
    ],
)
def test_structure_has_the_size_of_the_kernel(structure: Struct, size: int) -> None:
    assert structure.size == size


@pytest.mark.parametrize(("major", "minor"), [(1, 3), (8, 255), (4095, 1048575), (0, 256)])
def test_device_number_survives_its_encoding(major: int, minor: int) -> None:
    device = os.makedev(major, minor)
    assert encode_device(device) < 1 << 32
    assert decode_device(encode_device(device)) == device


@pytest.mark.parametrize(
    "name",
    [
        b"user.a",
        b"trusted.overlay.opaque",
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"user." + b"n" * 255,
        b"user.with.dots",
    ],
)
def test_xattr_name_survives_its_split(name: bytes) -> None:
    split = split_xattr_name(name)
    assert split is not None
    assert join_xattr_name(*split) == name


@pytest.mark.parametrize(
    "name", [b"user.", b"user", b"system.other", b"other.a", b"user." + b"n" * 256, b"", b"."]
)
def test_xattr_name_without_a_prefix_is_refused(name: bytes) -> None:
    assert split_xattr_name(name) is None
    with pytest.raises(ValueError, match=r".*"):
        encode_xattr(name, b"")


def test_xattr_entry_is_padded_to_4_bytes() -> None:
    assert encode_xattr(b"user.ab", b"xyz") == b"\x02\x01\x03\x00abxyz" + bytes(3)


def test_offset_is_rounded_up() -> None:
    assert [aligned(offset, 32) for offset in (0, 1, 32, 33)] == [0, 32, 32, 64]
