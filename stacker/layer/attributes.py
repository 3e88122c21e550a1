"""Give one directory or file the owner, mode, times and xattrs that another has."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TypeAlias

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import xattr

_CANNOT_KEEP = (errno.EOPNOTSUPP, errno.EPERM)


Rename: TypeAlias = Callable[[bytes], bytes | None]
"""What an xattr is called in the copy; ``None`` leaves it behind."""


def copy_attributes(source: bytes, target: int | bytes, *, whiteout_format: WhiteoutFormat) -> None:
    """Copy attributes from layer to layer: all but overlayfs's own marks.

    :param target: a descriptor or a path; neither it nor ``source`` is followed.
    """
    carry(source, os.lstat(source), target, rename=without_marks(whiteout_format))


def without_marks(whiteout_format: WhiteoutFormat) -> Rename:
    """Keep names as they are, an image's own ``overlay.*`` ones escaped, but no marks."""
    return lambda name: None if whiteout_format.unescaped(name) is None else name


def carry(source: bytes, status: os.stat_result, target: int | bytes, *, rename: Rename) -> None:
    """Copy the attributes of ``source`` to ``target``.

    :param status: the ``lstat`` of ``source``.
    """
    follow = isinstance(target, int)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=follow)
    for name, value in xattr.items(source):
        written = rename(name)
        if written is None:
            continue
        try:
            xattr.set_value(target, written, value)
        except OSError as error:
            if error.errno not in _CANNOT_KEEP:
                raise
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=follow)
