"""The driver `fuse-overlayfs`: the program of that name serves the tree, where it is installed.

A plan comes in; a mount goes out.  It exists for comparison, and runs only if the command line
names it.  This module mounts the connection itself, so that the mount table finds the mount, and
passes the descriptor to the program as ``/dev/fd/N`` (libfuse's fuse_session_mount).
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stacker.errors import MountError, StackerError, UnsupportedError
from stacker.linux.mountapi import FileDescriptor
from stacker.mount.drivers.fuse import FuseDriver, explain, served_tree, unmount_fuse
from stacker.mount.drivers.protocol import Mounted

if TYPE_CHECKING:
    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord

PROGRAM: Final = "fuse-overlayfs"
_UNIMPORTANT: Final = "unknown argument ignored"
"""The start of its warnings about options that libfuse's mount helper adds."""


class FuseOverlayfsDriver:
    """The program fuse-overlayfs, in the caller's mount namespace."""

    name = PROGRAM

    def refusal(self, plan: Plan) -> StackerError | None:
        """Return why fuse-overlayfs cannot run, or would write marks that overlayfs misreads."""
        if _find_program() is None:
            return MountError(
                f"cannot mount by {PROGRAM}: {plan.target}: {PROGRAM} is not installed",
                hint=f"install the package {PROGRAM}, or use --driver fuse",
            )
        if plan.merged is not None:
            return UnsupportedError(
                f"{PROGRAM} cannot mount layers in EROFS form: {plan.target}",
                hint="use --driver fuse",
            )
        if plan.upper is not None and not plan.volatile:
            # It also creates files named .wh..wh..opq, which overlayfs lists as files.
            return UnsupportedError(
                f"{PROGRAM} does not support --upper: {plan.target}: the program writes opaque "
                "marks that overlayfs does not read",
                hint="use --rw, or another driver",
            )
        if ":" in str(plan.upper):  # the program lists the resolved upper with the lower ones
            return UnsupportedError(
                f"{PROGRAM} cannot write: {plan.upper}: got a colon in the path, want none",
                hint="use another driver",
            )
        return FuseDriver().refusal(replace(plan, fuse=None))

    def mount(self, plan: Plan) -> Mounted:
        """Mount, start the program, and return when the program is in the background.

        :raises RefusedError: /dev/fuse cannot be used on this machine.
        :raises MountError: the program failed; the message has its stderr.
        """
        from stacker.fuse.connect import connect

        mode = plan.layers[0].stat().st_mode & 0o7777
        try:
            connection = connect(served_tree(plan), mode)
        except OSError as error:
            raise explain(plan, error) from error
        with FileDescriptor(connection):
            try:
                _serve(plan, connection)
            except BaseException:
                unmount_fuse(plan.target, lazy=True)
                raise
        return Mounted(self.name)

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Unmount the record's target; the program then exits.

        :raises MountError: the mount is in use, or the kernel refuses.
        """
        unmount_fuse(record.target, lazy=lazy)


def _find_program() -> str | None:
    from shutil import which

    return which(PROGRAM)


def _serve(plan: Plan, connection: int) -> None:
    import subprocess

    with ExitStack() as opened:
        directories = _open_directories(plan, opened)
        options = ",".join(f"{key}={':'.join(paths)}" for key, paths in directories.items())
        numbers = [int(os.path.basename(path)) for paths in directories.values() for path in paths]
        done = subprocess.run(
            [_find_program() or PROGRAM, "-o", options, f"/dev/fd/{connection}"],
            pass_fds=[connection, *numbers],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith(_UNIMPORTANT)]
        reason = "; ".join(lines) or "fuse-overlayfs printed no reason"
        raise MountError(f"cannot mount by {PROGRAM}: {plan.target}: {reason}")


def _open_directories(plan: Plan, opened: ExitStack) -> dict[str, list[str]]:
    """Name each directory by a descriptor, since the program does not support escaped names."""
    named = {"lowerdir": plan.layers}
    if plan.upper is not None and plan.work is not None:
        named |= {"upperdir": (plan.upper,), "workdir": (plan.work,)}
    return {
        key: [str(opened.enter_context(FileDescriptor.open_directory(path)).path) for path in paths]
        for key, paths in named.items()
    }
