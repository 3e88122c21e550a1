"""Keep mounts of tests in a mount namespace of their own, unmount them, and make their records."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

from stacker.linux import mountapi, mountinfo
from stacker.mount.record import MountRecord

_CLONE_NEWNS = 0x20000  # include/uapi/linux/sched.h
_MS_REC = 0x4000  # include/uapi/linux/mount.h


@cache
def in_own_namespace() -> bool:
    """Move this process into a mount namespace of its own; return False without the privilege.

    No other program then copies its mounts into another namespace, where they would outlive
    umount(2), and no other program gives them a second mount point.  The main thread must call it,
    since unshare(2) moves a single thread.
    """
    if os.geteuid() != 0 or ctypes.CDLL(None).unshare(_CLONE_NEWNS) != 0:
        return False
    mountapi.mount("none", "/", None, mountapi.MS_PRIVATE | _MS_REC)
    return True


def unmount_below(path: Path) -> None:
    """Detach every mount below a directory, innermost first, even while a process uses it."""
    while inside := mountinfo.read().below(path):
        mountapi.umount2(inside[-1].mount_point, mountapi.MNT_DETACH)


def mount_record(target: Path, **fields: Any) -> MountRecord:
    """Return the record of a read-only overlay mount; ``fields`` replace its values."""
    values: dict[str, Any] = {
        "id": "0123456789abcdef",
        "image": f"sha256:{'0' * 64}",
        "driver": "overlay",
        "read_only": True,
        "upper": None,
        "layers": (),
        "bound": None,
        "boot_id": "",
        "mount_namespace": 0,
        "target_inode": 0,
        "target_mode": (0o755, 0, 0),
        "created": "2024-01-01T00:00:00Z",
    }
    return MountRecord(target=target, **{**values, **fields})
