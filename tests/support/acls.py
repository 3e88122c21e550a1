"""Values of POSIX ACLs: acl(5), include/uapi/linux/posix_acl_xattr.h."""

from __future__ import annotations

import struct

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NONE = 0xFFFFFFFF
Entry = tuple[int, int, int]


def acl(*entries: Entry) -> bytes:
    """Encode entries of (tag, permissions, ID)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def for_user(uid: int, rights: int, *, mask: int = 7, group: int = 4) -> bytes:
    """Return an ACL that grants rights to a user, as far as the mask permits."""
    return acl(
        (USER_OBJ, 6, NONE),
        (USER, rights, uid),
        (GROUP_OBJ, group, NONE),
        (MASK, mask, NONE),
        (OTHER, 0, NONE),
    )
