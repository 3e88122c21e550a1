"""Undo a mount, and clear the mounts that crashes and reboots left in the table.

A mount point comes in; the entry of the mount goes out.  This module must not use the store.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from stacker.errors import LockedError, MountError, NotFoundError, path_of, shell_word
from stacker.linux import mountinfo, process, safe_path
from stacker.mount.drivers.choose import driver_named
from stacker.mount.drivers.fuse import is_dead, release_served
from stacker.mount.plan import source_of
from stacker.mount.state import KernelView
from stacker.mount.table import Entry, Table
from stacker.mount.upper_directory import remove_work

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.linux.lock import Lock
    from stacker.mount.record import MountRecord
    from stacker.mount.state import State


def detach(
    table: Table, target: Path, *, lazy: bool = False, identifier: str | None = None
) -> Entry:
    """Unmount a target, or clear its entry if it is stale; discard the writes of ``--rw``.

    If the mount has a second mount point, its directories stay until `clear_stale` finds the mount
    gone.  With `lazy`, processes that still use the mount lose these directories.

    :param lazy: detach the mount even while processes use it.
    :param identifier: the ID of the mount; ``None`` for any mount at `target`.
    :returns: the mount, with its state before this call.
    :raises NotFoundError: the table has no mount at `target`.
    :raises MountError: the mount is in use, covered by another mount or in another mount
        namespace, or the kernel refuses.
    :raises LockedError: another process is mounting or unmounting it, or runs a container in it.
    """
    try:
        path = safe_path.resolve(target)
    except OSError as error:
        raise MountError(f"cannot unmount: {target}: {error.strerror}") from error
    entry = table.find(path) if identifier is None else table.entry(identifier)
    if entry is None:
        raise _not_found(target)
    if entry.state == "busy":
        raise LockedError(
            f"mount is in use: {target}: another process is mounting or unmounting it",
            hint="try again",
        )
    with table.locked(entry.record.id, wait=True):
        record = table.read(entry.record.id)
        if record is None:
            raise _not_found(target)
        view = KernelView()
        state = table.state(record, view)
        if record.runtime is not None:
            _require_ended(record, state)
            _end_run(table, record, view)
        _undo(record, state, view, lazy=lazy)
        if record.is_directory or table.state(record, KernelView()) == "stale":
            _discard(table, record)
        return Entry(record, state)


def clear_stale(table: Table) -> list[MountRecord]:
    """Remove the records and writes of stale mounts, and directories without a record.

    Outside of the table, only work directories are removed: the files of a stale copy stay.

    :returns: the removed records.
    :raises MountError: a directory cannot be removed.
    """
    stale = [entry.record for entry in table.entries() if entry.state == "stale"]
    cleared = [record for record in stale if _clear(table, record)]
    for identifier in table.abandoned():
        with suppress(LockedError), table.locked(identifier):
            if table.read(identifier) is None:  # another process may have written it meanwhile
                table.remove(identifier)
    return cleared


def recover(table: Table, target: Path) -> bool:
    """Clear stale mounts, and an incomplete copy on a target.

    :returns: whether there was one.
    :raises MountError: one of them cannot be cleared.
    """
    stale = clear_stale(table)
    entry = table.find(safe_path.resolve(target))
    if entry is None or entry.state != "incomplete":
        return bool(stale)
    detach(table, target)
    return True


def end_run(table: Table, record: MountRecord, held: Lock, *, keep: bool = False) -> None:
    """Unmount what `attach_for_run` mounted, after its processes have ended.

    :param held: the lock of `Table.hold_for_run`; it is released.
    :param keep: keep the mount and its writes, until `detach`.
    :raises MountError: a directory cannot be removed.
    """
    with table.locked(record.id, wait=True), held:
        if keep:
            table.write(replace(record, runtime=None))
            return
        _unmount_run(record, KernelView())
        _discard(table, record)


def _require_ended(record: MountRecord, state: State) -> None:
    if state != "stale":
        raise LockedError(
            f"mount is in use: {record.target}: a container runs in it",
            hint="end its process first",
        )


def _end_run(table: Table, record: MountRecord, view: KernelView) -> None:
    """Undo the run of a command that was killed."""
    if record.runtime:
        from stacker.runtime.oci import Runtime  # most mounts have no container

        Runtime(record.runtime, table.directory / record.id).delete()
    table.kill_process(record.id)  # it may have refused to end with its command
    _unmount_run(record, view)


def _unmount_run(record: MountRecord, view: KernelView) -> None:
    if view.is_visible(record):
        driver = driver_named(record.driver)
        try:
            driver.unmount(record)
        except MountError:  # a process of the host uses it
            driver.unmount(record, lazy=True)


def _clear(table: Table, record: MountRecord) -> bool:
    with suppress(LockedError), table.locked(record.id):
        # Checked again under the lock: another process may have finished or removed the mount.
        view = KernelView()
        if table.read(record.id) == record and table.state(record, view) == "stale":
            if record.runtime is not None:
                _end_run(table, record, view)
            elif is_dead(record, view.mounts):
                _unmount_dead(record)
            _discard(table, record)
            return True
    return False


def _undo(record: MountRecord, state: State, view: KernelView, *, lazy: bool) -> None:
    if state == "elsewhere":
        raise _elsewhere(record)
    if is_dead(record, view.mounts):
        _unmount_dead(record)
    if state in {"mounted", "incomplete"}:
        _refuse_covered(record)
        driver_named(record.driver).unmount(record, lazy=lazy)


def _unmount_dead(record: MountRecord) -> None:
    """Detach a mount without a server; processes that use it already get errors."""
    _refuse_covered(record)
    driver_named(record.driver).unmount(record, lazy=True)


def _refuse_covered(record: MountRecord) -> None:
    """Refuse to unmount another program's mount in place of this one."""
    if not record.has_source:
        return
    table = mountinfo.read()
    top, source = table.at(record.target), source_of(record.id)
    if top is None:
        moved = [m.mount_point for m in table.mounts if m.source == source]
        text = (
            f"cannot unmount: {record.target}: the mount was moved to {', '.join(map(str, moved))}"
        )
        raise MountError(text, hint=f"umount {' '.join(map(shell_word, moved))}")
    if top.source != source:
        text = f"cannot unmount: {record.target}: {top.fstype} {top.source} is mounted over it"
        word = shell_word(record.target)
        raise MountError(text, hint=f"umount {word} && stacker umount {word}")


def _elsewhere(record: MountRecord) -> MountError:
    inside = process.live_mount_namespaces().get(record.mount_namespace)
    enter = f"nsenter --mount --target {inside} " if inside else ""
    return MountError(
        f"cannot unmount: {record.target}: it is mounted in another mount namespace",
        hint=f"in that namespace: {enter}umount {shell_word(record.target)}",
    )


def _not_found(target: Path) -> NotFoundError:
    return NotFoundError(
        f"nothing to unmount: {target}: got no mount of stacker, want one",
        hint="`stacker mounts` lists the mounts",
    )


def _discard(table: Table, record: MountRecord) -> None:
    try:
        if record.upper is not None:
            remove_work(record.upper, table.directory / record.id)
        if record.index is not None:
            from stacker.mount.drivers.erofs import release_index  # most mounts have none

            release_index(record)
        release_served(record)
        table.remove(record.id)
    except OSError as error:
        text = f"cannot clear a mount: {path_of(error) or record.target}: {error.strerror}"
        raise MountError(text) from error
