"""Whether a directory can be mounted on.

In comes the path a person gave, out goes an absolute one without symlinks, and for as long as a
mount is being made a lock on it.  Knows no driver.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import LockedError, MountError
from stacker.linux import lock, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator


def resolve(target: Path, *, forbidden: Path | None = None) -> Path:
    """Check a mount target, and return its absolute path with every symlink followed.

    :param target: as given.
    :param forbidden: a directory (the store) that must not contain the target, nor lie in it.
    :raises MountError: it is missing, no directory, a mount point, or in the way of `forbidden`.
    """
    path = _existing(target)
    if not path.is_dir():
        raise MountError(
            f"mount target is not a directory: {target}", hint="give a directory, best an empty one"
        )
    if forbidden is not None:
        refuse_overlap("mount target", path, "the store", Path(os.path.realpath(forbidden)))
    refuse_mount_point(path)
    return path


@contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Keep everybody else from mounting on a directory meanwhile.

    The lock is on the directory beneath, which the mount then hides; so whoever waited for it
    finds a mount point.

    :param target: as `resolve` returned it.
    :raises LockedError: somebody is mounting there.
    :raises MountError: it cannot be opened, or became a mount point.
    """
    try:
        held = lock.try_exclusive(target, create=False)
    except OSError as error:
        raise MountError(f"cannot open mount target: {target}: {error.strerror}") from error
    if held is None:
        raise LockedError(f"mount target is in use: {target}: another mount is being made there")
    with held:
        refuse_mount_point(target)
        yield


def refuse_mount_point(path: Path) -> None:
    """Refuse a directory that something is mounted on.

    :raises MountError: it is a mount point.
    """
    found = mountinfo.at(path)
    if found is None:
        return
    ours = found.source.startswith("stacker:")
    raise MountError(
        f"mount target is busy: {path}: {found.fstype} {found.source} is mounted there",
        hint=f"stacker umount {path}" if ours else "unmount it first, or choose another directory",
    )


def refuse_overlap(what: str, path: Path, what_else: str, other: Path) -> None:
    """Refuse two directories of which one contains the other, or that are one.

    :param what: what `path` is, for the error.
    :param what_else: what `other` is.
    :raises MountError: they overlap.
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


def _existing(target: Path) -> Path:
    try:
        return Path(os.path.realpath(target, strict=True))
    except FileNotFoundError:
        raise MountError(f"mount target does not exist: {target}", hint=f"mkdir {target}") from None
    except NotADirectoryError:
        raise MountError(f"mount target is not a directory: {target}") from None
    except OSError as error:
        raise MountError(f"cannot use mount target: {target}: {error.strerror}") from error
