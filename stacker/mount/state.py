"""Whether a recorded mount is still there, as the kernel tells it.

In come records, out go words.  Nothing is written and nothing is cleared here.  A mount can
outlive the command that made it, be undone behind our back, vanish with a reboot or with its
mount namespace, or live on in a namespace that was copied from ours.
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

State = Literal["mounted", "stale", "elsewhere", "busy"]
"""`elsewhere`: in a mount namespace that is not ours; `busy`: being made or undone right now."""


class KernelView:
    """What the kernel says at one moment; other namespaces are only asked about when need be."""

    @cached_property
    def boot_id(self) -> str:
        """The boot we are in."""
        return process.boot_id()

    @cached_property
    def namespace(self) -> int:
        """Our mount namespace."""
        return process.mount_namespace()

    @cached_property
    def mounts(self) -> MountTable:
        """What is mounted in our namespace."""
        return mountinfo.read()

    @cached_property
    def others(self) -> dict[int, MountTable | None]:
        """What is mounted in the other living namespaces; ``None`` where we may not look."""
        living = process.live_mount_namespaces()
        return {space: _read(pid) for space, pid in living.items() if space != self.namespace}

    def state(self, record: MountRecord) -> State:
        """Say how a recorded mount is; `busy` is not for the kernel to know."""
        if self._shows(record):
            return "stale" if is_dead(record) else "mounted"
        if record.boot_id == self.boot_id and self._is_elsewhere(record):
            return "elsewhere"
        return "stale"

    def _shows(self, record: MountRecord) -> bool:
        if record.driver == "copy":
            return self._is_copied(record)
        if record.boot_id != self.boot_id:
            return False
        if record.bound is not None:
            return self._is_bound(record, record.bound)
        return _has_source(self.mounts, record)

    def _is_copied(self, record: MountRecord) -> bool:
        # A copy outlives a reboot, but not on a tmpfs, whose inode numbers start over.
        here = record.boot_id == self.boot_id
        if here and self._is_covered(record):
            return True
        try:
            same = record.target.stat().st_ino == record.target_inode
            return same and (here or not is_tmpfs(record.target))
        except OSError:
            return False

    def _is_covered(self, record: MountRecord) -> bool:
        # Its own read-only bind, or somebody's mount over it: either way the copy is beneath.
        own = record.mount_namespace == self.namespace
        return own and self.mounts.at(record.target) is not None

    def _is_bound(self, record: MountRecord, bound: tuple[int, int]) -> bool:
        # A bind has no source of its own, so the directory that shows must be the layer.
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
            elif record.driver == "copy" or record.bound is not None:
                found = space == record.mount_namespace and _covers(mounts, record)
            else:
                found = _has_source(mounts, record)
            if found:
                return True
        return False


def _has_source(mounts: MountTable, record: MountRecord) -> bool:
    # Wherever it is: somebody may have moved it, or bound it to a second place.
    source = source_of(record.id)
    return any(mount.source == source for mount in mounts.mounts)


def _covers(mounts: MountTable, record: MountRecord) -> bool:
    # An unbound copy on a filesystem that only the other namespace sees: assume it is there.
    return record.driver == "copy" or mounts.at(record.target) is not None


def _read(pid: int) -> MountTable | None:
    try:
        return mountinfo.read(pid)
    except OSError:
        return None
