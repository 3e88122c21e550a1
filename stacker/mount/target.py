"""Check that a directory can be mounted on, and lock it while a mount is made.

The path that the user gave comes in; an absolute path without symlinks goes out.  This module must
not use a driver.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import LockedError, MountError, shell_word
from stacker.linux import lock, mountinfo, safe_path
from stacker.linux.mountapi import FileDescriptor
from stacker.mount.plan import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def resolve_target(target: Path, *, forbidden: Path | None = None) -> Path:
    """Check a mount point, and return its absolute path with every symlink followed.

    :param target: the path as the user gave it.
    :param forbidden: a directory (the store) that must not overlap the target.
    :raises MountError: the target is missing, is not a directory, is already a mount point, or
        overlaps `forbidden`.
    """
    path = _existing_directory(target)
    if forbidden is not None:
        refuse_overlap("mount target", path, "the store", Path(os.path.realpath(forbidden)))
    refuse_mount_point(path)
    return path


@contextmanager
def locked_target(target: Path) -> Iterator[None]:
    """Prevent other processes of this program from mounting on a directory during the block.

    The lock is on the directory itself, which the mount then covers.  A process that waited for
    the lock therefore finds a mount point.

    :param target: a path that `resolve_target` returned.
    :raises LockedError: another process is mounting on the directory.
    :raises MountError: the directory cannot be opened, or became a mount point.
    """
    try:
        with FileDescriptor.open_directory(target) as directory:
            held = lock.try_exclusive(directory.path, create=False)
    except OSError as error:
        raise MountError(f"cannot open mount target: {target}: {error.strerror}") from error
    if held is None:
        raise LockedError(
            f"mount target is in use: {target}: another process is mounting on it", hint="try again"
        )
    with held:
        refuse_mount_point(target)
        yield


def refuse_mount_point(path: Path) -> None:
    """Refuse a directory that is already a mount point.

    :raises MountError: something is mounted on the directory.
    """
    found = mountinfo.at(path)
    if found is None:
        return
    ours, word = found.source.startswith(source_of("")), shell_word(path)
    raise MountError(
        f"mount target is busy: {path}: {found.fstype} {found.source} is mounted there",
        hint=f"stacker umount {word}" if ours else f"umount {word}, or choose another directory",
    )


def refuse_overlap(what: str, path: Path, what_else: str, other: Path) -> None:
    """Refuse two directories if they are equal, or if one contains the other.

    :param what: the role of `path`, for the error.
    :param what_else: the role of `other`, for the error.
    :raises MountError: the directories overlap.
    """
    if path.is_relative_to(other):
        relation = "inside"
    elif other.is_relative_to(path):
        relation = "around"
    else:
        return
    raise MountError(
        f"{what} is {relation} {what_else}: {path}: {what_else} is {other}",
        hint="choose a directory elsewhere",
    )


def _existing_directory(target: Path) -> Path:
    try:
        path = safe_path.resolve(target, strict=True)
        if stat.S_ISDIR(path.stat().st_mode):
            return path
    except FileNotFoundError:
        raise MountError(
            f"mount target does not exist: {target}", hint=f"mkdir {shell_word(target)}"
        ) from None
    except NotADirectoryError:
        pass
    except OSError as error:
        dead = error.errno == errno.ENOTCONN  # a FUSE mount that has lost its server
        raise MountError(
            f"cannot use mount target: {target}: {error.strerror}",
            hint=f"umount {shell_word(target)}" if dead else None,
        ) from error
    raise MountError(f"mount target is not a directory: {target}", hint="choose an empty directory")
