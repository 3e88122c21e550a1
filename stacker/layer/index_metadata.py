"""Decide which xattrs of an entry an index keeps, as the kernel would when they are set.

A mode and the xattrs of an entry come in; the set to store goes out.  A tree on disk gets its
xattrs by setxattr(2) and then its mode by chmod(2), and the kernel checks and changes values in
both.  An index is written without the kernel, so this module applies the same rules (acl(5),
capabilities(7), ``fs/posix_acl.c``).  It must not touch a filesystem.
"""

from __future__ import annotations

import stat
from typing import Final

from stacker.erofs.format import split_xattr_name
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import acl
from stacker.tar.entry import Xattrs, printable, without_user_xattrs

_CAPABILITY: Final = b"security.capability"
_CAPABILITY_SIZES: Final = {1: (12,), 2: (20,), 3: (24,)}
_MAX_VALUE: Final = 65_535


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
            elif name in (acl.ACCESS, acl.DEFAULT):
                self._add_acl(found, name, value, kind=kind, mode=mode)
            elif name == _CAPABILITY and not _is_capability(value):
                self._warn(name, "Invalid argument")
            else:
                found[written] = value
        return found

    def _add_acl(
        self, found: dict[bytes, bytes], name: bytes, value: bytes, *, kind: int, mode: int
    ) -> None:
        stored = acl.kept(value, mode if name == acl.ACCESS else None)
        if stored is None or kind == stat.S_IFLNK or (name == acl.DEFAULT and kind != stat.S_IFDIR):
            self._warn(name, "Invalid argument")
        elif stored:
            found[name] = stored

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
