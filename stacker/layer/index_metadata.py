"""Decide which xattrs of an entry an index keeps, as the kernel would when they are set.

A mode and the xattrs of an entry come in; the set to store goes out.  A tree on disk gets its
xattrs by setxattr(2) and then its mode by chmod(2), and the kernel checks and changes values in
both.  An index is written without the kernel, so this module applies the same rules (acl(5),
capabilities(7), ``fs/posix_acl.c``).  It must not touch a filesystem.
"""

from __future__ import annotations

import stat
import struct
from typing import Final

from stacker.erofs.format import split_xattr_name
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tar.entry import Xattrs, printable, without_user_xattrs

_ACCESS: Final = b"system.posix_acl_access"
_DEFAULT: Final = b"system.posix_acl_default"
_CAPABILITY: Final = b"security.capability"
_CAPABILITY_SIZES: Final = {1: (12,), 2: (20,), 3: (24,)}
_MAX_VALUE: Final = 65_535

_ACL_VERSION: Final = 2
_ACL_ENTRY: Final = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NAMED: Final = (_USER, _GROUP)

_AclEntry = tuple[int, int, int]
"""Tag, permissions, and ID."""


class IndexMetadata:
    """Selects the xattrs of entries.

    ``warnings`` collects one line for each kind of loss; ``escaped`` is true after an xattr name of
    overlayfs was escaped.
    """

    def __init__(self, whiteout_format: WhiteoutFormat) -> None:
        self.warnings: dict[str, str] = {}
        self.escaped = False
        self._format = whiteout_format

    def kept(self, kind: int, mode: int, xattrs: Xattrs | None) -> dict[bytes, bytes]:
        """Return the xattrs to store.

        :param kind: the ``S_IF*`` constant of the inode.
        :param mode: its permissions.
        """
        if not xattrs:
            return {}
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            xattrs = without_user_xattrs(xattrs)
        found: dict[bytes, bytes] = {}
        for name, value in xattrs.items():
            written = self._format.escape(name)
            if written is not name:
                self.escaped = True
            if split_xattr_name(written) is None or len(value) > _MAX_VALUE:
                self._warn(name, "Operation not supported")
            elif name in (_ACCESS, _DEFAULT):
                self._add_acl(found, name, value, kind=kind, mode=mode)
            elif name == _CAPABILITY and not _is_capability(value):
                self._warn(name, "Invalid argument")
            else:
                found[written] = value
        return found

    def _add_acl(
        self, found: dict[bytes, bytes], name: bytes, value: bytes, *, kind: int, mode: int
    ) -> None:
        entries = _parse_acl(value)
        if entries is None or kind == stat.S_IFLNK or (name == _DEFAULT and kind != stat.S_IFDIR):
            self._warn(name, "Invalid argument")
            return
        if name == _ACCESS:
            if not any(tag in (*_NAMED, _MASK) for tag, _, _ in entries):
                return  # it says the same as the mode
            entries = _with_mode(entries, mode)
        if entries:
            packed = b"".join(_ACL_ENTRY.pack(*entry) for entry in entries)
            found[name] = _ACL_VERSION.to_bytes(4, "little") + packed

    def _warn(self, name: bytes, reason: str) -> None:
        space = printable(name.partition(b".")[0])
        self.warnings.setdefault(
            f"xattr {space} {reason}",
            f"omitted xattrs: {printable(name)} and others of {space}.*: {reason}",
        )


def _is_capability(value: bytes) -> bool:
    """Return whether the kernel accepts a value of ``security.capability``."""
    revision = value[3] if len(value) > 3 else 0
    return len(value) in _CAPABILITY_SIZES.get(revision, ()) and revision != 1


def _parse_acl(value: bytes) -> list[_AclEntry] | None:
    """Return the entries of an ACL; ``None`` if the kernel refuses it (``posix_acl_valid``)."""
    if len(value) < 4 or (len(value) - 4) % _ACL_ENTRY.size:
        return None
    if int.from_bytes(value[:4], "little") != _ACL_VERSION:
        return None
    entries: list[_AclEntry] = list(_ACL_ENTRY.iter_unpack(value[4:]))
    tags = [tag for tag, _, _ in entries]
    if not entries:
        return entries
    ordered = tags == sorted(tags) and not set(tags) - {
        *_NAMED,
        *(_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER),
    }
    single = all(tags.count(tag) == 1 for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER))
    has_named = any(tag in _NAMED for tag in tags)
    masked = tags.count(_MASK) == 1 or (not has_named and _MASK not in tags)
    allowed = all(permissions <= 0o7 for _, permissions, _ in entries)
    return entries if ordered and single and masked and allowed else None


def _with_mode(entries: list[_AclEntry], mode: int) -> list[_AclEntry]:
    """Return an ACL after chmod(2): its mask has the mode's group bits."""
    group = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ
    bits = {_USER_OBJ: mode >> 6 & 0o7, group: mode >> 3 & 0o7, _OTHER: mode & 0o7}
    return [(tag, bits.get(tag, permissions), number) for tag, permissions, number in entries]
