"""How a deletion is written on disk.

A closed choice that is handed in and recorded per layer: overlayfs's privileged names or its
unprivileged ones (kernel, filesystems/overlayfs.rst, *whiteouts and opaque directories* and
*userxattr*).  It is never inferred from a mount or from privileges later on.
"""

from __future__ import annotations

import os
import stat
from enum import Enum
from typing import Final

from stacker.linux import process, xattr

_OVERLAY: Final = b"overlay."


class WhiteoutFormat(Enum):
    """The xattr namespace that overlayfs is told to read; whiteouts are char devices 0:0."""

    TRUSTED = "trusted"
    USER = "user"

    @classmethod
    def permitted(cls) -> WhiteoutFormat:
        """Return the format that this process may write.

        Only CAP_SYS_ADMIN in the initial user namespace may set ``trusted.*`` (xattr(7)).
        """
        if process.in_initial_user_namespace() and process.has_capability(process.CAP_SYS_ADMIN):
            return cls.TRUSTED
        return cls.USER

    @property
    def prefix(self) -> bytes:
        """The start of the xattr names that mean something to overlayfs in this format."""
        return self.value.encode() + b"." + _OVERLAY

    @property
    def opaque_marks(self) -> tuple[bytes, ...]:
        """The xattrs that mark directories: ``y`` for opaque, ``x`` for files as whiteouts."""
        return (self.prefix + b"opaque",)

    @property
    def whiteout_marks(self) -> tuple[bytes, ...]:
        """The xattrs that make a whiteout of a file, in a directory that is marked ``x``."""
        return (self.prefix + b"whiteout",)

    @property
    def has_names(self) -> bool:
        """Whether names of files are deletions; they are not in what this program writes."""
        return False

    def escaped(self, name: bytes) -> bytes:
        """Give the name under which an image's own xattr ``name`` is kept in a layer.

        An image may carry overlayfs's names as data (a container image inside an image).  They
        are kept as overlayfs escapes them (overlayfs.rst, *Nesting overlayfs mounts*), so that
        a mount shows them and does not obey them.
        """
        prefix = self.prefix
        if not name.startswith(prefix):
            return name
        return prefix + _OVERLAY + name[len(prefix) :]

    def unescaped(self, name: bytes) -> bytes | None:
        """Give an image's name back for one found on disk; ``None`` for a mark of our own."""
        prefix = self.prefix
        if not name.startswith(prefix):
            return name
        rest = name[len(prefix) :]
        return prefix + rest[len(_OVERLAY) :] if rest.startswith(_OVERLAY) else None

    def hide(self, parent: int, name: bytes) -> None:
        """Write a whiteout for ``name`` in the directory open as ``parent``."""
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)

    def make_opaque(self, directory: int) -> None:
        """Mark the directory open (not as ``O_PATH``) as ``directory`` opaque."""
        xattr.set_value(directory, self.prefix + b"opaque", b"y")

    def is_opaque(self, directory: int | bytes) -> bool:
        """Say whether a directory, a descriptor or a path, is marked opaque."""
        return xattr.get_value(directory, self.prefix + b"opaque") == b"y"


def is_whiteout(status: os.stat_result) -> bool:
    """Say whether ``status`` is that of a whiteout on disk."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
