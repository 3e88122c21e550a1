"""The copy driver: it fills the target with a copy of the merged tree.

A plan comes in; a full directory goes out, bound onto itself read-only where privileges allow.
`stacker.stack.flatten` merges and writes the tree.  This driver needs no privilege.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from stat import S_IMODE
from typing import TYPE_CHECKING

from stacker.errors import MountError, StackerError, UnsupportedError, path_of, shell_word
from stacker.linux import mountinfo, safe_path
from stacker.linux.mountapi import FileDescriptor
from stacker.linux.removal import remove_contents
from stacker.mount.drivers.overlay import bind_read_only
from stacker.mount.drivers.protocol import Mounted
from stacker.mount.unmount import unmount_path

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.mount.plan import Plan
    from stacker.mount.record import MountRecord

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


class CopyDriver:
    """A copy of the merged tree in the target, which costs time and disk space."""

    name = "copy"

    def refusal(self, plan: Plan) -> StackerError | None:
        """Return why a copy cannot be made: an upper directory, or files in the target.

        The target must be empty before the record is written, since unmounting a copy empties it.
        """
        if plan.upper is not None and not plan.volatile:
            return UnsupportedError(
                f"the copy driver does not support --upper: {plan.upper}",
                hint="use --driver overlay, or omit --upper",
            )
        try:
            with FileDescriptor.open_directory(plan.target) as target:
                return _refuse_files(plan.target, target)
        except OSError as error:
            return MountError(f"cannot copy into: {plan.target}: {error.strerror}")

    def mount(self, plan: Plan) -> Mounted:
        """Fill the target, or leave it empty.

        :raises MountError: the target is not empty, or a file cannot be written.
        """
        if error := self.refusal(plan):
            raise error
        # Opened once: another process may exchange the path with a symlink meanwhile.
        with FileDescriptor.open_directory(plan.target) as target:
            if refusal := _refuse_files(plan.target, target):
                raise refusal
            before = os.fstat(target.number)
            try:
                _fill(plan, target)
                note = _bind_onto_itself(plan, target) if plan.read_only else None
                return Mounted(self.name, note=note)
            except BaseException:
                with suppress(OSError):  # the first error is the one to report
                    _empty(target, (S_IMODE(before.st_mode), before.st_uid, before.st_gid))
                raise

    def unmount(self, record: MountRecord, *, lazy: bool = False) -> None:
        """Empty the target, and restore its mode and owner.

        :raises MountError: the target is in use, was replaced, or cannot be emptied.
        """
        try:
            if mountinfo.at(record.target) is not None:
                with FileDescriptor.open_directory(record.target) as covered:
                    _require_same_inode(record, covered)
                unmount_path(record.target, lazy=lazy)
            with FileDescriptor.open_directory(record.target) as target:
                _require_same_inode(record, target)
                _empty(target, record.target_mode)
        except OSError as error:
            text = f"cannot unmount a copy: {path_of(error) or record.target}: {error.strerror}"
            raise MountError(text) from error


def _refuse_files(target: Path, opened: FileDescriptor) -> MountError | None:
    with os.scandir(opened.path) as entries:
        first = next(entries, None)
    if first is None:
        return None
    return MountError(
        f"cannot copy into a directory with files: {target}: got {first.name!r}, want nothing",
        hint="choose an empty directory",
    )


def _require_same_inode(record: MountRecord, target: FileDescriptor) -> None:
    if os.fstat(target.number).st_ino != record.target_inode:
        raise MountError(
            f"cannot unmount a copy: {record.target}: got another directory than at mount time, "
            "want the same",
            hint=f"if another mount covers it: umount {shell_word(record.target)}",
        )


def _fill(plan: Plan, target: FileDescriptor) -> None:
    try:
        _write_tree(plan, target.number)
        safe_path.require_same(plan.target, target.number)
    except OSError as error:
        text = f"cannot copy the tree: {path_of(error) or plan.target}: {error.strerror}"
        raise (StackerError if error.errno in _DISK_ERRORS else MountError)(text) from error


def _write_tree(plan: Plan, target: int) -> None:
    if plan.merged is None:
        from stacker.stack.flatten import flatten

        flatten(plan.layers, target, plan.whiteout_format)
    else:
        from stacker.tree.extract import extract

        extract(plan.merged, target, plan.whiteout_format)


def _bind_onto_itself(plan: Plan, target: FileDescriptor) -> str | None:
    try:
        bind_read_only(target.path, plan.target)
    except OSError as error:
        return f"the copy is writable: cannot bind it read-only: {error.strerror}"
    return None


def _empty(target: FileDescriptor, mode: tuple[int, int, int]) -> None:
    remove_contents(target.number)
    with suppress(PermissionError):  # the target is writable for this user, who does not own it
        os.chown(target.path, mode[1], mode[2])
        os.chmod(target.path, mode[0])
