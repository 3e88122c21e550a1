"""Make a mount: check the request, try the drivers, and write the record.

A `MountRequest` and a `StackedImage` come in; a mount goes out that `Table` lists.  A failed
attempt leaves no record, no upper or work directory and no mount.  This module must not use the
store.
"""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from stat import S_IMODE
from typing import TYPE_CHECKING, Final

from stacker.errors import MountError, StackerError, full_disk_hint, path_of, shell_word
from stacker.linux import mountinfo, process, safe_path
from stacker.mount.drivers.choose import driver_named, execute
from stacker.mount.drivers.fuse import FUSE_DRIVERS, release_served
from stacker.mount.record import IndexMount, MountRecord
from stacker.mount.state import KernelView
from stacker.mount.target import locked_target, resolve_target
from stacker.mount.upper_directory import (
    UpperOrigin,
    claim_origin,
    prepared,
    resolve_upper,
)

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.layer.paths import MergedIndex
    from stacker.linux.lock import Lock
    from stacker.mount.drivers.protocol import Driver, Mounted
    from stacker.mount.plan import MountRequest, Plan, StackedImage
    from stacker.mount.table import MountDirectory, Table

ROOT: Final = "rootfs"
"""The mount point of `attach_for_run` in the mount's own directory."""
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def checked(request: MountRequest, *, forbidden: Path | None = None) -> MountRequest:
    """Return a request whose paths are absolute, without symlinks, and fit for a mount.

    :param forbidden: the store; neither the target nor the upper directory may overlap it.
    :raises MountError: the target or the upper directory cannot be used.
    """
    target = resolve_target(request.target, forbidden=forbidden)
    upper = request.upper and resolve_upper(request.upper, target, forbidden=forbidden)
    return replace(request, target=target, upper=upper)


def attach(
    table: Table, request: MountRequest, image: StackedImage, *, forbidden: Path | None = None
) -> tuple[MountRecord, Mounted]:
    """Mount an image, and write the record.

    :param table: the table that lists the mount.
    :param forbidden: as for `checked`.
    :raises UsageError: no driver has the name that the request gives.
    :raises MountError: the target cannot be used, or every driver fails.
    :raises LockedError: the target or the upper directory is in use.
    :raises UnsupportedError: the named driver does not support the request.
    """
    if request.driver != "auto":
        driver_named(request.driver)
    request = _checked(table, request, forbidden)
    with locked_target(request.target):
        try:
            _remove_incomplete(table, request.target)
            return _attach(table, request, image)
        except StackerError:
            raise
        except OSError as error:
            text = f"cannot mount: {path_of(error) or request.target}: {error.strerror}"
            kind = StackerError if error.errno in _DISK_ERRORS else MountError
            raise kind(text, hint=full_disk_hint(error)) from error


def attach_for_run(
    table: Table, request: MountRequest, image: StackedImage, runtime: tuple[str, ...]
) -> tuple[MountRecord, Mounted, Lock]:
    """Mount an image in the mount's own directory, until the lock is released or this process ends.

    :param request: its `target` is replaced.
    :param runtime: as for `MountRecord.runtime`.
    :returns: the mount, and the lock of `Table.hold_for_run`.
    :raises MountError: every driver fails.
    """
    with table.new_directory() as own:
        target = own.path / ROOT
        target.mkdir(mode=0o755)
        held = table.hold_for_run(own.id)
        try:
            request = replace(request, target=target)
            return *_mount(table, request, image, own, runtime), held
        except BaseException:
            held.release()
            raise


def _checked(table: Table, request: MountRequest, forbidden: Path | None) -> MountRequest:
    """Check a request, if necessary after clearing what a killed process left on its paths."""
    try:
        return checked(request, forbidden=forbidden)
    except MountError as error:
        from stacker.mount.detach import recover

        if not recover(table, request.target):
            raise _busy(table, request.target) or error from None
    return checked(request, forbidden=forbidden)


def _busy(table: Table, target: Path) -> MountError | None:
    """Return the error for a target at which an image is mounted, ``None`` without one."""
    entry = table.find(safe_path.resolve(target))
    if entry is None or entry.state != "mounted":
        return None
    image = entry.record.image.removeprefix("sha256:")[:12]
    return MountError(
        f"mount target is busy: {target}: image {image} is mounted there",
        hint=f"stacker umount {shell_word(target)}",
    )


def _attach(
    table: Table, request: MountRequest, image: StackedImage
) -> tuple[MountRecord, Mounted]:
    with table.new_directory() as own:
        return _mount(table, request, image, own)


