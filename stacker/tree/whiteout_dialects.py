"""Read the whiteouts of other programs.

Names of xattrs and files come in; what they hide goes out.  This program writes overlayfs's own
format only (`WhiteoutFormat`).  It reads all of these at once:

* overlayfs's marks in both xattr namespaces, with character devices or files as whiteouts
  (kernel, filesystems/overlayfs.rst, *Whiteouts and opaque directories*);
* AUFS's names, as in layer tars (image-spec, layer.md): ``.wh.NAME`` hides a name,
  ``.wh..wh..opq`` hides everything in a directory;
* ``user.fuseoverlayfs.opaque``, the mark of an unprivileged fuse-overlayfs.

The tree exposes none of them, and refuses to create a file with such a name.  This module must not
change files.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, TypeAlias

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import opath
from stacker.tar.entry import AUFS_PREFIX, OPAQUE_NAME, WHITEOUT_PREFIX
from stacker.tree.numbers import ORIGIN, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNMARKED: Final = {errno.ENODATA, errno.EOPNOTSUPP}
_ESCAPE: Final = b"overlay."
_OVERLAY: Final = tuple(form.prefix for form in WhiteoutFormat)
_PREFIXES: Final = (*_OVERLAY, b"user.fuseoverlayfs.")
_UNREAD: Final = {prefix + mark for prefix in _OVERLAY for mark in (b"metacopy", b"redirect")}


class ForeignDialect:
    """Reads every dialect and writes one; an alternative to `WhiteoutFormat`.

    :param written: the format to write.
    """

    opaque_marks: Final = tuple(prefix + b"opaque" for prefix in _PREFIXES)
    whiteout_marks: Final = tuple(prefix + b"whiteout" for prefix in _OVERLAY)
    has_names: Final = True

    def __init__(self, written: WhiteoutFormat) -> None:
        self.prefix = written.prefix
        self.hide = written.hide

    def escape(self, name: bytes) -> bytes:
        """Return the name on disk of a user's own xattr; see `WhiteoutFormat.escape`."""
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                return prefix + _ESCAPE + name[len(prefix) :]
        return name

    def unescape(self, name: bytes) -> bytes | None:
        """Return the name of an xattr for programs in the mount; ``None`` for a mark."""
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                return prefix + rest[len(_ESCAPE) :] if rest.startswith(_ESCAPE) else None
        return name


WhiteoutDialect: TypeAlias = WhiteoutFormat | ForeignDialect
"""How deletions are read and written in the directories of a stack."""


def is_reserved(name: bytes) -> bool:
    """Return whether a file name is a whiteout in AUFS's dialect."""
    return name.startswith(WHITEOUT_PREFIX)


def hidden_by(name: bytes) -> set[bytes]:
    """Return the name that a whiteout of AUFS hides, as a set of one or none."""
    hidden = name[len(WHITEOUT_PREFIX) :]
    if name.startswith(AUFS_PREFIX) or hidden in {b"", b".", b".."}:
        return set()
    return {hidden}


def refuse_unread(names: Iterable[bytes], path: bytes) -> None:
    """Refuse marks of overlayfs features that are off.

    :param names: the xattr names of a file.
    :param path: the path of the file, for the error.
    :raises OSError: ``EPERM``, as from the kernel.
    """
    for name in names:
        if name in _UNREAD:
            text = f"has the mark {name.decode()} of redirect_dir or metacopy"
            raise OSError(errno.EPERM, text, path)


class UpperMarks:
    """Reads the marks of an upper directory, through descriptors that are mostly O_PATH.

    :param dialect: the marks to read.
    """

    def __init__(self, dialect: WhiteoutDialect) -> None:
        self._dialect = dialect

    def is_opaque(self, directory: int) -> bool:
        """Return whether a directory hides lower ones."""
        return self.is_opaque_by_name(directory) or self._any_is(directory, b"y")

    def is_opaque_by_name(self, directory: int) -> bool:
        """Return the same, but read only the file ``.wh..wh..opq``."""
        if not self._dialect.has_names:
            return False
        try:
            opath.with_owner_access(directory, lambda: os.lstat(_inside(directory, OPAQUE_NAME)))
        except FileNotFoundError:
            return False
        return True

    def has_file_whiteouts(self, directory: int) -> bool:
        """Return whether files in a directory can be whiteouts (overlayfs.rst, *Nesting*)."""
        return self._any_is(directory, b"x")

    def is_file_whiteout(self, name: bytes, status: os.stat_result, directory: int) -> bool:
        """Return whether a file is a whiteout, in a directory with file whiteouts."""
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            return False
        held = opath.pin(name, directory)
        try:
            return any(_value(held, mark) is not None for mark in self._dialect.whiteout_marks)
        finally:
            os.close(held)

    def has(self, mark: bytes, held: int) -> bool:
        """Return whether an inode has another mark of overlayfs, such as ``metacopy``."""
        return _value(held, self._dialect.prefix + mark) is not None

    def origin(self, name: bytes, directory: int) -> bytes | None:
        """Return the origin of a copied-up file; ``None`` if it has none that can be read."""
        path = _inside(directory, name)
        return value_of(path, self._dialect.prefix + ORIGIN, follow_symlinks=False)

    def _any_is(self, directory: int, value: bytes) -> bool:
        return any(_value(directory, mark) == value for mark in self._dialect.opaque_marks)


def _inside(directory: int, name: bytes) -> bytes:
    return opath.proc_path(directory) + b"/" + name


def _value(held: int, name: bytes) -> bytes | None:
    path = opath.proc_path(held)
    try:
        return opath.with_owner_access(held, lambda: os.getxattr(path, name))
    except OSError as error:
        if error.errno in _UNMARKED:
            return None
        raise
