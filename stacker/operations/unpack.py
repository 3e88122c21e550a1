"""Write the merged tree of an image to a directory, as plain files.

A store, an image's name and a missing or empty directory come in; the full directory goes out.  A
failure leaves the directory as it was.  This module makes no mount.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from stat import S_IMODE
from typing import TYPE_CHECKING

from stacker.errors import LockedError, StackerError, UsageError
from stacker.linux import lock, xattr
from stacker.linux.removal import remove_contents
from stacker.operations.mount import stacked_image
from stacker.stack.flatten import flatten

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stacker.operations.durability import Restore
    from stacker.store.store import Store

_UNFINISHED = b"user.stacker.unfinished"


def unpack_image(
    store: Store, name: str, directory: Path, *, restore: Restore | None = None
) -> str:
    """Write an image's merged tree to a directory.

    :param name: an image ID, a unique prefix of one, or a name.
    :param directory: missing or empty.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :returns: the image ID.
    :raises UsageError: the directory has files, or overlaps the store.
    :raises StackerError: the directory cannot be created or filled.
    """
    path = _outside_store(store, directory)
    with stacked_image(store, name, restore) as image, emptied_on_failure(path):
        flatten(image.stack.directories, path, image.stack.whiteout_format)
        return image.id


def _outside_store(store: Store, directory: Path) -> Path:
    path = type(directory)(os.path.realpath(directory))
    if path.is_relative_to(store.root) or store.root.is_relative_to(path):
        raise UsageError(
            f"directory overlaps the store: {directory}: the store is {store.root}",
            hint="choose a directory elsewhere",
        )
    return path


@contextmanager
def emptied_on_failure(path: Path) -> Iterator[None]:
    """Create or lock an empty directory; if the block fails, restore its previous state.

    An xattr marks the directory meanwhile, so that a repeated command can replace what a killed one
    left.

    :raises UsageError: `path` is not a directory, or has files.
    :raises LockedError: another process unpacks into the directory.
    :raises StackerError: the block raised an `OSError`.
    """
    try:
        created = _create(path)
        try:
            with _locked(path):
                _remove_unfinished(path)
                _require_empty(path)
                before = path.stat()
                try:
                    _mark(path)
                    yield
                    xattr.remove(os.fsencode(path), _UNFINISHED)
                except BaseException:
                    _restore(path, before)
                    raise
        except BaseException:
            if created:
                path.rmdir()
            raise
    except OSError as error:
        # Calls with dir_fd report a descriptor number or a bare name.
        name = error.filename if isinstance(error.filename, (str, bytes)) else str(path)
        text = f"cannot unpack into: {os.fsdecode(name)}: {error.strerror}"
        raise StackerError(text) from error


def _create(path: Path) -> bool:
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        if not path.is_dir():
            raise UsageError(f"not a directory: {path}") from None
        return False
    path.chmod(0o755)  # independent of the umask
    return True


def _locked(path: Path) -> lock.Lock:
    held = lock.try_exclusive(path, create=False)
    if held is None:
        raise LockedError(
            f"directory is in use: {path}: another process unpacks into it",
            hint="choose another directory",
        )
    return held


def _mark(path: Path) -> None:
    """Mark a directory as unfinished, where its filesystem has xattrs."""
    with suppress(OSError):
        xattr.set_value(os.fsencode(path), _UNFINISHED, b"1")


def _remove_unfinished(path: Path) -> None:
    """Remove what a killed process left in a directory that it marked."""
    if xattr.get_value(os.fsencode(path), _UNFINISHED) is not None:
        remove_contents(path)


def _require_empty(path: Path) -> None:
    if names := os.listdir(path):
        raise UsageError(
            f"directory is not empty: {path}: got {min(names)!r}, want nothing",
            hint="choose a missing or empty directory",
        )


def _restore(path: Path, before: os.stat_result) -> None:
    remove_contents(path)
    xattr.remove(os.fsencode(path), _UNFINISHED)
    if (path.stat().st_uid, path.stat().st_gid) != (before.st_uid, before.st_gid):
        os.chown(path, before.st_uid, before.st_gid)
    path.chmod(S_IMODE(before.st_mode))
