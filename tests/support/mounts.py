"""Unmount what a test mounted, even after the test failed."""

from __future__ import annotations

from pathlib import Path

from stacker.linux import mountapi, mountinfo


def unmount_below(path: Path) -> None:
    """Detach every mount below a directory, innermost first, even while a process uses it."""
    while inside := mountinfo.read().below(path):
        mountapi.umount2(inside[-1].mount_point, mountapi.MNT_DETACH)
