"""The FUSE driver: a server exposes the merged tree through /dev/fuse.

A plan comes in; a mount goes out, which background processes serve (`stacker.fuse.daemon`) by the
adapter that the plan names.  The code of the server is loaded only when a mount is made.

For a writable mount, the server exposes the merged tree read-only at a mount point of the mount's
own, and the kernel's overlayfs takes the writes above it.  Where the kernel refuses an overlay, the
server handles the writes.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from stacker.errors import MountError, RefusedError, StackerError, UnsupportedError, path_of
from stacker.linux import lock, mountinfo, process
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.plan import source_of
from stacker.mount.unmount import retry, unmount_path

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.fuse.options import FuseWriter, ServedTree
    from stacker.linux.mountinfo import MountTable
    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord

FUSE_DRIVERS = frozenset({"fuse", "fuse-overlayfs"})
"""The drivers whose mounts a server process answers for."""
_DEVICE = "/dev/fuse"
_ATTEMPTS = 3
_SERVER_EXIT_PAUSES = (0.001, 0.005, 0.02, 0.1, 0.4, 1.5)
"""Seconds between checks whether a server has exited."""
_SERVER_EXIT_TIMEOUT = 2000
"""Milliseconds to wait for the end of a server."""
_REFUSALS = {
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.ENODEV,
    errno.ENOSYS,
    errno.ENXIO,
    errno.EPROTO,
}
"""Errors with which another driver may still succeed."""


class FuseDriver:
    """A server of this program, in the caller's mount namespace."""

    name = "fuse"

    def refusal(self, plan: Plan) -> StackerError | None:
        """Return why FUSE is not available, or would expose a wrong tree."""
        if (refusal := _refuse_adapter(plan) or _refuse_passthrough(plan)) is not None:
            return refusal
        if not os.path.exists(_DEVICE):
            return MountError(
                f"FUSE is not available: {_DEVICE} does not exist",
                hint="`modprobe fuse`, or add the device /dev/fuse to the container",
            )
        privileged = process.has_capability(process.CAP_SYS_ADMIN)
        if not _tries_overlay(plan) and (refusal := _refuse_upper(plan)) is not None:
            return refusal
        # An index has no marks; only an upper directory does.
        marked = plan.merged is None or not plan.read_only
        if (
            marked
            and plan.whiteout_format.is_trusted
            and not (privileged and process.in_initial_user_namespace())
        ):
            return MountError(
                f"cannot read the layers: {plan.target}: their opaque marks are trusted.overlay.*"
                " xattrs, which only root can read",
                hint="pull the image into a store of your own (--store)",
            )
        return None if privileged else _refuse_without_helper()

    def mount(self, plan: Plan) -> Mounted:
        """Start the server, and return when the mount answers requests.

        :raises RefusedError: /dev/fuse cannot be used on this machine.
        :raises MountError: a layer or the target cannot be used.
        """
        reason = None
        if plan.served is not None and plan.upper is not None and _tries_overlay(plan):
            try:
                return _mount_overlay(plan, plan.served, plan.upper)
            except RefusedError as error:
                if _writer(plan) == "overlay" or _refuse_upper(plan) is not None:
                    raise
                reason = f"the server handles writes: {error.message}"
        return _mount_served(plan, served_tree(plan), reason)

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Unmount the record's target, and wait until the server has exited.

        The layers, their filesystem and the upper directory are then no longer in use.

        :raises MountError: the mount is in use, or the kernel refuses.
        """
        if record.served is None:
            unmount_fuse(record.target, lazy=lazy)
        else:
            unmount_path(record.target, lazy=lazy)
            release_served(record)
        if lazy:
            return
        if record.server is not None:
            wait_for_process(*record.server)
        if record.upper is not None:
            _wait_for_lock(record.upper)


def _writer(plan: Plan) -> FuseWriter | None:
    return None if plan.fuse is None else plan.fuse.writer


def _tries_overlay(plan: Plan) -> bool:
    """Return whether overlayfs may take the writes of a plan."""
    if plan.served is None or _writer(plan) == "server":
        return False
    return _writer(plan) == "overlay" or process.has_capability(process.CAP_SYS_ADMIN)


def _mount_served(plan: Plan, tree: ServedTree, reason: str | None = None) -> Mounted:
    """Start a server.

    :param reason: what the note says besides the process.
    """
    from stacker.fuse.daemon import start

    try:
        pid, remark = start(tree)
    except OSError as error:
        raise explain(plan, error) from error
    try:
        server = pid, process.start_time(pid)
    except OSError:  # another program has unmounted it already
        server = None
    note = "; ".join(filter(None, (f"process {pid} serves it", remark, reason)))
    return Mounted(FuseDriver.name, note=note, server=server)


def _mount_overlay(plan: Plan, served: Path, upper: Path) -> Mounted:
    """Serve the merged tree read-only, and mount an overlay above it.

    :param served: the mount point of the server; this function creates it.
    :param upper: the directory that receives the writes.
    :raises RefusedError: the kernel refuses one of both.
    """
    from dataclasses import replace

    from stacker.fuse.options import Overlay
    from stacker.mount.drivers.overlay import OverlayDriver

    overlay, above = OverlayDriver(), plan.above(served)
    if (refusal := overlay.refusal(above)) is not None:
        raise RefusedError(refusal.message, hint=refusal.hint)
    served.mkdir(mode=0o700, exist_ok=True)
    tree = replace(
        served_tree(plan),
        target=served,
        source=_source_below(plan.id),
        read_only=True,
        upper=None,
        work=None,
        overlay=Overlay(plan.source, upper),
    )
    try:
        mounted = _mount_served(plan, tree)
        overlay.mount(above)
    except BaseException:
        _unmount_below(served, plan.id)
        served.rmdir()
        raise
    return replace(mounted, note=f"{mounted.note}; overlayfs takes the writes", served=served)


def release_served(record: MountRecord) -> None:
    """Unmount the server below the overlay of a mount that is gone; the overlay has its own copy.

    :raises MountError: the kernel refuses.
    """
    if record.served is not None:
        _unmount_below(record.served, record.id)


def _unmount_below(served: Path, identifier: str) -> None:
    while (top := mountinfo.at(served)) and top.source == _source_below(identifier):
        unmount_path(served, lazy=True)


def _source_below(identifier: str) -> str:
    """Return the source of a server's mount below an overlay, which has `source_of` itself."""
    return f"{source_of(identifier)}:served"


