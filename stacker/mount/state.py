"""The state of a recorded mount, as the kernel reports it.

A `MountRecord` comes in; a `State` goes out.  This module writes and clears nothing.

A mount can outlive the command that made it.  Another program can unmount it, it can vanish with a
reboot or with its mount namespace, and it can survive in a copy of our mount namespace.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from stacker.linux import mountinfo, process
from stacker.linux.filesystem import is_tmpfs
from stacker.mount.drivers.fuse import is_dead
from stacker.mount.plan import source_of

if TYPE_CHECKING:
    from stacker.linux.mountinfo import MountTable
    from stacker.mount.record import MountRecord

State = Literal["mounted", "stale", "elsewhere", "busy", "incomplete"]
"""`elsewhere`: in another mount namespace; `busy`: a process is mounting or unmounting it;
`incomplete`: a killed process left a part of a copy."""


class KernelView:
    """What the kernel reports at one moment; it reads other mount namespaces only if needed."""

    @cached_property
    def boot_id(self) -> str:
        """The boot ID of the running kernel."""
        return process.boot_id()

    @cached_property
    def namespace(self) -> int:
        """The inode number of our mount namespace."""
        return process.mount_namespace()

    @cached_property
    def mounts(self) -> MountTable:
        """The mounts in our mount namespace."""
        return mountinfo.read()

    @cached_property
    def others(self) -> dict[int, MountTable | None]:
        """The mounts in every other live mount namespace; ``None`` without permission to read."""
        living = process.live_mount_namespaces()
        return {space: _read(pid) for space, pid in living.items() if space != self.namespace}

    def state(self, record: MountRecord) -> State:
        """Return the state of a recorded mount; the mount table adds `busy`."""
        if self.is_visible(record):
            if not record.complete:
                return "incomplete"
            return "stale" if is_dead(record, self.mounts) else "mounted"
        if record.boot_id == self.boot_id and self._is_elsewhere(record):
            return "elsewhere"
        return "stale"

    def is_visible(self, record: MountRecord) -> bool:
        """Return whether our mount namespace has the mount, with or without its FUSE server."""
        if record.is_directory:
            return self._is_same_directory(record)
        if record.boot_id != self.boot_id:
            return False
        if record.bound is not None:
            return self._is_bound(record, record.bound)
        if record.index is not None and record.is_index:
            from stacker.mount.drivers.erofs import is_mount_of  # most mounts are overlays

            return is_mount_of(self.mounts.at(record.target), record.index)
        return _has_source(self.mounts, record)

    def _is_same_directory(self, record: MountRecord) -> bool:
        # Such a directory survives a reboot, except on a tmpfs, where inode numbers are used again.
        same_boot = record.boot_id == self.boot_id
        if same_boot and self._is_covered(record):
            return True
        try:
            same_inode = record.target.stat().st_ino == record.target_inode
            return same_inode and (same_boot or not is_tmpfs(record.target))
        except OSError:
            return False

    def _is_covered(self, record: MountRecord) -> bool:
        # By the copy's own read-only bind or by another mount; the directory is beneath either.
        own = record.mount_namespace == self.namespace
        return own and self.mounts.at(record.target) is not None

    def _is_bound(self, record: MountRecord, bound: tuple[int, int]) -> bool:
        # A bind mount has no source of its own, so compare the visible directory with the layer.
        if self.mounts.at(record.target) is None:
            return False
        try:
            status = os.stat(record.target)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == bound

    def _is_elsewhere(self, record: MountRecord) -> bool:
        for space, mounts in self.others.items():
            if mounts is None:
                found = space == record.mount_namespace
            elif not record.has_source:
                found = space == record.mount_namespace and _covers(mounts, record)
            else:
                found = _has_source(mounts, record)
            if found:
                return True
        return False


def _has_source(mounts: MountTable, record: MountRecord) -> bool:
    # At any mount point: another program may have moved the mount, or bound it to a second one.
    source = source_of(record.id)
    return any(mount.source == source for mount in mounts.mounts)


def _covers(mounts: MountTable, record: MountRecord) -> bool:
    # A copy without a bind may be on a filesystem that only the other namespace has: assume so.
    return record.is_directory or mounts.at(record.target) is not None


def _read(pid: int) -> MountTable | None:
    try:
        return mountinfo.read(pid)
    except OSError:
        return None
