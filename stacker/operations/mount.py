"""An image in the store to a mount point, or to a plain directory.

In: a store and what a person calls the image.  Out: a mount that the store's table knows, or a
full directory.  The image and its layers are held against removal until the mount is written
down, so that whoever removes an image either comes first or sees the mount.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from stat import S_IMODE
from typing import TYPE_CHECKING

from stacker.errors import LockedError, StackerError, UsageError
from stacker.layer.paths import LayerPaths
from stacker.linux import lock
from stacker.mount.attach import attach, checked
from stacker.mount.drivers.choose import choose
from stacker.mount.plan import Request, new_id
from stacker.mount.table import Table
from stacker.operations.stack import ensure_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stacker.image.digest import ImageID
    from stacker.layer.paths import Stack
    from stacker.mount.drivers.protocol import Mounted
    from stacker.mount.plan import FuseAdapter, Plan
    from stacker.mount.record import MountRecord
    from stacker.store.store import Store


@dataclass(frozen=True, slots=True)
class Presentation:
    """How an image shall show.

    :param target: the directory to mount on.
    :param driver: a mount driver's name, or ``auto``.
    :param writable: take writes; they go with the mount unless ``upper`` keeps them.
    :param upper: a directory that keeps the writes; it makes the mount writable.
    :param fuse_adapter: what the driver ``fuse`` answers by; ``None`` for the usual one.
    :param fuse_passthrough: with that driver, let the kernel read large files by itself.
    :raises UsageError: one of these, with another driver than ``fuse``.
    """

    target: Path
    driver: str = "auto"
    writable: bool = False
    upper: Path | None = None
    fuse_adapter: FuseAdapter | None = None
    fuse_passthrough: bool = False

    def __post_init__(self) -> None:
        wish = self.fuse_adapter or ("passthrough" if self.fuse_passthrough else None)
        if wish is not None and self.driver != "fuse":
            raise UsageError(
                f"a wish to the FUSE driver without it: {wish}: got driver {self.driver},"
                " want fuse",
                hint="add --driver fuse",
            )

    def request(self, stack: Stack, sources: tuple[LayerPaths, ...]) -> Request:
        """Say it in terms of directories."""
        return Request(
            target=self.target,
            layers=stack.directories,
            xattr_namespace=stack.whiteout_format.value,
            plain=stack.plain,
            read_only=not (self.writable or self.upper),
            upper=self.upper,
            sources=sources,
            fuse_adapter=self.fuse_adapter or "kernel",
            fuse_passthrough=self.fuse_passthrough,
        )


def mount_image(store: Store, image: str, wish: Presentation) -> tuple[MountRecord, Mounted]:
    """Mount an image.

    :param image: an image ID, a unique prefix of one, or a name.
    :raises NotFoundError: no such image, or a layer of it is missing.
    :raises MountError: the target is unfit, or no driver can mount; nothing is left behind.
    :raises LockedError: the target or the upper directory is in use.
    """
    with _held(store, image) as (image_id, stack):
        return attach(
            Table(store.mounts),
            wish.request(stack, _sources(store, stack)),
            image=str(image_id),
            driver=wish.driver,
            forbidden=store.root,
        )


def plan_image(store: Store, image: str, wish: Presentation) -> tuple[Plan, str, tuple[str, ...]]:
    """Say how an image would be mounted, and mount nothing; arguments as for `mount_image`.

    :returns: the plan, the driver that would be tried first, and why not those before it.
    """
    with _held(store, image) as (_, stack):
        request = checked(wish.request(stack, _sources(store, stack)), forbidden=store.root)
        identifier = new_id()
        plan = request.plan(identifier, store.mounts / identifier)
        driver, reasons = choose(wish.driver, plan)
        return plan, driver.name, reasons


def unpack_image(store: Store, image: str, directory: Path) -> ImageID:
    """Write an image's merged tree to a directory, or leave the directory as it was.

    :param directory: missing, or empty.
    :raises UsageError: it has files, or lies in the store.
    :raises StackerError: it cannot be made or filled.
    """
    path = _outside(store, directory)
    with _held(store, image) as (image_id, stack), _filling(path):
        from stacker.stack.flatten import flatten  # no mount needs it

        flatten(stack.directories, path, stack.whiteout_format)
        return image_id


@contextmanager
def _held(store: Store, image: str) -> Iterator[tuple[ImageID, Stack]]:
    """Keep an image and its layers for the block, and give its stack."""
    image_id = store.images.find(image)
    with (
        store.images.reading(image_id) as config,
        store.layers.reading(config.diff_ids),
    ):
        yield image_id, ensure_stack(store, config)


def _sources(store: Store, stack: Stack) -> tuple[LayerPaths, ...]:
    """Say where the skeletons of a stack's layers lie; what repairs them has none."""
    return tuple(
        LayerPaths(directory.parent)
        for directory in stack.directories
        if directory.parent.is_relative_to(store.layers.root)
    )


def _outside(store: Store, directory: Path) -> Path:
    path = type(directory)(os.path.realpath(directory))
    if path.is_relative_to(store.root) or store.root.is_relative_to(path):
        raise UsageError(
            f"directory overlaps the store: {directory}: the store is {store.root}",
            hint="choose a directory elsewhere",
        )
    return path


@contextmanager
def _filling(path: Path) -> Iterator[None]:
    """Give the block an empty directory; if it fails, take away what it put there."""
    try:
        made = _make(path)
        try:
            with _only_user(path):
                _require_empty(path)
                before = path.stat()
                try:
                    yield
                except BaseException:
                    _empty(path, before)
                    raise
        except BaseException:
            if made:
                path.rmdir()
            raise
    except OSError as error:
        raise StackerError(
            f"cannot unpack into: {_place(error, path)}: {error.strerror}"
        ) from error


def _place(error: OSError, path: Path) -> str:
    """Name what an error is about; calls on a descriptor only know its number."""
    name = error.filename
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else str(path)


def _make(path: Path) -> bool:
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        if not path.is_dir():
            raise UsageError(f"not a directory: {path}") from None
        return False
    path.chmod(0o755)  # whatever the umask
    return True


def _only_user(path: Path) -> lock.Lock:
    held = lock.try_exclusive(path, create=False)
    if held is None:
        raise LockedError(f"directory in use: {path}: somebody is filling it")
    return held


def _require_empty(path: Path) -> None:
    if names := os.listdir(path):
        raise UsageError(
            f"directory is not empty: {path}: got {min(names)!r}, want nothing",
            hint="name a missing or an empty directory",
        )


def _empty(path: Path, before: os.stat_result) -> None:
    from stacker.linux.removal import remove_contents

    remove_contents(path)
    if (path.stat().st_uid, path.stat().st_gid) != (before.st_uid, before.st_gid):
        os.chown(path, before.st_uid, before.st_gid)
    path.chmod(S_IMODE(before.st_mode))
