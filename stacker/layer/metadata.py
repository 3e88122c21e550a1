"""Set owner, xattrs, mode and times of files, in an order in which no call undoes another.

An entry's metadata and a descriptor come in.  chown is first, since it clears set-ID bits and
capabilities; xattrs come before chmod, since an ACL changes the group bits; times come last
(chown(2), capabilities(7), acl(5)).  Calls that would change nothing are omitted.  This module
must not create files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import process, xattr
from stacker.tar.entry import Meta, Xattrs, printable, without_user_xattrs

_CAP_CHOWN: Final = 0
_SET_ID: Final = 0o6000
_CANNOT_KEEP: Final = (errno.EOPNOTSUPP, errno.EPERM)
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class IdMap:
    """How the owners in a layer become owners on disk; recorded for each layer.

    :param squash: the process that unpacks owns every file.  The skeleton keeps the image's IDs.
    """

    squash: bool = False

    @classmethod
    def permitted(cls) -> IdMap:
        """Return the identity map if this process may chown to several IDs, else `SQUASH`."""
        ranges = process.uid_map(), process.gid_map()
        several = all(sum(ids.count for ids in each) > 1 for each in ranges)
        return IDENTITY if several and process.has_capability(_CAP_CHOWN) else SQUASH


IDENTITY = IdMap()
SQUASH = IdMap(squash=True)


class MetadataWriter:
    """Sets the metadata of entries.

    ``warnings`` collects one line for each kind of loss; ``escaped`` is true after an xattr name of
    overlayfs was escaped.

    :param refused: the permissions that new files do not get; 0 saves a chmod(2) for many of them.
    """

    def __init__(self, whiteout_format: WhiteoutFormat, idmap: IdMap, refused: int = 0) -> None:
        self.warnings: dict[str, str] = {}
        self.escaped = False
        self.format = whiteout_format
        self._refused = refused
        self._keeps_owners = not idmap.squash
        self._uid, self._gid = os.geteuid(), os.getegid()

    def finish(self, fd: int, meta: Meta, *, created_mode: int) -> None:
        """Set the metadata of an open file or directory that was created with ``created_mode``."""
        mode, uid, gid, mtime, atime, xattrs = meta
        if (uid != self._uid or gid != self._gid) and self._keeps_owners:
            os.fchown(fd, uid, gid)
        if xattrs is not None:
            if not created_mode & 0o200:
                os.fchmod(fd, 0o600)  # setting user.* requires write permission, except for root
            self._set_xattrs(fd, xattrs)
        refused = mode & (_SET_ID | self._refused)
        if refused or mode != created_mode or xattrs is not None:
            os.fchmod(fd, mode)
        os.utime(fd, ns=(atime, mtime))

    def finish_name(self, parent: int, name: bytes, meta: Meta, *, is_symlink: bool) -> None:
        """Set the metadata of a symbolic link, device or FIFO, which cannot be opened."""
        mode, uid, gid, mtime, atime, xattrs = meta
        if (uid != self._uid or gid != self._gid) and self._keeps_owners:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if xattrs is not None:
            path = b"/proc/self/fd/%d/%s" % (parent, name)
            self._set_xattrs(path, without_user_xattrs(xattrs))
        if mode & (_SET_ID | self._refused) and not is_symlink:
            os.chmod(name, mode, dir_fd=parent)
        os.utime(name, ns=(atime, mtime), dir_fd=parent, follow_symlinks=False)

    def warn(self, kind: str, text: str) -> None:
        """Record the first warning of each ``kind``."""
        self.warnings.setdefault(kind, text)

    def _set_xattrs(self, target: int | bytes, xattrs: Xattrs) -> None:
        for name, value in xattrs.items():
            written = self.format.escape(name)
            if written is not name:
                self.escaped = True
            try:
                xattr.set_value(target, written, value)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                space = printable(name.partition(b".")[0])
                self.warn(
                    f"xattr {space} {error.errno}",
                    f"omitted xattrs: {printable(name)} and others of {space}.*: {error.strerror}",
                )


def set_attributes(target: bytes, meta: Meta, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
    """Set owner, xattrs, mode and times of a path, which is not followed.

    :param xattrs: under their names on disk; what the filesystem cannot store is omitted.
    """
    status = os.lstat(target)
    if (meta.uid, meta.gid) != (status.st_uid, status.st_gid):
        os.chown(target, meta.uid, meta.gid, follow_symlinks=False)
    for name, value in xattrs:
        try:
            xattr.set_value(target, name, value)
        except OSError as error:
            if error.errno not in _CANNOT_KEEP:
                raise
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, meta.mode)
    os.utime(target, ns=(meta.atime, meta.mtime), follow_symlinks=False)


Rename: TypeAlias = Callable[[bytes], bytes | None]
"""Maps an xattr name to the name in the copy; ``None`` drops the xattr."""


def copy_layer_attributes(
    source: bytes, target: int | bytes, *, whiteout_format: WhiteoutFormat
) -> None:
    """Copy attributes between layers: everything except overlayfs's marks.

    :param target: a descriptor, or a path that is not followed, as ``source`` is not.
    """
    copy_attributes(source, os.lstat(source), target, rename=without_marks(whiteout_format))


def without_marks(whiteout_format: WhiteoutFormat) -> Rename:
    """Return a mapping that keeps names, including escaped ones, but drops overlayfs's marks."""
    return lambda name: None if whiteout_format.unescape(name) is None else name


def copy_attributes(
    source: bytes, status: os.stat_result, target: int | bytes, *, rename: Rename
) -> None:
    """Copy the attributes of ``source`` to ``target``.

    :param status: the ``lstat`` of ``source``.
    :param rename: maps xattr names.
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
