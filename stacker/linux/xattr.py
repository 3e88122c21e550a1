"""Extended attributes by descriptor or path, without following symlinks (xattr(7)).

Names are bytes with their namespace (``user.mime_type``), values are bytes.  A missing attribute,
or a filesystem without attributes, reads as ``None`` or as no items.  This module does not
interpret names.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Target: TypeAlias = int | bytes
"""A descriptor (not ``O_PATH``) or a path."""

_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP)


def _is_path(target: Target) -> bool:
    # For a descriptor, the xattr package passes symlink=True on as XATTR_REPLACE.
    return not isinstance(target, int)


def set_value(target: Target, name: bytes, value: bytes) -> None:
    """Set an attribute.

    :raises OSError: ``EOPNOTSUPP`` on a filesystem without xattrs, ``EPERM`` for a name that
        needs privileges, or another error of setxattr(2).
    """
    import xattr  # loads cffi, which a mount does not need

    xattr.setxattr(target, name, value, symlink=_is_path(target))


def remove(target: Target, name: bytes) -> None:
    """Remove an attribute, if it exists.

    :raises OSError: removexattr(2) fails for another reason.
    """
    try:
        os.removexattr(target, name, follow_symlinks=not _is_path(target))
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def get_value(target: Target, name: bytes) -> bytes | None:
    """Return the value of an attribute, or ``None`` if it does not exist.

    :raises OSError: getxattr(2) fails for another reason.
    """
    import xattr

    try:
        value: bytes = xattr.getxattr(target, name, symlink=_is_path(target))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return value


def items(target: Target) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and value of every attribute that this process may read.

    :raises OSError: listxattr(2) or getxattr(2) fails for another reason.
    """
    try:
        # The xattr package decodes names as strict UTF-8; a name may be any bytes.
        names = os.listxattr(target, follow_symlinks=not _is_path(target))
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise
    for name in map(os.fsencode, names):
        value = get_value(target, name)
        if value is not None:
            yield name, value
