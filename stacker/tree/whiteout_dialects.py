"""Deletions in whatever form another program has left them in a directory.

In come names of xattrs and of files; out goes whether they hide something.  Written is in one form
only, the kernel's own (`WhiteoutFormat`); read are, all at once:

* overlayfs's marks, in both of its xattr namespaces, with its character devices and with files as
  whiteouts (kernel, filesystems/overlayfs.rst, *Whiteouts and opaque directories*);
* AUFS's names, as layers have them on their way (image-spec, layer.md): ``.wh.NAME`` for a name,
  ``.wh..wh..opq`` for all of a directory;
* ``user.fuseoverlayfs.opaque``, by which fuse-overlayfs marks directories without privileges.

None of them shows in a tree, and nothing that shows can be given such a name.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, TypeAlias

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import opath
from stacker.tar.entry import AUFS_PREFIX, OPAQUE_NAME, WHITEOUT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNMARKED: Final = {errno.ENODATA, errno.EOPNOTSUPP}
_ESCAPE: Final = b"overlay."
_OVERLAY: Final = tuple(form.prefix for form in WhiteoutFormat)
_PREFIXES: Final = (*_OVERLAY, b"user.fuseoverlayfs.")
_UNREAD: Final = {prefix + mark for prefix in _OVERLAY for mark in (b"metacopy", b"redirect")}


class ForeignDialect:
    """All forms to read, one to write; it stands where a `WhiteoutFormat` does.

    :param written: the form to write.
    """

    opaque_marks: Final = tuple(prefix + b"opaque" for prefix in _PREFIXES)
    whiteout_marks: Final = tuple(prefix + b"whiteout" for prefix in _OVERLAY)
    has_names: Final = True

    def __init__(self, written: WhiteoutFormat) -> None:
        self.prefix = written.prefix
        self.hide = written.hide

    def escape(self, name: bytes) -> bytes:
        """Give the name under which somebody's own xattr is kept; see `WhiteoutFormat.escaped`."""
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                return prefix + _ESCAPE + name[len(prefix) :]
        return name

    def unescape(self, name: bytes) -> bytes | None:
        """Give somebody's own name back for one found on disk; ``None`` for a mark."""
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                return prefix + rest[len(_ESCAPE) :] if rest.startswith(_ESCAPE) else None
        return name


WhiteoutDialect: TypeAlias = WhiteoutFormat | ForeignDialect
"""How deletions are read and written in the directories of a stack."""


def is_reserved(name: bytes) -> bool:
    """Say whether a file's name means something else than a file."""
    return name.startswith(WHITEOUT_PREFIX)


def hidden_by(name: bytes) -> set[bytes]:
    """Give the name that a file of a reserved name hides, if it hides one."""
    hidden = name[len(WHITEOUT_PREFIX) :]
    if name.startswith(AUFS_PREFIX) or hidden in {b"", b".", b".."}:
        return set()
    return {hidden}


def refuse_unread(names: Iterable[bytes], place: bytes) -> None:
    """Refuse what only makes sense with features of overlayfs that are off here.

    :raises OSError: ``EPERM``, as the kernel says then.
    """
    for name in names:
        if name in _UNREAD:
            text = f"overlayfs wrote it with redirect_dir or metacopy (it has {name.decode()})"
            raise OSError(errno.EPERM, text, place)


class UpperMarks:
    """Reads marks.

    :param dialect: the marks to read.
    """

    def __init__(self, dialect: WhiteoutDialect) -> None:
        self._dialect = dialect

    def is_opaque(self, directory: int) -> bool:
        """Say whether nothing lower shows in a directory."""
        return self.is_opaque_by_name(directory) or self._any_is(directory, b"y")

    def is_opaque_by_name(self, directory: int) -> bool:
        """Say the same, as far as a file in the directory tells it."""
        if not self._dialect.has_names:
            return False
        try:
            opath.with_owner_access(directory, lambda: os.lstat(_inside(directory, OPAQUE_NAME)))
        except FileNotFoundError:
            return False
        return True

    def has_file_whiteouts(self, directory: int) -> bool:
        """Say whether files in a directory can be whiteouts (overlayfs.rst, *Nesting*)."""
        return self._any_is(directory, b"x")

    def is_file_whiteout(self, name: bytes, status: os.stat_result, directory: int) -> bool:
        """Say whether a file is a whiteout, in a directory where files can be."""
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            return False
        held = opath.pin(name, directory)
        try:
            return any(_value(held, mark) is not None for mark in self._dialect.whiteout_marks)
        finally:
            os.close(held)

    def has(self, mark: bytes, held: int) -> bool:
        """Say whether something has one of overlayfs's other marks."""
        return _value(held, self._dialect.prefix + mark) is not None

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
