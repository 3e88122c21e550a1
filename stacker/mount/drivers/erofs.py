"""Mount a merged index: one EROFS over the tars of all layers (filesystems/erofs.rst).

A :class:`~stacker.layer.paths.MergedIndex` comes in; a mount goes out.  The kernel reads the image
and the tars as files (Linux 6.12), or through loop devices, which files on tmpfs need.  A second
mount of the same index is a bind mount of the first one, so that both share the page cache.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from stacker.linux import mountapi, mountinfo
from stacker.linux.loop import backing_inode, loop_device
from stacker.linux.mountapi import FileDescriptor
from stacker.linux.process import boot_id
from stacker.mount.record import IndexMount
from stacker.mount.unmount import unmount_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stacker.layer.paths import MergedIndex
    from stacker.linux.mountinfo import MountInfo
    from stacker.mount.record import MountRecord

NEEDS_BLOCK_DEVICE: Final = frozenset({errno.ENOTBLK, errno.EINVAL, errno.EOPNOTSUPP})
"""The errors of a kernel or a filesystem that has no mounts of EROFS from files."""
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def mount_index(
    merged: MergedIndex, target: Path, *, attributes: int, shared: Path | None = None
) -> None:
    """Mount an index read-only.

    :param target: the mount point, an existing directory.
    :param attributes: ``MS_RDONLY`` with ``MS_NOSUID``, ``MS_NODEV`` and ``MS_NOEXEC``.
    :param shared: a mount point where the same index was mounted a moment ago.
    :raises OSError: from the kernel, with the path that it refuses.
    """
    attributes |= mountapi.MS_RDONLY
    with (
        FileDescriptor.open_directory(target) as mount_point,
        FileDescriptor(_open_mount(merged, attributes, shared)) as mount,
    ):
        mountapi.mount_setattr(mount.number, set_flags=attributes, propagation=mountapi.MS_PRIVATE)
        mountapi.move_mount(mount.number, mount_point.number, path=target)


def _open_mount(merged: MergedIndex, attributes: int, shared: Path | None) -> int:
    if shared is not None and (mount := _cloned(merged, shared)) is not None:
        return mount
    try:
        return _from_files(merged, attributes)
    except OSError as error:
        if error.errno not in NEEDS_BLOCK_DEVICE:
            raise
        try:
            return _from_loop_devices(merged, attributes)
        except OSError:
            raise error from None


def _cloned(merged: MergedIndex, shared: Path) -> int | None:
    """Return a copy of the mount at a mount point; ``None`` unless the index is mounted there.

    Another process may have unmounted the index, or mounted another image in its place.
    """
    status = merged.path.stat()
    index = IndexMount(merged.path, (status.st_dev, status.st_ino), shared)
    try:
        with FileDescriptor.open_directory(shared) as found:
            if is_mount_of(mountinfo.of_descriptor(found.number), index):
                return mountapi.open_tree(found.path)
    except OSError:  # the other process has removed the mount point, too
        return None
    return None


def _from_files(merged: MergedIndex, attributes: int) -> int:
    with ExitStack() as opened:
        # Long paths exceed the limit of fsconfig(2), and a descriptor has a short one.
        files = [opened.enter_context(FileDescriptor(os.open(tar, _READ))) for tar in merged.tars]
        return detached(merged.path, [file.path for file in files], attributes)


def _from_loop_devices(merged: MergedIndex, attributes: int) -> int:
    with ExitStack() as opened:
        devices = []
        for path in (merged.path, *merged.tars):
            with FileDescriptor(os.open(path, _READ)) as file:
                devices.append(opened.enter_context(loop_device(file.number)))
        return detached(devices[0], devices[1:], attributes)


def detached(source: Path, tars: Sequence[Path], attributes: int) -> int:
    """Return a mount of an image that is mounted nowhere; the caller closes it.

    The tars are read through their page cache, and not with the option ``directio``.  Thus a page
    of a file can be in memory twice, but the kernel reads ahead in the tar: without that, each
    small file waits for the disk.

    :param source: the image, a file or a block device, as `tars` are.
    :raises OSError: from the kernel, with its message.
    """
    with FileDescriptor(mountapi.fsopen("erofs")) as context:
        mountapi.fsconfig_string(context.number, "source", source)
        for tar in tars:
            mountapi.fsconfig_string(context.number, "device", tar)
        mountapi.fsconfig_flag(context.number, "ro")  # a read-only device requires it
        mountapi.fsconfig_create(context.number)
        return mountapi.fsmount(context.number, attributes=attributes)


def is_mount_of(mount: MountInfo | None, index: IndexMount) -> bool:
    """Return whether a mount is an EROFS of a recorded index, which a repair may have moved."""
    if mount is None or mount.fstype != "erofs":
        return False
    return mount.source == str(index.path) or backing_inode(mount.source) == index.inode


def release_index(record: MountRecord) -> None:
    """Unmount the index below the overlay of a mount that is gone; the overlay has its own copy.

    :raises MountError: the kernel refuses.
    """
    index = record.index
    if index is None or record.is_index or record.boot_id != boot_id():
        return
    while is_mount_of(mountinfo.at(index.point), index):
        unmount_path(index.point, lazy=True)
