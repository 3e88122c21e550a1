"""The copy driver: TARGET itself is filled with the merged tree, for where nothing can be mounted.

In comes a plan, out goes a full directory, bound onto itself read-only where privileges allow.
What the merged tree is, and how it is written, `stack/flatten` knows.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from stat import S_IMODE
from typing import TYPE_CHECKING

from stacker.errors import MountError, StackerError, UnsupportedError
from stacker.linux import mountinfo
from stacker.linux.removal import remove_contents
from stacker.mount.drivers.bind import bind_read_only
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.unmount import release

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


class CopyDriver:
    """A copy of the tree in the target itself; it costs time and space, and needs no privilege."""

    name = "copy"

    def refusal(self, plan: Plan) -> StackerError | None:
        """Say that writes cannot be kept apart, or that there are files in the way.

        It must be known before anything is written down that the target was empty, since
        undoing a copy empties it.
        """
        if plan.upper is not None and not plan.volatile:
            return UnsupportedError(
                f"a copy cannot keep writes apart: {plan.upper}: no --upper with the copy driver",
                hint="use --driver overlay, or leave --upper away",
            )
        try:
            return _not_empty(plan.target)
        except OSError as error:
            return MountError(f"cannot copy into: {plan.target}: {error.strerror}")

    def mount(self, plan: Plan) -> Mounted:
        """Fill the target, or leave it as empty as it was.

        :raises MountError: the target is not empty, or a file cannot be written.
        """
        if error := self.refusal(plan):
            raise error
        before = plan.target.stat()
        try:
            _fill(plan)
            return Mounted(self.name, note=_protect(plan) if plan.read_only else None)
        except BaseException:
            with suppress(OSError):  # what failed first is what to tell
                _empty(plan.target, (S_IMODE(before.st_mode), before.st_uid, before.st_gid))
            raise

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Empty the target, and give it back its mode and owner.

        :raises MountError: it is in use, is another directory by now, or cannot be emptied.
        """
        try:
            _require_same(record)
            if mountinfo.at(record.target) is not None:
                release(record.target, lazy=lazy)
            _empty(record.target, record.target_mode)
        except OSError as error:
            text = f"cannot unmount a copy: {error.filename or record.target}: {error.strerror}"
            raise MountError(text) from error


def _not_empty(target: Path) -> MountError | None:
    with os.scandir(target) as entries:
        first = next(entries, None)
    if first is None:
        return None
    return MountError(
        f"cannot copy into a directory with files: {target}: got {first.name!r}, want nothing",
        hint="choose an empty directory",
    )


def _require_same(record: MountRecord) -> None:
    if record.target.stat().st_ino != record.target_inode:
        raise MountError(
            f"cannot unmount a copy: {record.target}: another directory shows there",
            hint="if something is mounted over it, unmount that first",
        )


def _fill(plan: Plan) -> None:
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.stack.flatten import flatten

    try:
        flatten(plan.layers, plan.target, WhiteoutFormat(plan.xattr_namespace))
    except OSError as error:
        # Calls on a descriptor only know its number.
        name = error.filename if isinstance(error.filename, (str, bytes)) else str(plan.target)
        text = f"cannot copy the tree: {os.fsdecode(name)}: {error.strerror}"
        raise (StackerError if error.errno in _DISK else MountError)(text) from error


def _protect(plan: Plan) -> str | None:
    try:
        bind_read_only(plan.target, plan.target)
    except OSError as error:
        return f"the copy can be written to: {error.strerror} when making it read-only"
    return None


def _empty(target: Path, mode: tuple[int, int, int]) -> None:
    remove_contents(target)
    with suppress(PermissionError):  # somebody else's directory, which we could fill all the same
        os.chown(target, mode[1], mode[2])
        target.chmod(mode[0])
