"""Undoing a mount, and clearing what crashes and reboots left behind.

In comes a target, out goes what became of it.  Knows no store and no image.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import LockedError, MountError, NotFoundError
from stacker.linux import mountinfo, process
from stacker.mount.drivers.choose import driver_named
from stacker.mount.drivers.fuse import is_dead
from stacker.mount.plan import source_of
from stacker.mount.state import KernelView
from stacker.mount.table import Entry, Table
from stacker.mount.upper_directory import release_work

if TYPE_CHECKING:
    from stacker.mount.record import MountRecord
    from stacker.mount.state import State


def detach(table: Table, target: Path, *, lazy: bool = False) -> Entry:
    """Undo the mount at a target, or clear it if it is stale; its thrown-away writes go too.

    A detached mount whose tree somebody still shows elsewhere keeps its directories until
    `clear_stale` finds it gone; with `lazy`, processes that still use it lose them.

    :param lazy: do so even while it is in use.
    :returns: the mount, with the state in which it was found.
    :raises NotFoundError: nothing of this table is mounted there.
    :raises MountError: it is in use, covered, elsewhere, or the kernel refuses.
    :raises LockedError: somebody else is making or undoing it.
    """
    path = Path(os.path.realpath(target))
    entry = table.find(path)
    if entry is None:
        raise _not_found(target)
    if entry.state == "busy":
        raise LockedError(f"mount is being made or undone: {target}", hint="try again")
    with table.held(entry.record.id, wait=True):
        record = table.read(entry.record.id)
        if record is None:
            raise _not_found(target)
        state = KernelView().state(record)
        _undo(record, state, lazy=lazy)
        if record.driver == "copy" or KernelView().state(record) == "stale":
            _discard(table, record)
        return Entry(record, state)


def clear_stale(table: Table) -> list[MountRecord]:
    """Remove the records and writes of mounts that are gone, and rooms that were never used.

    A stale copy is only forgotten: nothing is removed outside the table but work directories.

    :returns: the records that were removed.
    :raises MountError: something cannot be removed.
    """
    stale = [entry.record for entry in table.entries() if entry.state == "stale"]
    cleared = [record for record in stale if _clear(table, record)]
    for identifier in table.abandoned():
        with suppress(LockedError), table.held(identifier):
            if table.read(identifier) is None:  # it was not: somebody had just begun to use it
                table.remove(identifier)
    return cleared


def _clear(table: Table, record: MountRecord) -> bool:
    with suppress(LockedError), table.held(record.id):
        # Asked again under the lock: what looked stale may have just been finished or removed.
        if table.read(record.id) == record and KernelView().state(record) == "stale":
            if is_dead(record):
                _bury(record)
            _discard(table, record)
            return True
    return False


def _undo(record: MountRecord, state: State, *, lazy: bool) -> None:
    if state == "elsewhere":
        raise _elsewhere(record)
    if is_dead(record):
        _bury(record)
    if state == "mounted":
        _refuse_covered(record)
        driver_named(record.driver).unmount(record, lazy=lazy)


def _bury(record: MountRecord) -> None:
    """Take away a mount that nobody answers for any more; whoever uses it gets errors already."""
    _refuse_covered(record)
    driver_named(record.driver).unmount(record, lazy=True)


def _refuse_covered(record: MountRecord) -> None:
    """Refuse to take away somebody else's mount in place of ours."""
    if record.driver == "copy" or record.bound is not None:
        return
    table = mountinfo.read()
    top, source = table.at(record.target), source_of(record.id)
    if top is None:
        places = ", ".join(str(m.mount_point) for m in table.mounts if m.source == source)
        text = f"cannot unmount: {record.target}: the mount is at {places} by now"
        raise MountError(text, hint=f"umount {places}")
    if top.source != source:
        text = f"cannot unmount: {record.target}: {top.fstype} {top.source} is mounted over it"
        raise MountError(text, hint="unmount that first")


def _elsewhere(record: MountRecord) -> MountError:
    inside = process.live_mount_namespaces().get(record.mount_namespace)
    enter = f"nsenter --mount --target {inside} " if inside else ""
    return MountError(
        f"cannot unmount: {record.target}: it is mounted in another mount namespace",
        hint=f"there: {enter}umount {record.target}",
    )


def _not_found(target: Path) -> NotFoundError:
    return NotFoundError(
        f"nothing to unmount: {target}: stacker has mounted nothing there", hint="stacker mounts"
    )


def _discard(table: Table, record: MountRecord) -> None:
    try:
        if record.upper is not None:
            release_work(record.upper, table.directory / record.id)
        table.remove(record.id)
    except OSError as error:
        text = f"cannot clear a mount: {error.filename or record.target}: {error.strerror}"
        raise MountError(text) from error
