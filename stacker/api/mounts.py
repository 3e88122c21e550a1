"""A mount of an image and a bundle, which undo themselves at the end of a ``with`` block.

The record of a mount comes in; a `Mount` or a `Bundle` goes out.  This module makes no mount.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import NotFoundError

if TYPE_CHECKING:
    from typing import Self

    from stacker.image.digest import ImageID
    from stacker.mount.record import MountRecord
    from stacker.store.store import Store as StoreDirectory


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of an image; it stays until `unmount`, or until the end of a ``with`` block.

    :param id: names the mount in the store.
    :param target: the mount point, absolute.
    :param image_id: the mounted image.
    :param driver: ``overlay``, ``fuse``, ``copy`` or ``fuse-overlayfs``.
    :param writable: whether the mount accepts writes.
    :param upper: the directory that keeps the writes; ``None`` if they are discarded at unmount.
    :param reasons: why each driver before this one was not used.
    :param note: a remark of the driver.
    """

    id: str
    target: Path
    image_id: ImageID
    driver: str
    writable: bool = False
    upper: Path | None = None
    reasons: tuple[str, ...] = ()
    note: str | None = None
    _table: Path = field(default=Path(), repr=False)

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount, and discard the writes unless the mount has an upper directory.

        :param lazy: detach the mount even while processes use it.
        :raises NotFoundError: the mount is already unmounted.
        :raises MountError: the mount is in use, or the kernel refuses.
        """
        from stacker.mount.detach import detach
        from stacker.mount.table import Table

        detach(Table(self._table), self.target, lazy=lazy, identifier=self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(NotFoundError):  # the block, or another process, has unmounted it
            self.unmount()


@dataclass(frozen=True, slots=True)
class Bundle:
    """An OCI runtime bundle; it stays until `remove`, or until the end of a ``with`` block.

    :param path: its directory, absolute; it has ``config.json`` and ``rootfs``.
    :param mount: the mount of the root filesystem.
    """

    path: Path
    mount: Mount
    _store: StoreDirectory = field(repr=False)

    def remove(self, *, lazy: bool = False) -> None:
        """Unmount the root filesystem, and remove the bundle.

        :param lazy: detach the mount even while processes use it.
        :raises NotFoundError: the bundle is already removed.
        :raises MountError: the mount is in use, or the kernel refuses.
        """
        from stacker.operations.bundle import remove_bundle

        remove_bundle(self._store, self.path, lazy=lazy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(NotFoundError):  # the block, or another process, has removed it
            self.remove()


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended.

    :param exit_code: its exit code; 128 plus the signal's number if a signal killed it.
    :param mount: its root filesystem with its writes, if `run` keeps it.
    """

    exit_code: int
    mount: Mount | None = None


def describe_mount(
    record: MountRecord, table: Path, reasons: tuple[str, ...] = (), note: str | None = None
) -> Mount:
    """Return the values of a recorded mount.

    :param table: the directory of the mount table.
    """
    from stacker.image.digest import ImageID

    return Mount(
        id=record.id,
        target=record.target,
        image_id=ImageID.parse(record.image),
        driver=record.driver,
        writable=not record.read_only,
        upper=record.upper,
        reasons=reasons,
        note=note,
        _table=table,
    )
