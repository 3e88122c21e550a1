"""The driver `fuse-overlayfs`: the program of that name serves the tree, where it is installed.

In comes a plan, out goes a mount.  It is here to compare with, and for who trusts it more, and is
never taken unless it is asked for.  We mount, so that the mount is found and undone as others are,
and hand it the connection in place of a mount point (``/dev/fd/N``, libfuse's fuse_session_mount).
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stacker.errors import MountError, StackerError, UnsupportedError
from stacker.linux.mountapi import FileDescriptor
from stacker.mount.drivers.fuse import FuseDriver, explain, take_away
from stacker.mount.drivers.protocol import Mounted

if TYPE_CHECKING:
    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord

PROGRAM: Final = "fuse-overlayfs"
_NO_NEWS: Final = "unknown argument ignored"
"""How it begins what it says of options of its own making."""


class FuseOverlayfsDriver:
    """The tree by fuse-overlayfs, in the caller's mount namespace."""

    name = PROGRAM

    def refusal(self, plan: Plan) -> StackerError | None:
        """Say that it is not installed or cannot mount, or would keep writes for itself alone."""
        if _program() is None:
            return MountError(
                f"cannot mount by {PROGRAM}: {plan.target}: it is not installed",
                hint=f"install the package {PROGRAM}, or use --driver fuse",
            )
        if plan.upper is not None and not plan.volatile:
            # Beside overlayfs's marks it writes .wh..wh..opq, which overlayfs shows as a file.
            return UnsupportedError(
                f"no --upper with {PROGRAM}: {plan.target}: it has marks of its own",
                hint="use --rw, or another driver",
            )
        if ":" in str(plan.upper):  # it lists what that resolves to among the lower ones
            return UnsupportedError(
                f"no writes with {PROGRAM}: {plan.upper}: got a colon in the path, want none",
                hint="use another driver",
            )
        return FuseDriver().refusal(replace(plan, fuse_adapter="kernel", fuse_passthrough=False))

    def mount(self, plan: Plan) -> Mounted:
        """Mount, start the program, and return when it has gone to the background.

        :raises RefusedError: /dev/fuse cannot be used here.
        :raises MountError: the program has ended; what it said is the reason.
        """
        from stacker.fuse.connect import connect

        mode = plan.layers[0].stat().st_mode & 0o7777
        try:
            connection = connect(plan, mode)
        except OSError as error:
            raise explain(plan, error) from error
        with FileDescriptor(connection):
            try:
                _serve(plan, connection)
            except BaseException:
                take_away(plan.target, lazy=True)
                raise
        return Mounted(self.name)

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Unmount the record's target; the program leaves by itself.

        :raises MountError: it is in use, or the kernel refuses.
        """
        take_away(record.target, lazy=lazy)


def _program() -> str | None:
    from shutil import which

    return which(PROGRAM)


def _serve(plan: Plan, connection: int) -> None:
    import subprocess

    with ExitStack() as opened:
        directories = _directories(plan, opened)
        options = ",".join(f"{key}={':'.join(paths)}" for key, paths in directories.items())
        numbers = [int(os.path.basename(path)) for paths in directories.values() for path in paths]
        done = subprocess.run(
            [_program() or PROGRAM, "-o", options, f"/dev/fd/{connection}"],
            pass_fds=[connection, *numbers],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
        )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if not line.startswith(_NO_NEWS)]
        reason = "; ".join(said) or "it gives no reason"
        raise MountError(f"cannot mount by {PROGRAM}: {plan.target}: {reason}")


def _directories(plan: Plan, opened: ExitStack) -> dict[str, list[str]]:
    """Name every directory by a descriptor, since the program knows no escapes in names."""
    named = {"lowerdir": plan.layers}
    if plan.upper is not None and plan.work is not None:
        named |= {"upperdir": (plan.upper,), "workdir": (plan.work,)}
    return {
        key: [str(opened.enter_context(FileDescriptor.open_directory(path)).path) for path in paths]
        for key, paths in named.items()
    }
