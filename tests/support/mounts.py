"""What a test mounted, taken away whatever became of it."""

from __future__ import annotations

from pathlib import Path

from stacker.linux import mountapi, mountinfo


def unmount_below(path: Path) -> None:
    """Detach every mount below a directory, the innermost first, those in daemons' use as well."""
    while inside := mountinfo.read().below(path):
        mountapi.umount2(inside[-1].mount_point, mountapi.MNT_DETACH)
