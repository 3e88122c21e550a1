"""Extended attributes by descriptor or path, never through a symbolic link (xattr(7)).

Names are bytes in full (``user.mime_type``), values are bytes.  What a filesystem cannot hold
comes out as OSError; what does not exist comes out as ``None`` or an empty list.
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
    # The xattr package takes "not through a link" on a descriptor for XATTR_REPLACE.
    return not isinstance(target, int)


def set_value(target: Target, name: bytes, value: bytes) -> None:
    """Set ``name`` on ``target``.

    :raises OSError: e.g. ``EOPNOTSUPP`` for a filesystem without xattrs, ``EPERM`` for a name
        that needs privileges.
    """
    import xattr  # pulls in cffi, which a mount does not need

    xattr.setxattr(target, name, value, symlink=_is_path(target))


def remove(target: Target, name: bytes) -> None:
    """Take ``name`` away from ``target``, if it is there."""
    try:
        os.removexattr(target, name, follow_symlinks=not _is_path(target))
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def get_value(target: Target, name: bytes) -> bytes | None:
    """Give the value of ``name`` on ``target``; ``None`` when there is none."""
    import xattr

    try:
        value: bytes = xattr.getxattr(target, name, symlink=_is_path(target))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return value


def items(target: Target) -> Iterator[tuple[bytes, bytes]]:
    """Give every name and value on ``target`` that this process may see."""
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
