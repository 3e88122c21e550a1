"""Marks of whether a layer or a chain is known to be on disk.

A directory of the store comes in.  It gets the file ``session`` before it is flushed, and
``durable`` once it was.  The kernel loses unwritten files only if the machine stops or the
filesystem goes away, and both end the session.  No filesystem keeps a record of a clean unmount:
ext4 and xfs overwrite theirs at the next mount.  So ``durable`` is the only proof that outlives a
session.  This module must not know what the directory contains.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stacker.linux.filesystem import FileIdentity, file_identity, sync_filesystem
from stacker.linux.mountinfo import mount_number
from stacker.linux.process import boot_id

_SESSION = "session"
_DURABLE = "durable"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class DiskMark:
    """The mark of a directory of the store.

    :param elsewhere: a file that replaces ``session`` once the directory was verified, if stacker
        cannot change the directory.
    """

    directory: Path
    elsewhere: Path | None = None

    def write(self, *, sync: bool) -> None:
        """Mark a complete directory, before a rename gives it its name in the store.

        :param sync: flush its filesystem to disk first.
        :raises OSError: a write failed.
        """
        if sync:
            sync_filesystem(self.directory)
            (self.directory / _DURABLE).touch(mode=0o600)
        else:
            (self.directory / _SESSION).write_text(current_session(self.directory))

    def remove(self) -> None:
        """Remove both marks: the directory is then no longer certain."""
        for name in (_DURABLE, _SESSION):
            (self.directory / name).unlink(missing_ok=True)

    @property
    def is_durable(self) -> bool:
        """Whether the directory was flushed to disk."""
        return (self.directory / _DURABLE).exists()

    @property
    def is_certain(self) -> bool:
        """Whether no power cut can have damaged the directory.

        That is so if it was flushed to disk, or if its session has not ended.
        """
        if self.is_durable:
            return True
        sessions = (self.directory / _SESSION, self.elsewhere)
        return any(path is not None and self._is_current(path) for path in sessions)

    def _is_current(self, session: Path) -> bool:
        try:
            return session.read_text() == current_session(self.directory)
        except (OSError, UnicodeDecodeError):
            return False

    @property
    def needs_flush(self) -> bool:
        """Whether a flush makes the directory durable: it is unmarked, and of this session."""
        return not self.is_durable and self.is_certain

    @property
    def identity(self) -> FileIdentity:
        """A value that changes if another process exchanges the directory for a new one."""
        return file_identity(self.directory / _SESSION)

    def mark_durable(self, flushed: FileIdentity) -> None:
        """Record that the directory is on disk.

        Do nothing if another process removed the directory, or exchanged it for a new one, which
        may not be on disk yet.

        :param flushed: the `identity` before the flush.
        """
        if self.elsewhere is not None:
            self.elsewhere.parent.mkdir(mode=0o700, exist_ok=True)
            self.elsewhere.write_text(current_session(self.directory))
            return
        with suppress(FileNotFoundError):
            root = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if file_identity(_SESSION, directory=root) == flushed:
                    os.close(os.open(_DURABLE, _CREATE, 0o600, dir_fd=root))
                    os.unlink(_SESSION, dir_fd=root)
            finally:
                os.close(root)


def current_session(directory: Path) -> str:
    """Return the ID of the time in which the kernel keeps the unwritten files of a directory.

    It is another one after a reboot, and after the filesystem was unmounted and mounted again.
    """
    return f"{boot_id()} {mount_number(directory)}\n"
