"""Bind one directory read-only onto another; the overlay and the copy driver use it.

Two directories come in; a mount goes out, or an `OSError` and no mount.  This module must not use
a plan.  The bind mount is private: as a peer of the source's mount it would propagate a mount that
is made inside the target, such as /proc, to the layer (mount_namespaces(7)).
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
"""The kernel interface: ``context`` for fsopen(2) and open_tree(2), ``mount2`` for mount(2),
``auto`` for the former with the latter as fallback."""

# statvfs(3) flags that a user namespace may not clear when it remounts (mount_namespaces(7)).
_LOCKED_FLAGS = {
    os.ST_NOSUID: mountapi.MS_NOSUID,
    os.ST_NODEV: mountapi.MS_NODEV,
    os.ST_NOEXEC: mountapi.MS_NOEXEC,
    os.ST_NOATIME: mountapi.MS_NOATIME,
    os.ST_NODIRATIME: mountapi.MS_NODIRATIME,
    os.ST_RELATIME: mountapi.MS_RELATIME,
}


def bind_read_only(source: Path, target: Path, *, api: Api = "auto") -> None:
    """Bind a directory read-only onto another.

    :raises OSError: from the kernel, with the path that it refuses.
    """
    with FileDescriptor.open_directory(target) as mount_point:
        if api != "mount2":
            try:
                _bind_by_open_tree(source, target, mount_point.number)
            except OSError as error:
                if api == "context" or error.errno != errno.ENOSYS:
                    raise
            else:
                return
        _bind_by_mount2(source, target, mount_point.path)


def _bind_by_open_tree(source: Path, target: Path, mount_point: int) -> None:
    with FileDescriptor(mountapi.open_tree(source)) as tree:
        mountapi.mount_setattr(
            tree.number, set_flags=mountapi.MOUNT_ATTR_RDONLY, propagation=mountapi.MS_PRIVATE
        )
        mountapi.move_mount(tree.number, mount_point, path=target)


def _bind_by_mount2(source: Path, target: Path, mount_point: Path) -> None:
    mountapi.mount(source, mount_point, None, mountapi.MS_BIND)
    try:
        mountapi.mount("none", target, None, mountapi.MS_PRIVATE)
        flags = mountapi.MS_REMOUNT | mountapi.MS_BIND | mountapi.MS_RDONLY
        mountapi.mount("none", target, None, flags | _locked_flags(target))
    except OSError:
        mountapi.umount2(target)
        raise


def _locked_flags(path: Path) -> int:
    present = os.statvfs(path).f_flag
    return sum(flag for seen, flag in _LOCKED_FLAGS.items() if present & seen)
