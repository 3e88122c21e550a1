"""The two ways to write a deletion on disk.

:class:`WhiteoutFormat` selects overlayfs's ``trusted.overlay.*`` or ``user.overlay.*`` xattrs
(kernel, filesystems/overlayfs.rst, *whiteouts and opaque directories*, *userxattr*).  Each layer
and each store records its format; code must not infer it later from a mount or from privileges.
"""

from __future__ import annotations

import os
import stat
from enum import Enum
from typing import Final

from stacker.linux import process, xattr

_OVERLAY: Final = b"overlay."


class WhiteoutFormat(Enum):
    """The namespace of overlayfs's xattrs; a whiteout is a character device 0:0 in both."""

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
    def is_trusted(self) -> bool:
        """Whether only root in the initial user namespace can use the xattrs (xattr(7))."""
        return self is WhiteoutFormat.TRUSTED

    @property
    def prefix(self) -> bytes:
        """The prefix of the xattr names that overlayfs interprets in this format."""
        return self.value.encode() + b"." + _OVERLAY

    @property
    def opaque_marks(self) -> tuple[bytes, ...]:
        """The xattrs of marked directories: ``y`` means opaque, ``x`` means file whiteouts."""
        return (self.prefix + b"opaque",)

    @property
    def whiteout_marks(self) -> tuple[bytes, ...]:
        """The xattrs that turn a file into a whiteout, in a directory marked ``x``."""
        return (self.prefix + b"whiteout",)

    @property
    def has_names(self) -> bool:
        """Whether file names such as ``.wh.x`` are deletions; this program never writes any."""
        return False

    def escape(self, name: bytes) -> bytes:
        """Return the name under which a layer on disk has the image's xattr ``name``.

        An image may contain overlayfs's names as data, e.g. a container image inside an image.
        They get the escape of overlayfs.rst, *Nesting overlayfs mounts*: a mount exposes them and
        does not interpret them.
        """
        prefix = self.prefix
        if not name.startswith(prefix):
            return name
        return prefix + _OVERLAY + name[len(prefix) :]

    def unescape(self, name: bytes) -> bytes | None:
        """Return the image's name of an xattr on disk; ``None`` for one of overlayfs's marks."""
        prefix = self.prefix
        if not name.startswith(prefix):
            return name
        rest = name[len(prefix) :]
        return prefix + rest[len(_OVERLAY) :] if rest.startswith(_OVERLAY) else None

    def hide(self, parent: int, name: bytes) -> None:
        """Write a whiteout for ``name`` in the directory open as ``parent``."""
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)

    def make_opaque(self, directory: int) -> None:
        """Mark a directory opaque; its descriptor must not be ``O_PATH``."""
        xattr.set_value(directory, self.prefix + b"opaque", b"y")

    def is_opaque(self, directory: int | bytes) -> bool:
        """Return whether a directory, a descriptor or a path, is marked opaque."""
        return xattr.get_value(directory, self.prefix + b"opaque") == b"y"


def is_whiteout(status: os.stat_result) -> bool:
    """Return whether ``status`` is that of a whiteout on disk."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
