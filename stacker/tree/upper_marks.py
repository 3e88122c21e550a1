"""The marks on a directory of an upper, or on a file in it, that is held by a descriptor.

In come descriptors, mostly O_PATH, and a form; out goes what the marks say.  Changes nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from stacker.linux import opath
from stacker.tar.entry import OPAQUE_NAME

if TYPE_CHECKING:
    from stacker.tree.whiteout_dialects import Form

_UNMARKED: Final = {errno.ENODATA, errno.EOPNOTSUPP}


class Marks:
    """Reads marks.

    :param form: which there are.
    """

    def __init__(self, form: Form) -> None:
        self._form = form

    def is_opaque(self, directory: int) -> bool:
        """Say whether nothing lower shows in a directory."""
        return self.is_opaque_by_name(directory) or self._any_is(directory, b"y")

    def is_opaque_by_name(self, directory: int) -> bool:
        """Say the same, as far as a file in the directory tells it."""
        if not self._form.has_names:
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
            return any(_value(held, mark) is not None for mark in self._form.whiteout_marks)
        finally:
            os.close(held)

    def has(self, mark: bytes, held: int) -> bool:
        """Say whether something has one of overlayfs's other marks."""
        return _value(held, self._form.prefix + mark) is not None

    def _any_is(self, directory: int, value: bytes) -> bool:
        return any(_value(directory, mark) == value for mark in self._form.opaque_marks)


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
