"""POSIX ACLs as values of xattrs, without a filesystem.

Values of ``system.posix_acl_access`` and ``system.posix_acl_default`` come in, with modes; values
as the kernel stores them go out.  The rules are those of acl(5), ``fs/posix_acl.c`` and
include/uapi/linux/posix_acl_xattr.h.  This module must not read or change files.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX: Final = b"system.posix_acl_"
ACCESS: Final = PREFIX + b"access"
DEFAULT: Final = PREFIX + b"default"

_VERSION: Final = (2).to_bytes(4, "little")
_ENTRY: Final = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NAMED: Final = (_USER, _GROUP)
_ALONE: Final = (_USER_OBJ, _GROUP_OBJ, _OTHER)
_RIGHTS: Final = 0o777

_Entry = tuple[int, int, int]
"""Tag, permissions, and ID."""


def kept(value: bytes, mode: int | None) -> bytes | None:
    """Return the ACL that the kernel stores for a value that is set before chmod(2).

    :param mode: the mode that chmod(2) sets; ``None`` for a default ACL.
    :returns: ``b""`` if the mode alone expresses the ACL; ``None`` if the kernel refuses it.
    """
    entries = _parse(value)
    if entries is None:
        return None
    if mode is None:
        return _pack(entries) if entries else b""
    return _pack(_with_mode(entries, mode)) if _is_extended(entries) else b""


def after_chmod(xattrs: Mapping[bytes, bytes], mode: int) -> Mapping[bytes, bytes]:
    """Return the xattrs of an inode after chmod(2), which changes its access ACL."""
    value = xattrs.get(ACCESS)
    if value is None:
        return xattrs
    stored = kept(value, mode)
    others = {name: each for name, each in xattrs.items() if name != ACCESS}
    return others | {ACCESS: stored} if stored else others


def without(xattrs: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Return xattrs without ACLs."""
    return {name: value for name, value in xattrs.items() if not name.startswith(PREFIX)}


def inherited(default: bytes, mode: int) -> tuple[int, bytes]:
    """Return the mode and the access ACL of a new file (``posix_acl_create``).

    :param default: the default ACL of its directory.
    :param mode: the mode that the caller asks for; the umask does not apply.
    :returns: the mode, and the ACL, which is empty if the mode alone expresses it.
    """
    entries = _parse(default)
    if not entries:
        return mode, b""
    rights = {tag: permissions for tag, permissions, _ in entries}
    group = rights.get(_MASK, rights[_GROUP_OBJ])
    mode &= ~_RIGHTS | rights[_USER_OBJ] << 6 | group << 3 | rights[_OTHER]
    return mode, _pack(_with_mode(entries, mode)) if _is_extended(entries) else b""


def _with_mode(entries: list[_Entry], mode: int) -> list[_Entry]:
    """Return an ACL after chmod(2): its mask has the mode's group bits."""
    group = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ
    rights = {_USER_OBJ: mode >> 6 & 0o7, group: mode >> 3 & 0o7, _OTHER: mode & 0o7}
    return [(tag, rights.get(tag, permissions), number) for tag, permissions, number in entries]


def _is_extended(entries: list[_Entry]) -> bool:
    """Return whether a mode cannot express an ACL."""
    return any(tag not in _ALONE for tag, _, _ in entries)


def _pack(entries: Iterable[_Entry]) -> bytes:
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _parse(value: bytes) -> list[_Entry] | None:
    """Return the entries of an ACL; ``None`` if the kernel refuses it (``posix_acl_valid``)."""
    if len(value) < 4 or (len(value) - 4) % _ENTRY.size or value[:4] != _VERSION:
        return None
    entries: list[_Entry] = list(_ENTRY.iter_unpack(value[4:]))
    if not entries:
        return entries
    tags = [tag for tag, _, _ in entries]
    ordered = tags == sorted(tags) and not set(tags) - {*_NAMED, *_ALONE, _MASK}
    single = all(tags.count(tag) == 1 for tag in _ALONE)
    has_named = any(tag in _NAMED for tag in tags)
    masked = tags.count(_MASK) == 1 or (not has_named and _MASK not in tags)
    allowed = all(permissions <= 0o7 for _, permissions, _ in entries)
    return entries if ordered and single and masked and allowed else None
