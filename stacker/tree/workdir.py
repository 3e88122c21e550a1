"""The work directory: where a thing is made before it gets its name in the upper directory.

A name in the upper directory leads to something whole or to nothing, because what stands there was
renamed to it (overlayfs.rst, *Upper and Lower*: the work directory is for that).  In come
descriptors of directories and names; knows no lower tree.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.linux import opath
from stacker.linux.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.tree.whiteout_dialects import WhiteoutDialect

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Staging:
    """A directory for things without a name yet.

    :param work: overlayfs's work directory; like overlayfs it uses ``work`` inside, and empties it.
    :raises OSError: it cannot be used, or the filesystem has no xattrs for marks.
    """

    def __init__(self, work: Path, dialect: WhiteoutDialect) -> None:
        inside = work / "work"
        remove_tree(inside, missing_ok=True)
        inside.mkdir(mode=0o700)
        self._place = inside
        self._dialect = dialect
        self._count = 0
        self.directory = os.open(inside, _DIRECTORY)
        try:
            self._try_marks()
        except BaseException:
            os.close(self.directory)
            raise

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.directory)

    def name(self) -> bytes:
        """Invent a name that is not used here."""
        self._count += 1
        return b"#%x" % self._count

    def file(self, mode: int = 0o600) -> tuple[bytes, int]:
        """Make an empty file; give its name and a descriptor to write it.

        :param mode: what it may have at most, the umask being taken off.
        """
        name = self.name()
        return name, os.open(name, _NEW, mode & 0o777, dir_fd=self.directory)

    def made(self, make: Callable[[bytes, int], None]) -> tuple[bytes, int]:
        """Make anything else by a function of name and directory; give its name and hold it."""
        name = self.name()
        make(name, self.directory)
        return name, opath.pin(name, self.directory)

    def place(
        self, name: bytes, target: bytes, directory: int, *, held: int = -1, over: bool = False
    ) -> None:
        """Give what was made here its name elsewhere.

        :param held: a descriptor of what it is, where its mode may not let it be moved.
        :param over: something is there that rename cannot replace; it is removed.
        :raises OSError: as the kernel says; then what was made is gone.
        """
        flag = opath.RENAME_EXCHANGE if over else 0

        def move() -> None:
            opath.rename(name, self.directory, target, directory, flag)

        try:
            if held < 0:
                move()
            else:  # a directory's ".." changes, so that one must be allowed to write it
                opath.with_owner_access(held, move)
        except OSError:
            self.discard(name)
            raise
        if over:
            self.discard(name)

    def hide(self, name: bytes, directory: int, *, instead: int = 0) -> None:
        """Put a whiteout in a directory, in one step.

        :param instead: the type of what is there and goes; 0 for nothing.
        :raises OSError: as the kernel says.
        """
        if not instead:
            self._dialect.hide(directory, name)
            return
        whiteout = self.name()
        self._dialect.hide(self.directory, whiteout)
        self.place(whiteout, name, directory, over=instead == stat.S_IFDIR)

    def take(self, name: bytes, directory: int) -> None:
        """Remove a directory that shows nothing, with the whiteouts in it, in one step.

        :raises OSError: as the kernel says.
        """
        taken = self.name()
        os.rename(name, taken, src_dir_fd=directory, dst_dir_fd=self.directory)
        self.discard(taken)

    def discard(self, name: bytes) -> None:
        """Remove what is here under a name; what cannot be goes with the work directory."""
        with suppress(OSError):
            status = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                remove_tree(self._place / os.fsdecode(name))
            else:
                os.unlink(name, dir_fd=self.directory)

    def _try_marks(self) -> None:
        """Find out before anything depends on it what the filesystem can do, as overlayfs does."""
        name, held = self.made(lambda name, within: os.mkdir(name, 0o700, dir_fd=within))
        whiteout = self.name()
        try:
            self.mark_opaque(held)
            self._dialect.hide(self.directory, whiteout)
            self.place(whiteout, name, self.directory, over=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._place)) from error
        finally:
            os.close(held)
            self.discard(name)

    def mark_opaque(self, directory: int) -> None:
        """Mark a directory that is held, so that nothing lower shows in it."""
        mark = self._dialect.prefix + b"opaque"
        opath.with_owner_access(
            directory, lambda: os.setxattr(opath.proc_path(directory), mark, b"y")
        )
