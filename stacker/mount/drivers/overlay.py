"""The overlay driver: the kernel stacks the layers (Documentation/filesystems/overlayfs.rst).

A plan comes in; a mount goes out.  The same code serves root in the initial user namespace and
root in another one; they need different whiteout formats, which `OverlayDriver.refusal` checks.  A
single plain layer is bind-mounted, without an overlay; the copy driver binds its target too.

A bind mount is private: as a peer of the source's mount it would propagate a mount that is made
inside the target, such as /proc, to the layer (mount_namespaces(7)).
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

from stacker.errors import MountError, RefusedError, StackerError, UnsupportedError, path_of
from stacker.linux import mountapi, process
from stacker.linux.mountapi import FileDescriptor
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.unmount import unmount_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord

Api = Literal["auto", "context", "mount2"]
"""The kernel interface: ``context`` is fsopen(2) and open_tree(2), and ``mount2`` is mount(2).
``auto`` tries ``context`` first."""

# statvfs(3) flags that a user namespace may not clear when it remounts (mount_namespaces(7)).
_LOCKED_FLAGS = {
    os.ST_NOSUID: mountapi.MS_NOSUID,
    os.ST_NODEV: mountapi.MS_NODEV,
    os.ST_NOEXEC: mountapi.MS_NOEXEC,
    os.ST_NOATIME: mountapi.MS_NOATIME,
    os.ST_NODIRATIME: mountapi.MS_NODIRATIME,
    os.ST_RELATIME: mountapi.MS_RELATIME,
}
_PAGE_LIMIT = 4095
# fsopen(2) needs Linux 5.2, `lowerdir+` Linux 6.8 (overlayfs.rst); seccomp filters return EPERM.
_OLD_KERNEL = {errno.ENOSYS, errno.EINVAL, errno.EPERM}
_REFUSALS = {
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.ENODEV,
    errno.ENOSYS,
    errno.ENOTBLK,
    errno.EOPNOTSUPP,
}
_PRIVILEGE_HINT = (
    "run as root, or inside `unshare --user --map-root-user --mount`, or use --driver copy"
)
_HINTS = {
    errno.EPERM: _PRIVILEGE_HINT,
    errno.EACCES: _PRIVILEGE_HINT,
    errno.ENODEV: "the kernel has no overlayfs: try `modprobe overlay`, or use --driver copy",
    errno.ELOOP: "a layer is listed twice, or is inside another one or the upper directory",
    errno.E2BIG: "use --driver copy, or Linux 6.8 or later, which has no such limit",
}
_UPPER_HINT = (
    "the upper directory must be on a filesystem with extended attributes and d_type, such as"
    " ext4, xfs, btrfs or tmpfs, not on an overlay or NFS; see the kernel log"
)


class OverlayDriver:
    """The kernel's overlayfs, or a bind mount of a single plain layer.

    :param api: the kernel interface.
    """

    name = "overlay"

    def __init__(self, api: Api = "auto") -> None:
        self._api = api

    def refusal(self, plan: Plan) -> StackerError | None:
        """Return why the kernel would refuse, or would expose a wrong tree."""
        if len(plan.layers) > mountapi.OVERLAY_MAX_LAYERS:
            return UnsupportedError(
                f"too many layers for overlayfs: {plan.target}: got {len(plan.layers)},"
                f" want at most {mountapi.OVERLAY_MAX_LAYERS}",
                hint="use --driver fuse or --driver copy",
            )
        if not process.has_capability(process.CAP_SYS_ADMIN):
            return MountError(
                f"no permission to mount: {plan.target}: this process lacks CAP_SYS_ADMIN",
                hint=_PRIVILEGE_HINT,
            )
        readable = plan.is_bind or plan.merged is not None or process.in_initial_user_namespace()
        if plan.whiteout_format.is_trusted and not readable:
            return MountError(
                f"cannot mount in a user namespace: {plan.target}: the opaque marks of the layers"
                " are trusted.overlay.* xattrs, which only the initial user namespace can read",
                hint="pull the image into a store inside the user namespace, or use --driver copy",
            )
        return None

    def mount(self, plan: Plan) -> Mounted:
        """Mount an overlay, bind the only layer, or mount the index of all layers.

        :raises RefusedError: the kernel refuses; the message has the reason.
        :raises MountError: a layer or the target cannot be used.
        """
        try:
            if plan.is_index:
                _mount_index(plan, plan.target)
                return Mounted(self.name, note="an EROFS mount of the merged index")
            if plan.is_bind:
                bind_read_only(
                    plan.layers[0], plan.target, api=self._api, attributes=plan.attributes
                )
                return Mounted(self.name, note="a bind mount of the only layer")
            with _index_below(plan):
                self._mount_overlay(plan)
        except OSError as error:
            raise _explain(plan, error) from error
        in_user_namespace = not process.in_initial_user_namespace()
        return Mounted(self.name, note="in a user namespace" if in_user_namespace else None)

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Unmount the record's target.

        :raises MountError: the mount is in use, or the kernel refuses.
        """
        unmount_path(record.target, lazy=lazy)

    def _mount_overlay(self, plan: Plan) -> None:
        with FileDescriptor.open_directory(plan.target) as target:
            if self._api == "mount2":
                _mount_by_mount2(plan, target)
                return
            try:
                _mount_by_context(plan, target)
            except OSError as error:
                if self._api == "context" or error.errno not in _OLD_KERNEL:
                    raise
                _fall_back_to_mount2(plan, target, error)


