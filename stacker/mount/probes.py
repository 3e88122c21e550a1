"""Try out what can be mounted, without a mount point: EROFS, overlayfs and FUSE.

A directory comes in, in which the store is or would be; an `Answer` goes out.  The mounts are
attached nowhere and the files have no name (O_TMPFILE): the kernel removes both.  Each function may
block as long as the kernel does: `stacker.linux.probe.run_probes` limits its time.
"""

from __future__ import annotations

import io
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import StackerError
from stacker.linux import mountapi, process
from stacker.linux.features import unnamed_file
from stacker.linux.loop import loop_device
from stacker.linux.mountapi import FileDescriptor
from stacker.linux.probe import Answer
from stacker.mount.drivers.erofs import NEEDS_BLOCK_DEVICE, detached
from stacker.mount.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.mount.drivers.protocol import Driver

_CONTENT: Final = b"stacker\n" * 64  # one block of EROFS
_FILESYSTEMS: Final = Path("/proc/filesystems")
_MODULES: Final = Path("/lib/modules")


def erofs_in_kernel() -> Answer:
    """Return whether the kernel has EROFS, which needs no privilege to find out."""
    if "erofs" in _FILESYSTEMS.read_text(encoding="ascii").split():
        return Answer(works=True, reason="the kernel has EROFS")
    if (_MODULES / os.uname().release / "kernel/fs/erofs").exists():
        return Answer(works=True, reason="EROFS is a module of the kernel")
    return Answer(works=False, reason="the kernel has no EROFS, neither built in nor as a module")


def erofs_from_files(directory: Path) -> Answer:
    """Mount an index from files, as Linux 6.12 and later can, and read a file through it."""
    if refusal := _refuse_erofs():
        return refusal
    with _probe_files(directory) as (image, tar):
        try:
            _read_through(image.path, tar.path)
        except OSError as error:
            if error.errno not in NEEDS_BLOCK_DEVICE:
                raise
            needs = "needs Linux 6.12, and a filesystem such as ext4, xfs or btrfs, not tmpfs"
            return Answer(works=False, reason=f"{needs}: {error.strerror}")
    return Answer(works=True, reason="the kernel mounts the index from files")


def erofs_from_loop_devices(directory: Path) -> Answer:
    """Mount an index from loop devices, and read a file through it."""
    if refusal := _refuse_erofs():
        return refusal
    with (
        _probe_files(directory) as (image, tar),
        loop_device(image.number) as image_device,
        loop_device(tar.number) as tar_device,
    ):
        _read_through(image_device, tar_device)
    return Answer(works=True, reason="the kernel mounts the index through loop devices")


def _refuse_erofs() -> Answer | None:
    if not (process.has_capability(process.CAP_SYS_ADMIN) and process.in_initial_user_namespace()):
        reason = "a mount of EROFS requires CAP_SYS_ADMIN in the initial user namespace"
        return Answer(works=False, reason=reason)
    found = erofs_in_kernel()
    return None if found.works else found


@contextmanager
def _probe_files(directory: Path) -> Iterator[tuple[FileDescriptor, FileDescriptor]]:
    """Yield an index without a name, and the tar that it refers to."""
    with unnamed_file(directory, _index()) as image, unnamed_file(directory, _CONTENT) as tar:
        yield image, tar


def _index() -> bytes:
    from stacker.erofs.inodes import Inodes
    from stacker.erofs.write import Tar, write_image
    from stacker.tar.entry import Meta

    inodes, meta, out = Inodes(), Meta(0o755, 0, 0, 0, 0, None), io.BytesIO()
    root = inodes.add_directory(meta)
    inodes.directories[root][b"file"] = inodes.add(stat.S_IFREG, meta, size=len(_CONTENT), tar=1)
    write_image(out, inodes, root, [Tar(len(_CONTENT))])
    return out.getvalue()


def _read_through(image: Path, tar: Path) -> None:
    """Mount an index nowhere, and read its file.

    :raises OSError: the kernel refuses.
    :raises StackerError: it returns other bytes.
    """
    with (
        FileDescriptor(detached(image, [tar], mountapi.MS_RDONLY)) as mount,
        open(os.open("file", os.O_RDONLY, dir_fd=mount.number), "rb") as file,
    ):
        found = file.read()
    if found != _CONTENT:
        raise StackerError("the kernel reads other bytes through EROFS than the tar has")


def overlay(directory: Path, layers: tuple[Path, ...], whiteout_format: WhiteoutFormat) -> Answer:
    """Mount a read-only overlay.

    :param directory: the target that messages name.
    :param layers: two directories, neither inside the other; with none, only ask whether this
        process could mount an overlay.
    """
    from stacker.mount.drivers.overlay import OverlayDriver, detached

    plan = Plan("probe", directory, layers, whiteout_format)
    if refusal := _refusal(OverlayDriver(), plan):
        return refusal
    if not layers:
        with FileDescriptor(mountapi.fsopen("overlay")):
            return Answer(works=True, reason="the kernel has overlayfs; not tried without a store")
    with FileDescriptor(detached(plan)):
        return Answer(works=True, reason="the kernel stacks directories of the store")


def fuse(directory: Path, whiteout_format: WhiteoutFormat) -> Answer:
    """Open a FUSE connection, and read the kernel's first request.

    Without CAP_SYS_ADMIN only fusermount3 can mount, which needs a mount point: then this function
    checks what fusermount3 needs.

    :param directory: the target that messages name.
    """
    from stacker.mount.drivers.fuse import FuseDriver

    plan = Plan("probe", directory, (directory,), whiteout_format)
    if refusal := _refusal(FuseDriver(), plan):
        return refusal
    with FileDescriptor(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)) as device:
        if not process.has_capability(process.CAP_SYS_ADMIN):
            return _helper()
        return _greet(device.number)


def _refusal(driver: Driver, plan: Plan) -> Answer | None:
    error = driver.refusal(plan)
    return None if error is None else Answer(works=False, reason=error.message)


def _greet(device: int) -> Answer:
    from stacker.fuse.protocol import IN_HEADER, INIT_IN

    options = {
        "source": "stacker:probe",
        "fd": str(device),
        "rootmode": f"{stat.S_IFDIR:o}",
        "user_id": str(os.geteuid()),
        "group_id": str(os.getegid()),
    }
    with FileDescriptor(mountapi.fsopen("fuse")) as context:
        for key, value in options.items():
            mountapi.fsconfig_string(context.number, key, value)
        mountapi.fsconfig_create(context.number)
        with FileDescriptor(mountapi.fsmount(context.number)):
            major, minor, *_ = INIT_IN.unpack_from(os.read(device, 1 << 16), IN_HEADER.size)
    return Answer(works=True, reason=f"the kernel offers FUSE {major}.{minor} to this process")


def _helper() -> Answer:
    from stacker.fuse.connect import find_helper

    path = find_helper() or ""
    status = os.stat(path)
    if status.st_uid != 0 or not status.st_mode & stat.S_ISUID:
        return Answer(works=False, reason=f"{path} is not set-user-ID root")
    if os.statvfs(path).f_flag & os.ST_NOSUID or process.has_no_new_privileges():
        reason = f"this process may not start {path} as root (nosuid or no_new_privs)"
        return Answer(works=False, reason=reason)
    return Answer(works=True, reason=f"{path} mounts FUSE for this user")
