"""Write the merged tree of an image to a directory, as plain files.

A store, an image's name and a missing or empty directory come in; the full directory goes out.  A
failure leaves the directory as it was.  This module makes no mount.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING

from stacker.errors import LockedError, StackerError, UsageError, full_disk_hint, path_of
from stacker.image.digest import ImageID
from stacker.linux import lock, safe_path, xattr
from stacker.linux.mountapi import FileDescriptor
from stacker.linux.removal import remove_contents
from stacker.operations.mount import stacked_image
from stacker.stack.flatten import flatten
from stacker.tree.extract import extract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.operations.durability import Restore
    from stacker.store.store import Store

_UNFINISHED = b"user.stacker.unfinished"
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack_image(
    store: Store, name: str, directory: Path, *, restore: Restore | None = None
) -> ImageID:
    """Write an image's merged tree to a directory.

    :param name: an image ID, a unique prefix of one, or a name.
    :param directory: missing or empty.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :returns: the image ID.
    :raises UsageError: the directory has files, or overlaps the store.
    :raises StackerError: the directory cannot be created or filled.
    """
    path = _outside_store(store, directory)
    with stacked_image(store, name, restore) as image, emptied_on_failure(path) as opened:
        stack = image.stack
        if stack.merged is None:
            flatten(stack.directories, opened, stack.whiteout_format)
        else:
            extract(stack.merged, opened, stack.whiteout_format)
        safe_path.require_same(path, opened)
        return ImageID.parse(image.id)


def _outside_store(store: Store, directory: Path) -> Path:
    try:
        path = safe_path.resolve(directory)
    except OSError as error:
        raise StackerError(f"cannot unpack into: {directory}: {error.strerror}") from error
    if path.is_relative_to(store.root) or store.root.is_relative_to(path):
        raise UsageError(
            f"directory overlaps the store: {directory}: the store is {store.root}",
            hint="choose a directory elsewhere",
        )
    return path


@contextmanager
def emptied_on_failure(path: Path) -> Iterator[int]:
    """Create or lock an empty directory, and yield a descriptor of it.

    If the block fails, restore its previous state.  The directory is opened once: another process
    may exchange the path with a symlink meanwhile.  An xattr marks the directory during the block,
    so that a repeated command can replace what a killed one left.

    :param path: absolute, without symlinks.
    :raises UsageError: `path` is not a directory, or has files.
    :raises LockedError: another process unpacks into the directory.
    :raises StackerError: the block raised an `OSError`.
    """
    try:
        with FileDescriptor.open_directory(path.parent) as above:
            created = _create(path, above.number)
            try:
                with (
                    _opened(path, above.number) as directory,
                    _locked(path, directory),
                    _marked(path, directory),
                ):
                    yield directory
            except BaseException:
                if created:
                    os.rmdir(path.name, dir_fd=above.number)
                raise
    except OSError as error:
        text = f"cannot unpack into: {path_of(error) or path}: {error.strerror}"
        raise StackerError(text, hint=full_disk_hint(error)) from error


@contextmanager
def _opened(path: Path, above: int) -> Iterator[int]:
    try:
        directory = os.open(path.name, _LIST, dir_fd=above)
    except NotADirectoryError:
        raise UsageError(
            f"not a directory: {path}", hint="choose a missing or empty directory"
        ) from None
    try:
        yield directory
    finally:
        os.close(directory)


@contextmanager
def _marked(path: Path, directory: int) -> Iterator[None]:
    """Mark an empty directory as unfinished during the block; empty it if the block fails."""
    _remove_unfinished(directory)
    _require_empty(path, directory)
    before = os.fstat(directory)
    try:
        with suppress(OSError):  # its filesystem may have no xattrs
            xattr.set_value(directory, _UNFINISHED, b"1")
        yield
        xattr.remove(directory, _UNFINISHED)
    except BaseException:
        _restore(directory, before)
        raise


def _create(path: Path, above: int) -> bool:
    try:
        os.mkdir(path.name, 0o755, dir_fd=above)
    except FileExistsError:
        return False
    with FileDescriptor(os.open(path.name, _PIN, dir_fd=above)) as created:
        created.path.chmod(0o755)  # independent of the umask
    return True


def _locked(path: Path, directory: int) -> lock.Lock:
    held = lock.try_exclusive(Path(f"/proc/self/fd/{directory}"), create=False)
    if held is None:
        raise LockedError(
            f"directory is in use: {path}: another process unpacks into it",
            hint="choose another directory",
        )
    return held


def _remove_unfinished(directory: int) -> None:
    """Remove what a killed process left in a directory that it marked."""
    if xattr.get_value(directory, _UNFINISHED) is not None:
        remove_contents(directory)


def _require_empty(path: Path, directory: int) -> None:
    if names := os.listdir(directory):
        raise UsageError(
            f"directory is not empty: {path}: got {min(names)!r}, want nothing",
            hint="choose a missing or empty directory",
        )


def _restore(directory: int, before: os.stat_result) -> None:
    remove_contents(directory)
    xattr.remove(directory, _UNFINISHED)
    now = os.fstat(directory)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(directory, before.st_uid, before.st_gid)
    os.fchmod(directory, S_IMODE(before.st_mode))