def _mount(
    table: Table,
    request: MountRequest,
    image: StackedImage,
    own: MountDirectory,
    runtime: tuple[str, ...] | None = None,
) -> tuple[MountRecord, Mounted]:
    shared = _shared_point(table, image.stack.merged)
    plan = request.plan(image, own.id, own.path, shared=shared)
    with prepared(plan, own.path):
        _claim_upper(plan, image)
        attempts = _Attempts(table, plan, replace(_record(plan, image), runtime=runtime))
        try:
            mounted = execute(request.driver, plan, attempts.record_driver)
            attempts.record_completion(mounted)
        except BaseException:
            attempts.undo()
            raise
        return attempts.record, mounted


def _claim_upper(plan: Plan, image: StackedImage) -> None:
    if plan.upper is not None and not plan.volatile and image.chain_id is not None:
        origin = UpperOrigin(image.chain_id, image.id, image.stack.whiteout_format)
        claim_origin(plan.upper, origin)


class _Attempts:
    """The record of a mount, which names each driver before that driver is tried."""

    __slots__ = ("_plan", "_table", "record")

    def __init__(self, table: Table, plan: Plan, record: MountRecord) -> None:
        self._table = table
        self._plan = plan
        self.record = record

    def record_driver(self, driver: Driver) -> None:
        # A FUSE driver serves what the overlay driver would bind, or mount without an overlay.
        is_fuse = driver.name in FUSE_DRIVERS
        bound = None if is_fuse else self.record.bound
        index = None if is_fuse or driver.name == "copy" else self.record.index
        adapter = None
        if driver.name == "fuse":
            adapter = "kernel" if self._plan.fuse is None else self._plan.fuse.adapter
        self.record = replace(
            self.record,
            driver=driver.name,
            bound=bound,
            index=index,
            fuse_adapter=adapter,
            complete=driver.name != "copy",
            served=self._plan.served if driver.name == "fuse" else None,
        )
        self._table.write(self.record)

    def record_completion(self, mounted: Mounted) -> None:
        record = replace(self.record, complete=True, server=mounted.server, served=mounted.served)
        if record != self.record:
            self.record = record
            self._table.write(record)

    def undo(self) -> None:
        # A driver that fails undoes its mount.  This handles a KeyboardInterrupt after the mount,
        # and a FUSE server that was killed after its mount(2).  An incomplete copy is excluded,
        # since the driver empties the target only if it has filled it.
        made = self.record.driver and self.record.complete
        if made and KernelView().is_visible(self.record):
            driver_named(self.record.driver).unmount(self.record, lazy=True)
        if self.record.index is not None:
            from stacker.mount.drivers.erofs import release_index  # most stacks are directories

            release_index(self.record)
        release_served(self.record)


def _remove_incomplete(table: Table, target: Path) -> None:
    """Empty a target where a killed process left a part of a copy; refuse a whole copy."""
    entry = table.find(target)
    if entry is not None and entry.state == "incomplete":
        from stacker.mount.detach import detach

        detach(table, target)
    elif busy := _busy(table, target):
        raise busy


def _record(plan: Plan, image: StackedImage) -> MountRecord:
    status = plan.target.stat()
    layer = plan.layers[0].stat() if plan.is_bind else None
    return MountRecord(
        id=plan.id,
        target=plan.target,
        image=image.id,
        driver="",
        read_only=plan.read_only,
        upper=None if plan.volatile else plan.upper,
        layers=plan.layers,
        bound=None if layer is None else (layer.st_dev, layer.st_ino),
        boot_id=process.boot_id(),
        mount_namespace=process.mount_namespace(),
        target_inode=status.st_ino,
        target_mode=(S_IMODE(status.st_mode), status.st_uid, status.st_gid),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        diff_ids=image.diff_ids,
        chain_id=image.chain_id,
        index=_index_mount(plan),
    )


def _index_mount(plan: Plan) -> IndexMount | None:
    if plan.merged is None:
        return None
    status, point = plan.merged.path.stat(), plan.index_directory or plan.target
    return IndexMount(plan.merged.path, (status.st_dev, status.st_ino), point)


def _shared_point(table: Table, merged: MergedIndex | None) -> Path | None:
    """Return a mount point where an index is mounted already."""
    if merged is None:
        return None
    from stacker.mount.drivers.erofs import is_mount_of  # most stacks are directories

    status = merged.path.stat()
    inode, mounts = (status.st_dev, status.st_ino), mountinfo.read()
    for entry in table.entries():
        index = entry.record.index
        if index is None or (index.path, index.inode) != (merged.path, inode):
            continue
        is_here = entry.record.boot_id == process.boot_id()
        if is_here and is_mount_of(mounts.at(index.point), index):
            return index.point
    return None
