"""Making a mount, from a request to a record: the order of things, and undoing them.

In comes a request, out goes a mount that `Table` knows.  Whatever fails, nothing is left: no
record, no upper, no work directory, no mount.  Knows no store and no image.
"""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from stat import S_IMODE
from typing import TYPE_CHECKING

from stacker.errors import MountError, StackerError
from stacker.linux import process
from stacker.mount.drivers.choose import driver_named, execute
from stacker.mount.drivers.fuse import SERVED
from stacker.mount.record import MountRecord
from stacker.mount.state import KernelView
from stacker.mount.target import claimed, resolve
from stacker.mount.unmount import release
from stacker.mount.upper_directory import prepared, resolve_upper

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.mount.drivers.protocol import Driver, Mounted
    from stacker.mount.plan import Plan, Request
    from stacker.mount.table import Table

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def checked(request: Request, *, forbidden: Path | None = None) -> Request:
    """Return a request whose directories are absolute, free of symlinks, and fit for a mount.

    :param forbidden: the store; neither the target nor the upper directory may overlap it.
    :raises MountError: TARGET or the upper directory cannot be used.
    """
    target = resolve(request.target, forbidden=forbidden)
    upper = request.upper and resolve_upper(request.upper, target, forbidden=forbidden)
    return replace(request, target=target, upper=upper)


def attach(
    table: Table,
    request: Request,
    *,
    image: str,
    driver: str = "auto",
    forbidden: Path | None = None,
) -> tuple[MountRecord, Mounted]:
    """Mount what is requested, and write it down.

    :param table: where mounts are written down.
    :param image: a label for the record.
    :param driver: a driver's name, or ``auto``.
    :param forbidden: as for `checked`.
    :raises UsageError: no such driver.
    :raises MountError: TARGET is unfit, or no driver can; nothing is left behind.
    :raises LockedError: TARGET or the upper directory is in use.
    :raises UnsupportedError: the named driver cannot do what is asked for.
    """
    if driver != "auto":
        driver_named(driver)
    fit = checked(request, forbidden=forbidden)
    with claimed(fit.target):
        try:
            _refuse_copied(table, fit.target)
            return _attach(table, fit, image, driver)
        except StackerError:
            raise
        except OSError as error:
            text = f"cannot mount: {error.filename or fit.target}: {error.strerror}"
            raise (StackerError if error.errno in _DISK else MountError)(text) from error


def _attach(table: Table, request: Request, image: str, driver: str) -> tuple[MountRecord, Mounted]:
    with table.new_room() as room:
        plan = request.plan(room.id, room.path)
        with prepared(plan, room.path):
            tries = _Tries(table, _record(plan, image), plan.fuse_adapter)
            try:
                mounted = execute(driver, plan, tries.announce)
            except BaseException:
                tries.undo()
                raise
            return tries.record, mounted


class _Tries:
    """The record, which names the driver that is being tried before it is."""

    __slots__ = ("_adapter", "_table", "record")

    def __init__(self, table: Table, record: MountRecord, adapter: str) -> None:
        self._table = table
        self._adapter = adapter
        self.record = record

    def announce(self, driver: Driver) -> None:
        # FUSE serves one directory as it does many, where overlay would bind it.
        bound = None if driver.name in SERVED else self.record.bound
        adapter = self._adapter if driver.name == "fuse" else None
        self.record = replace(self.record, driver=driver.name, bound=bound, fuse_adapter=adapter)
        self._table.write(self.record)

    def undo(self) -> None:
        # A driver that fails leaves nothing; this is for a Ctrl-C that arrives when it is done.
        # Never for a copy: it empties the target itself, if it was the one that filled it.
        if self.record.driver not in {"", "copy"} and KernelView().state(self.record) == "mounted":
            release(self.record.target, lazy=True)


def _refuse_copied(table: Table, target: Path) -> None:
    entry = table.find(target)
    if entry is not None and entry.state == "mounted":
        raise MountError(
            f"mount target is busy: {target}: it holds a copy of {entry.record.image}",
            hint=f"stacker umount {target}",
        )


def _record(plan: Plan, image: str) -> MountRecord:
    status = plan.target.stat()
    layer = plan.layers[0].stat()
    return MountRecord(
        id=plan.id,
        target=plan.target,
        image=image,
        driver="",
        read_only=plan.read_only,
        upper=None if plan.volatile else plan.upper,
        layers=plan.layers,
        bound=(layer.st_dev, layer.st_ino) if plan.is_bind else None,
        boot_id=process.boot_id(),
        mount_namespace=process.mount_namespace(),
        target_inode=status.st_ino,
        target_mode=(S_IMODE(status.st_mode), status.st_uid, status.st_gid),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
