"""The directories that take a mount's writes.

In comes a plan, out go `upper` and `work`, ready for overlayfs.  The root of a merged tree has
the attributes of the upper directory, so a fresh one takes those of the topmost layer.  Knows no
driver.

A directory that a person named is used by one mount at a time: its hidden sibling, the work
directory, says by which.  Overlayfs itself would only warn in the log.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING

from stacker.errors import LockedError, MountError
from stacker.linux import lock, mountinfo, xattr
from stacker.linux.removal import remove_tree
from stacker.mount.plan import work_beside
from stacker.mount.table import Table
from stacker.mount.target import refuse_overlap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.mount.plan import Plan

_OWNER = "owner"
_PAUSES = (0.01, 0.05, 0.2)
"""Seconds between attempts."""


def resolve_upper(upper: Path, target: Path, *, forbidden: Path | None = None) -> Path:
    """Check a directory that shall keep writes, and return its absolute path without symlinks.

    It need not exist, its parent must.

    :param upper: as given.
    :param target: where the mount will be.
    :param forbidden: a directory (the store) that must not overlap it.
    :raises MountError: it cannot be an upper directory.
    """
    path = Path(os.path.realpath(upper))
    if not path.parent.is_dir():
        raise MountError(f"upper directory has no parent: {upper}", hint=f"mkdir -p {path.parent}")
    if os.path.lexists(path) and not path.is_dir():
        raise MountError(f"upper directory is not a directory: {upper}")
    refuse_overlap("upper directory", path, "the mount target", target)
    if forbidden is not None:
        refuse_overlap("upper directory", path, "the store", Path(os.path.realpath(forbidden)))
    _refuse_own_mount(path)
    return path


@contextmanager
def prepared(plan: Plan, room: Path) -> Iterator[None]:
    """Make the directories of a plan; if the block fails, those outside the room are undone.

    :param room: the mount's own directory, which the caller removes.
    :raises LockedError: another mount uses the upper directory.
    :raises MountError: the work directory's place is taken by something else.
    :raises OSError: a directory cannot be made.
    """
    if plan.empty is not None:
        plan.empty.mkdir(mode=0o755)
    if plan.upper is None or plan.work is None:
        yield
    elif plan.volatile:
        plan.work.mkdir(mode=0o700)
        plan.upper.mkdir(mode=0o700)
        _copy_attributes(plan.layers[0], plan.upper)
        yield
    else:
        with _kept(plan.upper, plan.work, plan.layers[0], room):
            yield


def release_work(upper: Path, room: Path) -> None:
    """Remove the work directory beside an upper that a person named, if it is this mount's.

    :param room: the mount's own directory.
    :raises OSError: when it cannot be removed.
    """
    work = work_beside(upper)
    if _owner(work) == room:
        remove_tree(work)


@contextmanager
def _kept(upper: Path, work: Path, model: Path, room: Path) -> Iterator[None]:
    made = _make(upper)
    with only_user(upper), ExitStack() as undo:
        if made:
            undo.callback(upper.rmdir)
        _claim(upper, work, room)
        undo.callback(remove_tree, work)
        if not any(upper.iterdir()):
            undo.callback(_copy_status, upper.stat(), upper)
            _copy_attributes(model, upper)
        yield
        undo.pop_all()


def _make(upper: Path) -> bool:
    try:
        upper.mkdir(mode=0o755)
    except FileExistsError:
        return False
    return True


@contextmanager
def only_user(upper: Path, *, patience: Sequence[float] = _PAUSES) -> Iterator[None]:
    """Let nobody else begin to write to an upper directory during the block.

    :param patience: seconds to wait between attempts; whoever wrote to it may just be leaving.
    :raises LockedError: somebody does already.
    """
    with _locked(upper, patience):
        yield


def _locked(upper: Path, patience: Sequence[float]) -> lock.Lock:
    # The server of a mount that has just been undone needs an instant to leave.
    for pause in (*patience, 0):
        held = lock.try_exclusive(upper, create=False)
        if held is not None:
            return held
        time.sleep(pause)
    raise LockedError(
        f"upper directory is in use: {upper}: a mount is being made with it, or was detached and"
        " is still in use"
    )


def _claim(upper: Path, work: Path, room: Path) -> None:
    """Make the work directory ours; the caller holds the lock on `upper`."""
    if os.path.lexists(work):
        _clear_leftover(upper, work)
    work.mkdir(mode=0o700)
    (work / _OWNER).write_bytes(os.fsencode(room))


def _clear_leftover(upper: Path, work: Path) -> None:
    owner = _owner(work)
    if owner is None and (work.is_symlink() or not work.is_dir() or any(work.iterdir())):
        raise MountError(
            f"work directory is not ours: {work}: it has no owner file",
            hint="remove it if no overlay uses it",
        )
    entry = None if owner is None else Table(owner.parent).entry(owner.name)
    if entry is not None and entry.state != "stale":
        raise LockedError(
            f"upper directory is in use: {upper}: by the mount at {entry.record.target}",
            hint=f"stacker umount {entry.record.target}",
        )
    remove_tree(work)


def _owner(work: Path) -> Path | None:
    """Give the room of the mount that made a work directory."""
    try:
        return Path(os.fsdecode((work / _OWNER).read_bytes()))
    except OSError:
        return None


def _refuse_own_mount(path: Path) -> None:
    if mountinfo.at(path) is not None:
        raise MountError(
            f"upper directory is a mount point: {path}: overlayfs wants a work directory beside"
            " it on the same mount",
            hint="choose a directory inside it",
        )


def _copy_attributes(model: Path, directory: Path) -> None:
    """Give a directory another's owner, xattrs, mode and times, but none of overlayfs's marks."""
    status = model.stat()
    for name, value in xattr.items(os.fsencode(model)):
        if b".overlay." not in name:
            with suppress(PermissionError):  # e.g. security.selinux in a user namespace
                xattr.set_value(os.fsencode(directory), name, value)
    _copy_status(status, directory)
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_status(status: os.stat_result, directory: Path) -> None:
    now = directory.stat()
    if (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
        os.chown(directory, status.st_uid, status.st_gid)
    directory.chmod(S_IMODE(status.st_mode))
