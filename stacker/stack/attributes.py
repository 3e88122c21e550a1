"""Give one directory or file the owner, mode, times and xattrs that another has."""

from __future__ import annotations

import errno
import os
import stat

from stacker.layer.whiteout import WhiteoutFormat
from stacker.linux import xattr

_CANNOT_KEEP = (errno.EOPNOTSUPP, errno.EPERM)


def copy_attributes(source: bytes, target: int | bytes, *, form: WhiteoutFormat) -> None:
    """Copy attributes within the store: xattrs stay escaped, overlayfs's own marks stay behind.

    :param target: a descriptor or a path; neither it nor ``source`` is followed.
    """
    carry(source, os.lstat(source), target, form=form, escaped=True)


def carry(
    source: bytes,
    status: os.stat_result,
    target: int | bytes,
    *,
    form: WhiteoutFormat,
    escaped: bool,
) -> None:
    """Copy the attributes of ``source`` to ``target``.

    :param status: the ``lstat`` of ``source``.
    :param escaped: keep an image's own ``overlay.*`` names escaped, as in a layer; otherwise
        they get their plain names, as a mount would show them.
    """
    follow = isinstance(target, int)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=follow)
    for name, value in xattr.items(source):
        plain = form.unescaped(name)
        if plain is None:
            continue
        try:
            xattr.set_value(target, name if escaped else plain, value)
        except OSError as error:
            if error.errno not in _CANNOT_KEEP:
                raise
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=follow)