def _mount_index(plan: Plan, point: Path) -> None:
    from stacker.mount.drivers.erofs import mount_index  # most stacks are directories

    if plan.merged is not None:
        mount_index(plan.merged, point, attributes=plan.attributes, shared=plan.shared)


@contextmanager
def _index_below(plan: Plan) -> Iterator[None]:
    """Mount the index that an overlay needs, and unmount it if the block fails."""
    point = plan.index_directory
    if point is None:
        yield
        return
    _mount_index(plan, point)
    try:
        yield
    except BaseException:
        mountapi.umount2(point, mountapi.UMOUNT_NOFOLLOW | mountapi.MNT_DETACH)
        raise


def _fall_back_to_mount2(plan: Plan, target: FileDescriptor, first: OSError) -> None:
    """Try mount(2); if it fails too, raise an error with both reasons."""
    try:
        _mount_by_mount2(plan, target)
    except OSError as second:
        if second.errno == first.errno:
            raise first from None
        text = f"{first.strerror}; by mount(2): {second.strerror}"
        raise OSError(first.errno, text, first.filename) from None


def _mount_by_context(plan: Plan, target: FileDescriptor) -> None:
    with FileDescriptor(detached(plan)) as mount:
        _check_writable(plan, os.fstatvfs(mount.number).f_flag)
        mountapi.move_mount(mount.number, target.number, path=plan.target)


def detached(plan: Plan) -> int:
    """Return an overlay that is mounted nowhere; the caller closes it.

    :raises OSError: from the kernel, with its message.
    """
    with FileDescriptor(mountapi.fsopen("overlay")) as context:
        _configure(plan, context.number)
        mountapi.fsconfig_create(context.number)
        return mountapi.fsmount(context.number, attributes=plan.attributes)


def _configure(plan: Plan, context: int) -> None:
    mountapi.fsconfig_string(context, "source", plan.source)
    for key, value in plan.parameters():
        if value is None:
            mountapi.fsconfig_flag(context, key)
        else:
            mountapi.fsconfig_string(context, key, value)
    for layer in plan.layers:
        _set_directory(context, "lowerdir+", layer)
    if plan.upper is not None and plan.work is not None:
        by_path = plan.volatile  # another user may own a directory above a persistent one
        _set_directory(context, "upperdir", plan.upper, by_path=by_path)
        _set_directory(context, "workdir", plan.work, by_path=by_path)


def _set_directory(context: int, key: str, path: Path, *, by_path: bool = True) -> None:
    """Set an option to a directory's path where that is safe, otherwise to a descriptor.

    The kernel limits a string to `FSCONFIG_STRING_LIMIT` bytes.  Whether colons and backslashes
    are escapes differs between kernels and between options.
    """
    name = os.fsencode(path)
    if (
        by_path
        and len(name) <= mountapi.FSCONFIG_STRING_LIMIT
        and not (b":" in name or b"\\" in name)
    ):
        mountapi.fsconfig_string(context, key, path)
        return
    with FileDescriptor.open_directory(path) as directory:
        try:
            mountapi.fsconfig_fd(context, key, directory.number)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EBADF}:  # before Linux 6.13
                raise
            mountapi.fsconfig_string(context, key, directory.path)


