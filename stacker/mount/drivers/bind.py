"""Binding one directory read-only onto another.

In come a directory and the target's descriptor; out goes a mount, or an `OSError` and no mount.
Knows no plan.  The bind is private: were it a peer of the mount it was cloned from, a /proc that
somebody mounts inside the target would appear inside the layer too (mount_namespaces(7)).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Literal

from stacker.linux import mountapi
from stacker.linux.mountapi import FileDescriptor

if TYPE_CHECKING:
    from pathlib import Path

Api = Literal["auto", "context", "mount2"]
"""Which of the kernel's interfaces to use: ``auto`` takes mount(2) where there is no newer one."""

# statvfs(3) flags that a user namespace may not drop when it remounts (mount_namespaces(7)).
_KEPT = {
    os.ST_NOSUID: mountapi.MS_NOSUID,
    os.ST_NODEV: mountapi.MS_NODEV,
    os.ST_NOEXEC: mountapi.MS_NOEXEC,
    os.ST_NOATIME: mountapi.MS_NOATIME,
    os.ST_NODIRATIME: mountapi.MS_NODIRATIME,
    os.ST_RELATIME: mountapi.MS_RELATIME,
}


def bind_read_only(source: Path, target: Path, *, api: Api = "auto") -> None:
    """Show a directory, read-only, at another.

    :param source: the directory to show.
    :param target: the directory to show it at.
    :raises OSError: with the path that the kernel takes offence at.
    """
    with FileDescriptor.open_directory(target) as place:
        if api != "mount2":
            try:
                _bind_by_tree(source, target, place.number)
            except OSError as error:
                if api == "context" or error.errno != errno.ENOSYS:
                    raise
            else:
                return
        _bind_by_mount2(source, target, place.path)


def _bind_by_tree(source: Path, target: Path, place: int) -> None:
    with FileDescriptor(mountapi.open_tree(source)) as tree:
        mountapi.mount_setattr(
            tree.number, set_flags=mountapi.MOUNT_ATTR_RDONLY, propagation=mountapi.MS_PRIVATE
        )
        mountapi.move_mount(tree.number, place, path=target)


def _bind_by_mount2(source: Path, target: Path, place: Path) -> None:
    mountapi.mount(source, place, None, mountapi.MS_BIND)
    try:
        mountapi.mount("none", target, None, mountapi.MS_PRIVATE)
        flags = mountapi.MS_REMOUNT | mountapi.MS_BIND | mountapi.MS_RDONLY
        mountapi.mount("none", target, None, flags | _kept_flags(target))
    except OSError:
        mountapi.umount2(target)
        raise


def _kept_flags(path: Path) -> int:
    present = os.statvfs(path).f_flag
    return sum(flag for seen, flag in _KEPT.items() if present & seen)
