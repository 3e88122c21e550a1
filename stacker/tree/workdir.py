"""Make files in the work directory, then rename them into the upper directory.

Names and descriptors of directories come in.  A name in the upper directory never leads to a
partly made file, since every file is made here first (overlayfs.rst, *Upper and Lower*).  This
module must not use the lower tree.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.linux import opath, safe_path
from stacker.linux.filesystem import make_private
from stacker.linux.removal import remove_tree
from stacker.tree.numbers import IMPURE, ORIGIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.tree.whiteout_dialects import WhiteoutDialect

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class WorkDirectory:
    """The work directory of an upper directory.

    :param work: overlayfs's work directory.  Like overlayfs, this class empties and uses ``work``
        inside it.
    :raises OSError: it cannot be used, or its filesystem does not support the xattrs of marks.
    """

    def __init__(self, work: Path, dialect: WhiteoutDialect) -> None:
        inside = work / "work"
        remove_tree(inside, missing_ok=True)
        above = safe_path.open_directory(work)
        try:
            os.mkdir(inside.name, 0o700, dir_fd=above)
            self.directory = os.open(inside.name, _DIRECTORY, dir_fd=above)
            make_private(opath.proc_path(self.directory))
        finally:
            os.close(above)
        self._path = inside
        self._dialect = dialect
        self._count = 0
        try:
            self._try_marks()
        except BaseException:
            os.close(self.directory)
            raise

    def close(self) -> None:
        """Close the descriptor of the directory."""
        os.close(self.directory)

    def name(self) -> bytes:
        """Return a name that is not in use here."""
        self._count += 1
        return b"#%x" % self._count

    def file(self) -> tuple[bytes, int]:
        """Make an empty file; return its name and a descriptor open for writing."""
        name = self.name()
        return name, os.open(name, _NEW, 0o600, dir_fd=self.directory)

    def unnamed(self, mode: int, *, exclusive: bool) -> int:
        """Make a file without a name; return a descriptor open for writing.

        :param exclusive: whether the file can get no name later.
        """
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0)
        return os.open(opath.proc_path(self.directory), flags, mode & 0o777)

    def make(self, make: Callable[[bytes, int], None]) -> tuple[bytes, int]:
        """Call ``make(name, directory)``; return the name and a descriptor of the new file."""
        name = self.name()
        make(name, self.directory)
        return name, opath.pin(name, self.directory)

    def move_to(
        self, name: bytes, target: bytes, directory: int, *, held: int = -1, over: bool = False
    ) -> None:
        """Rename a file from here into a directory.

        :param held: a descriptor of the file, needed if its mode may forbid the move.
        :param over: exchange it with a file that rename(2) cannot replace, and remove that file.
        :raises OSError: the kernel's error; the file is removed then.
        """
        flag = opath.RENAME_EXCHANGE if over else 0

        def move() -> None:
            opath.rename(name, self.directory, target, directory, flag)

        try:
            if held < 0:
                move()
            else:  # moving a directory changes its "..", which requires write permission
                opath.with_owner_access(held, move)
        except OSError:
            self.discard(name)
            raise
        if over:
            self.discard(name)

    def hide(self, name: bytes, directory: int, *, instead: int = 0) -> None:
        """Put a whiteout into a directory, in one atomic step.

        :param instead: the type of the file that it replaces; 0 for none.
        :raises OSError: the kernel's error.
        """
        if not instead:
            self._dialect.hide(directory, name)
            return
        whiteout = self.name()
        self._dialect.hide(self.directory, whiteout)
        self.move_to(whiteout, name, directory, over=instead == stat.S_IFDIR)

    def remove_directory(self, name: bytes, directory: int) -> None:
        """Remove a directory without visible entries and the whiteouts in it, in one atomic step.

        :raises OSError: the kernel's error.
        """
        taken = self.name()
        os.rename(name, taken, src_dir_fd=directory, dst_dir_fd=self.directory)
        self.discard(taken)

    def discard(self, name: bytes) -> None:
        """Remove a file made here; a failure leaves it to the removal of the work directory."""
        with suppress(OSError):
            status = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                remove_tree(self._path / os.fsdecode(name))
            else:
                os.unlink(name, dir_fd=self.directory)

    def _try_marks(self) -> None:
        """Check early that the filesystem supports marks and whiteouts, as overlayfs does."""
        name, held = self.make(lambda name, within: os.mkdir(name, 0o700, dir_fd=within))
        whiteout = self.name()
        try:
            self.mark_opaque(held)
            self._dialect.hide(self.directory, whiteout)
            self.move_to(whiteout, name, self.directory, over=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        finally:
            os.close(held)
            self.discard(name)

    def mark_opaque(self, directory: int) -> None:
        """Mark a directory opaque, given a descriptor of it."""
        self._mark(directory, b"opaque", b"y")

    def mark_impure(self, directory: int) -> None:
        """Mark a directory that gets a copied-up file; without xattrs there is no mark."""
        with suppress(OSError):
            self._mark(directory, IMPURE, b"y")

    def mark_origin(self, copy: int, value: bytes) -> None:
        """Mark a copied-up file with its origin.

        The filesystem may have no space for it, and a symlink has no xattrs ``user.*``: the file
        then gets another inode number in the next mount.
        """
        with suppress(OSError):
            self._mark(copy, ORIGIN, value)

    def _mark(self, held: int, mark: bytes, value: bytes) -> None:
        name = self._dialect.prefix + mark
        opath.with_owner_access(held, lambda: os.setxattr(opath.proc_path(held), name, value))