def _mount_by_mount2(plan: Plan, target: FileDescriptor) -> None:
    with ExitStack() as opened:
        options = os.fsencode(",".join(_mount2_options(plan, opened)))
        if len(options) > _PAGE_LIMIT:
            raise OSError(
                errno.E2BIG,
                f"got {len(options)} bytes of mount options for {len(plan.layers)} layers,"
                f" want at most {_PAGE_LIMIT}, the limit of mount(2)",
            )
        mountapi.mount(plan.source, target.path, "overlay", plan.attributes, options)
    try:
        with FileDescriptor.open_directory(plan.target) as mounted:
            _check_writable(plan, os.statvfs(mounted.path).f_flag)
    except OSError:
        mountapi.umount2(plan.target)
        raise


def _mount2_options(plan: Plan, opened: ExitStack) -> list[str]:
    """Name each directory by a descriptor, whose path is short and needs no escapes."""

    def name(path: Path) -> str:
        return str(opened.enter_context(FileDescriptor.open_directory(path)).path)

    options = ["lowerdir=" + ":".join(name(layer) for layer in plan.layers)]
    if plan.upper is not None and plan.work is not None:
        options += [f"upperdir={name(plan.upper)}", f"workdir={name(plan.work)}"]
    for key, value in plan.parameters():
        if key != "volatile":  # Linux 5.10 introduced it, and it is optional
            options.append(key if value is None else f"{key}={value}")
    return options


def _check_writable(plan: Plan, flags: int) -> None:
    # If overlayfs cannot use the work directory, it logs a warning and mounts read-only.
    if flags & os.ST_RDONLY and not plan.read_only:
        text = "the kernel mounted the overlay read-only, because it cannot use the work directory"
        raise OSError(errno.EINVAL, text, str(plan.work))


def _explain(plan: Plan, error: OSError) -> MountError:
    number = error.errno or 0
    about = path_of(error)
    where = "" if about in {"", str(plan.target)} else f" {about}:"
    message = f"cannot mount an overlay: {plan.target}:{where} {error.strerror}"
    hint = _HINTS.get(number)
    if number == errno.EINVAL and plan.upper is not None:
        hint = _UPPER_HINT
    kind = RefusedError if number in _REFUSALS else MountError
    return kind(message, hint=hint)


def bind_read_only(
    source: Path, target: Path, *, api: Api = "auto", attributes: int = mountapi.MS_RDONLY
) -> None:
    """Bind a directory read-only onto another.

    :param attributes: ``MS_RDONLY``, and any of ``MS_NOSUID``, ``MS_NODEV`` and ``MS_NOEXEC``.
    :raises OSError: from the kernel, with the path that it refuses.
    """
    with FileDescriptor.open_directory(target) as mount_point:
        if api != "mount2":
            try:
                _bind_by_open_tree(source, target, mount_point.number, attributes)
            except OSError as error:
                if api == "context" or error.errno != errno.ENOSYS:
                    raise
            else:
                return
        _bind_by_mount2(source, target, mount_point.path, attributes)


def _bind_by_open_tree(source: Path, target: Path, mount_point: int, attributes: int) -> None:
    with FileDescriptor(mountapi.open_tree(source)) as tree:
        mountapi.mount_setattr(tree.number, set_flags=attributes, propagation=mountapi.MS_PRIVATE)
        mountapi.move_mount(tree.number, mount_point, path=target)


def _bind_by_mount2(source: Path, target: Path, mount_point: Path, attributes: int) -> None:
    mountapi.mount(source, mount_point, None, mountapi.MS_BIND)
    try:
        with FileDescriptor.open_directory(target) as mounted:
            if not os.path.samefile(mounted.path, source):
                raise OSError(errno.ESTALE, "another process replaced it", str(target))
            mountapi.mount("none", mounted.path, None, mountapi.MS_PRIVATE)
            flags = mountapi.MS_REMOUNT | mountapi.MS_BIND | attributes
            mountapi.mount("none", mounted.path, None, flags | _locked_flags(mounted.path))
    except OSError:
        mountapi.umount2(target)
        raise


def _locked_flags(path: Path) -> int:
    present = os.statvfs(path).f_flag
    return sum(flag for seen, flag in _LOCKED_FLAGS.items() if present & seen)