def served_tree(plan: Plan) -> ServedTree:
    """Return the parts of a plan that a server needs."""
    from dataclasses import replace

    from stacker.fuse.options import FuseOptions, ServedTree
    from stacker.tree.whiteout_dialects import ForeignDialect

    options = plan.fuse or FuseOptions()
    if plan.flags:
        options = replace(
            options, mount_options=plan.flags | (options.mount_options or frozenset())
        )
    with_skeleton = {paths.diff: paths for paths in plan.layer_paths}
    written = plan.whiteout_format
    return ServedTree(
        target=plan.target,
        source=plan.source,
        layers=() if plan.merged else tuple(with_skeleton.get(at, at) for at in plan.layers),
        whiteout_format=ForeignDialect(written) if options.foreign else written,
        read_only=plan.read_only,
        upper=plan.upper,
        work=plan.work,
        volatile=plan.volatile,
        options=options,
        merged=plan.merged,
    )


def unmount_fuse(target: Path, *, lazy: bool = False) -> None:
    """Unmount a FUSE mount: by umount2(2) with CAP_SYS_ADMIN, otherwise by fusermount3.

    :raises MountError: the mount is in use, or the kernel refuses.
    """
    if process.has_capability(process.CAP_SYS_ADMIN):
        unmount_path(target, lazy=lazy)
    else:
        from stacker.fuse.connect import disconnect

        disconnect(target, lazy=lazy)


