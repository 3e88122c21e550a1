"""The FUSE driver: the merged tree through /dev/fuse, where the kernel will not stack it.

In comes a plan, out goes a mount that processes in the background answer for (`fuse_daemon`), by
the adapter that the plan names (`fuse_service`).
Light to import: what serves a mount is loaded when one is made.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from stacker.errors import MountError, StackerError, UnsupportedError
from stacker.linux import lock, process
from stacker.mount.drivers.protocol import Mounted, RefusedError
from stacker.mount.unmount import release

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord

SERVED = frozenset({"fuse", "fuse-overlayfs"})
"""Drivers whose mounts are a process's to answer for."""
_DEVICE = "/dev/fuse"
_ATTEMPTS = 3
_PAUSES = (0.001, 0.005, 0.02, 0.1, 0.4, 1.5)
"""Seconds between looks at whether a server has left."""
_ANOTHER_DRIVER_MAY = {
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.ENODEV,
    errno.ENOSYS,
    errno.ENXIO,
    errno.EPROTO,
}


class FuseDriver:
    """The tree by a server of its own, in the caller's mount namespace."""

    name = "fuse"

    def refusal(self, plan: Plan) -> StackerError | None:
        """Say that there is no FUSE here, or that it would show a wrong tree."""
        if (refusal := _no_adapter(plan) or _no_passthrough(plan)) is not None:
            return refusal
        if not os.path.exists(_DEVICE):
            return MountError(
                f"no FUSE here: {_DEVICE} does not exist",
                hint="`modprobe fuse`, or give the container the device /dev/fuse",
            )
        privileged = process.has_capability(process.CAP_SYS_ADMIN)
        if plan.xattr_namespace == "trusted" and not (
            privileged and process.in_initial_user_namespace()
        ):
            return MountError(
                f"cannot read the layers: {plan.target}: they keep their marks in"
                " trusted.overlay.*, which only root sees",
                hint="use a store of your own",
            )
        return None if privileged else _no_helper()

    def mount(self, plan: Plan) -> Mounted:
        """Start the server, and return when the mount answers.

        :raises RefusedError: /dev/fuse cannot be used here.
        :raises MountError: a layer or the target is at fault.
        """
        from stacker.fuse.daemon import start

        try:
            number, more = start(plan)
        except OSError as error:
            raise explain(plan, error) from error
        note = f"process {number} serves it"
        return Mounted(self.name, note=f"{note}; {more}" if more else note)

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Unmount the record's target; the server leaves by itself.

        :raises MountError: it is in use, or the kernel refuses.
        """
        take_away(record.target, lazy=lazy)
        if record.upper is not None and not lazy:
            _await_end(record.upper)


def take_away(target: Path, *, lazy: bool = False) -> None:
    """Unmount what a FUSE driver mounted, in the way in which it could be mounted.

    :raises MountError: it is in use, or the kernel refuses.
    """
    if process.has_capability(process.CAP_SYS_ADMIN):
        release(target, lazy=lazy)
    else:
        from stacker.fuse.connect import disconnect

        disconnect(target, lazy=lazy)


def _await_end(upper: Path) -> None:
    """Let the server leave, so that the next mount finds the directory of its writes free.

    It has a lock on that until it ends (`fuse_daemon`); where somebody shows the same mount at a
    second place it goes on, and is not waited for any longer.
    """
    for pause in _PAUSES:
        with suppress(OSError):
            held = lock.try_exclusive(upper, create=False)
            if held is None:
                time.sleep(pause)
                continue
            held.release()
        return


def is_dead(record: MountRecord) -> bool:
    """Say whether a mount is there and nobody answers for it any more."""
    return record.driver in SERVED and not _answers(record.target)


def _answers(target: Path) -> bool:
    """Ask something that the kernel keeps no answer to."""
    for _ in range(_ATTEMPTS):
        try:
            os.statvfs(target)
        except OSError as error:
            if error.errno != errno.ECONNABORTED:  # whoever had the request died with it
                return error.errno != errno.ENOTCONN
        else:
            return True
    return True


def _no_adapter(plan: Plan) -> StackerError | None:
    if plan.fuse_adapter == "kernel":
        return None
    from stacker.fuse.adapters import PYFUSE3_HINT, is_installed

    if not is_installed(plan.fuse_adapter):
        return MountError(
            f"cannot mount by {plan.fuse_adapter}: {plan.target}: {plan.fuse_adapter} is not"
            " installed",
            hint=PYFUSE3_HINT,
        )
    if not plan.read_only or plan.upper is not None:
        return UnsupportedError(
            f"the {plan.fuse_adapter} adapter is read-only: {plan.target}",
            hint="leave --fuse-adapter away, or --rw and --upper",
        )
    return None


def _no_passthrough(plan: Plan) -> StackerError | None:
    if not plan.fuse_passthrough:
        return None
    if plan.fuse_adapter != "kernel":
        what = f"the {plan.fuse_adapter} adapter has no passthrough"
    elif not plan.read_only or plan.upper is not None:
        what = "passthrough is for read-only mounts"
    else:
        return None
    return UnsupportedError(f"{what}: {plan.target}", hint="leave --fuse-passthrough away")


def _no_helper() -> MountError | None:
    from stacker.fuse.connect import helper

    if helper() is not None:
        return None
    return MountError(
        "no permission to mount by FUSE: this process lacks CAP_SYS_ADMIN, and there is no"
        " fusermount3",
        hint="install the package fuse3",
    )


def explain(plan: Plan, error: OSError) -> MountError:
    """Give what a person hears of an error at mounting, and whether another driver may do it."""
    about = error.filename
    where = "" if about in {None, str(plan.target)} else f" {os.fsdecode(about)}:"
    message = f"cannot mount by FUSE: {plan.target}:{where} {error.strerror}"
    return (RefusedError if error.errno in _ANOTHER_DRIVER_MAY else MountError)(message)