def wait_for_process(pid: int, started: int) -> None:
    """Wait until a supervisor has exited, which waits for its workers.

    If the supervisor has ended, another process may have its PID by now, with another start time.
    If the same mount has a second mount point, also in another mount namespace, the server
    continues, and this function gives up.
    """
    import select

    with suppress(OSError):  # the process is gone
        server = os.pidfd_open(pid)
        try:
            if process.start_time(pid) == started:
                poll = select.poll()
                poll.register(server, select.POLLIN)
                poll.poll(_SERVER_EXIT_TIMEOUT)
        finally:
            os.close(server)


def _wait_for_lock(upper: Path) -> None:
    """Wait until the server has exited, so that the next mount can use the upper directory.

    The server holds a lock on `upper` until it exits.  If the same mount has a second mount point,
    the server continues, and this function gives up after the last pause.
    """

    def exited() -> bool:
        try:
            held = lock.try_exclusive(upper, create=False)
        except OSError:
            return True
        if held is None:
            return False
        held.release()
        return True

    retry(exited, _SERVER_EXIT_PAUSES)


def is_dead(record: MountRecord, mounts: MountTable) -> bool:
    """Return whether a visible mount has lost its server.

    A mount that another one covers counts as alive: its target belongs to the other filesystem,
    which may be dead itself, or never answer.
    """
    if record.driver not in FUSE_DRIVERS:
        return False
    point, source = record.target, source_of(record.id)
    if record.served is not None:
        point, source = record.served, _source_below(record.id)
    top = mounts.at(point)
    return top is not None and top.source == source and not _answers(point)


def _answers(target: Path) -> bool:
    """Return whether a mount answers; statvfs(2) is never answered from a cache."""
    for _ in range(_ATTEMPTS):
        try:
            os.statvfs(target)
        except OSError as error:
            if error.errno != errno.ECONNABORTED:  # the worker died that had read the request
                return error.errno != errno.ENOTCONN
        else:
            return True
    return True


def _refuse_adapter(plan: Plan) -> StackerError | None:
    if plan.fuse is None or plan.fuse.adapter == "kernel":
        return None
    from stacker.fuse.adapters import PYFUSE3_HINT, is_installed

    adapter = plan.fuse.adapter
    if not is_installed(adapter):
        return MountError(
            f"cannot mount by {adapter}: {plan.target}: {adapter} is not installed",
            hint=PYFUSE3_HINT,
        )
    if not plan.read_only or plan.upper is not None:
        return UnsupportedError(
            f"the {adapter} adapter is read-only: {plan.target}",
            hint="omit --fuse-adapter, or omit --rw and --upper",
        )
    return None


def _refuse_passthrough(plan: Plan) -> StackerError | None:
    if plan.fuse is None or not plan.fuse.passthrough:
        return None
    if plan.fuse.adapter != "kernel":
        what = f"the {plan.fuse.adapter} adapter has no passthrough"
    elif not plan.read_only or plan.upper is not None:
        what = "passthrough requires a read-only mount"
    else:
        return None
    return UnsupportedError(f"{what}: {plan.target}", hint="omit --fuse-passthrough")


def _refuse_upper(plan: Plan) -> StackerError | None:
    if plan.merged is None or plan.upper is None or not plan.read_only:
        return None
    return UnsupportedError(
        f"the FUSE driver cannot mount an upper directory read-only: {plan.target}: the layers are"
        " in EROFS form",
        hint="mount it read-write, or use --driver overlay",
    )


def _refuse_without_helper() -> MountError | None:
    from stacker.fuse.connect import find_helper

    if find_helper() is not None:
        return None
    return MountError(
        "no permission to mount by FUSE: this process lacks CAP_SYS_ADMIN, and fusermount3 is not"
        " installed",
        hint="install the package fuse3",
    )


def explain(plan: Plan, error: OSError) -> MountError:
    """Return the error for a failed mount; a `RefusedError` if another driver may succeed."""
    about = path_of(error)
    where = "" if about in {"", str(plan.target)} else f" {about}:"
    message = f"cannot mount by FUSE: {plan.target}:{where} {error.strerror}"
    return (RefusedError if error.errno in _REFUSALS else MountError)(message)
