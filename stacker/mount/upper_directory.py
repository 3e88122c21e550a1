"""The directories that receive a mount's writes.

A plan comes in; its upper and work directories go out, ready for overlayfs.  The root of a merged
tree has the attributes of the upper directory, so a new one gets those of the topmost layer.  This
module must not use a driver.

At most one mount uses a persistent upper directory: the work directory beside it names the mount's
own directory.  Overlayfs itself would only log a warning.  An xattr of the upper directory names
the chain and the image of its mounts; overlayfs and stacker's FUSE server do not show it.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING

from stacker.errors import LockedError, MountError, shell_word
from stacker.linux import lock, mountinfo, safe_path
from stacker.linux.filesystem import file_identity
from stacker.linux.mountapi import FileDescriptor
from stacker.linux.removal import remove_tree
from stacker.mount.plan import work_beside
from stacker.mount.table import Table
from stacker.mount.target import refuse_overlap
from stacker.mount.unmount import retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.mount.plan import Plan

_OWNER = "owner"
_ORIGIN = b"stacker"
_OTHERS_WRITE = 0o022
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCK_PAUSES = (0.01, 0.05, 0.2)
"""Seconds between attempts to lock an upper directory."""


def resolve_upper(upper: Path, target: Path, *, forbidden: Path | None = None) -> Path:
    """Check a persistent upper directory, and return its absolute path without symlinks.

    The directory may be missing; its parent must exist.

    :param upper: the path as the caller gave it.
    :param target: the mount point.
    :param forbidden: a directory (the store) that must not overlap `upper`.
    :raises MountError: the directory cannot be an upper directory.
    """
    try:
        path = safe_path.resolve(upper)
    except OSError as error:
        raise MountError(f"cannot use upper directory: {upper}: {error.strerror}") from error
    if not path.parent.is_dir():
        raise MountError(
            f"upper directory has no parent directory: {upper}",
            hint=f"mkdir -p {shell_word(path.parent)}",
        )
    if file_identity(path) is not None and not path.is_dir():
        raise MountError(
            f"upper directory is not a directory: {upper}",
            hint="choose a missing or empty directory",
        )
    refuse_overlap("upper directory", path, "the mount target", target)
    if forbidden is not None:
        refuse_overlap("upper directory", path, "the store", Path(os.path.realpath(forbidden)))
    _refuse_mount_point(path)
    return path


@dataclass(frozen=True, slots=True)
class UpperOrigin:
    """The image that the writes in an upper directory belong to.

    :param chain_id: the chain ID of its layers, as text.
    :param image_id: the image ID, as text.
    :param whiteout_format: how deletions are written in the upper directory.
    """

    chain_id: str
    image_id: str
    whiteout_format: WhiteoutFormat

    @property
    def xattr(self) -> bytes:
        """The name of the xattr that names the image."""
        return self.whiteout_format.prefix + _ORIGIN


def read_origin(upper: Path) -> UpperOrigin | None:
    """Return the image that an upper directory belongs to; ``None`` if it names none."""
    from stacker.layer.whiteout_format import WhiteoutFormat  # only `--upper` and `commit` need it

    for whiteout_format in WhiteoutFormat:
        with FileDescriptor.open_directory(upper) as opened, suppress(OSError):
            value = os.getxattr(opened.path / ".", whiteout_format.prefix + _ORIGIN)
            chain_id, image_id = value.decode("ascii", "replace").split(" ")
            return UpperOrigin(chain_id, image_id, whiteout_format)
    return None


def claim_origin(upper: Path, origin: UpperOrigin) -> None:
    """Make an upper directory belong to an image, unless it has writes to another chain.

    :raises MountError: it has writes to another chain.
    """
    before = read_origin(upper)
    with FileDescriptor.open_directory(upper) as opened:
        if before is not None and before.chain_id != origin.chain_id and os.listdir(opened.path):
            raise MountError(
                f"upper directory of another image: {upper}: got writes to {before.image_id}, "
                f"want writes to {origin.image_id}",
                hint="mount that image, or choose another directory",
            )
        if before == origin:
            return
        with suppress(OSError):  # a filesystem without xattrs; `commit` then needs the target
            value = f"{origin.chain_id} {origin.image_id}".encode("ascii")
            os.setxattr(opened.path / ".", origin.xattr, value)


@contextmanager
def prepared(plan: Plan, directory: Path) -> Iterator[None]:
    """Create the directories of a plan; if the block fails, undo those outside `directory`.

    :param directory: the mount's own directory, which the caller removes.
    :raises LockedError: another mount uses the upper directory.
    :raises MountError: the path of the work directory belongs to something else.
    :raises OSError: a directory cannot be created.
    """
    for path in (plan.empty, plan.index_directory):
        if path is not None:
            path.mkdir(mode=0o755)
    if plan.upper is None or plan.work is None:
        yield
    elif plan.volatile:
        plan.work.mkdir(mode=0o700)
        plan.upper.mkdir(mode=0o700)
        _copy_root_attributes(plan, plan.upper)
        yield
    else:
        with _persistent(plan, plan.upper, plan.work, directory):
            yield


def remove_work(upper: Path, directory: Path) -> None:
    """Remove the work directory beside a persistent upper directory, if a mount owns it.

    :param directory: that mount's own directory.
    :raises OSError: the work directory cannot be removed.
    """
    work = work_beside(upper)
    if _owner(work) == directory:
        _remove(work)


@contextmanager
def _persistent(plan: Plan, upper: Path, work: Path, directory: Path) -> Iterator[None]:
    created = _create(upper)
    with exclusive_upper(upper), ExitStack() as undo:
        if created:
            undo.callback(_remove_directory, upper)
        else:
            _refuse_other_owner(plan, upper)
        _claim_work(upper, work, directory)
        undo.callback(_remove, work)
        if (before := _status_if_empty(upper)) is not None:
            undo.callback(_restore_owner_and_mode, upper, before)
            _copy_root_attributes(plan, upper)
        yield
        undo.pop_all()


def _refuse_other_owner(plan: Plan, upper: Path) -> None:
    """Refuse an upper directory of neither the caller nor the owner of the image's root.

    The first mount gives the upper directory the owner of the image's root.  Only the caller can
    have put it into a directory that only the caller can write to.
    """
    caller = os.geteuid()
    with FileDescriptor.open_directory(upper.parent) as opened:
        above = os.fstat(opened.number)
        owner = os.stat(upper.name, dir_fd=opened.number, follow_symlinks=False).st_uid
    is_private = above.st_uid == caller and not above.st_mode & _OTHERS_WRITE
    if owner != caller and not (is_private and owner == plan.layers[0].stat().st_uid):
        raise MountError(
            f"upper directory of another user: {upper}: got the owner {owner}, want {caller}",
            hint="choose a directory of your own: the other user can change files of the mount",
        )


def _create(upper: Path) -> bool:
    try:
        _make_directory(upper, 0o755)
    except FileExistsError:
        return False
    return True


def _status_if_empty(directory: Path) -> os.stat_result | None:
    with FileDescriptor.open_directory(directory) as opened:
        return None if os.listdir(opened.path) else os.fstat(opened.number)


def _make_directory(path: Path, mode: int) -> None:
    with FileDescriptor.open_directory(path.parent) as above:
        os.mkdir(path.name, mode, dir_fd=above.number)


def _remove_directory(path: Path) -> None:
    with FileDescriptor.open_directory(path.parent) as above:
        os.rmdir(path.name, dir_fd=above.number)


@contextmanager
def exclusive_upper(upper: Path, *, pauses: Sequence[float] = _LOCK_PAUSES) -> Iterator[None]:
    """Lock an upper directory, so that no other mount starts to use it during the block.

    :param pauses: seconds between attempts; the server of a mount that was just unmounted needs
        an instant to exit.
    :raises LockedError: another process holds the lock.
    """
    taken: list[lock.Lock] = []

    def try_lock() -> bool:
        with FileDescriptor.open_directory(upper) as directory:
            held = lock.try_exclusive(directory.path, create=False)
        taken.extend([held] if held is not None else [])
        return held is not None

    if not retry(try_lock, pauses):
        raise LockedError(
            f"upper directory is in use: {upper}: another process is mounting it, or a detached"
            " mount still uses it",
            hint="end the processes that use the mount, or choose another directory",
        )
    with taken[0]:
        yield


def _claim_work(upper: Path, work: Path, directory: Path) -> None:
    """Create the work directory, and record its owner; the caller holds the lock on `upper`."""
    if file_identity(work) is not None:
        if (owned_by := os.lstat(work).st_uid) != os.geteuid():
            raise MountError(
                f"work directory of another user: {work}: got the owner {owned_by}, "
                f"want {os.geteuid()}",
                hint="choose an upper directory whose parent directory only you can write to",
            )
        _remove_leftover(upper, work)
    _make_directory(work, 0o700)
    with FileDescriptor.open_directory(work) as opened:
        owner = os.open(_OWNER, _NEW, 0o600, dir_fd=opened.number)
        with open(owner, "wb") as file:
            file.write(os.fsencode(directory))


def _remove_leftover(upper: Path, work: Path) -> None:
    owner = _owner(work)
    if owner is None and not _has_lost_owner(work):
        raise MountError(
            f"work directory has no owner file: {work}: another program created it",
            hint="remove it if no overlay uses it",
        )
    entry = None if owner is None else Table(owner.parent).entry(owner.name)
    if entry is not None and entry.state != "stale":
        raise LockedError(
            f"upper directory is in use: {upper}: by the mount at {entry.record.target}",
            hint=f"stacker umount {shell_word(entry.record.target)}",
        )
    _remove(work)


def _remove(work: Path) -> None:
    """Remove a work directory, the owner file last: a killed removal can be repeated."""
    with FileDescriptor.open_directory(work) as opened:
        for path in opened.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            elif path.name != _OWNER:
                path.unlink()
        (opened.path / _OWNER).unlink(missing_ok=True)
    _remove_directory(work)


def _has_lost_owner(work: Path) -> bool:
    """Return whether a crash lost the owner of a work directory.

    A process was killed before it wrote the file, or the power failed before the data were on disk.
    """
    try:
        with FileDescriptor.open_directory(work) as opened:
            names = set(os.listdir(opened.path))
            is_empty = _OWNER in names and (opened.path / _OWNER).lstat().st_size == 0
            return is_empty or names <= {_OWNER}
    except OSError:
        return False


def _owner(work: Path) -> Path | None:
    """Return the directory ``mounts/<id>`` of the mount that created a work directory."""
    try:
        with FileDescriptor.open_directory(work) as opened:
            file = os.open(_OWNER, _READ, dir_fd=opened.number)
        with open(file, "rb") as reader:
            owner = reader.read()
    except OSError:
        return None
    return Path(os.fsdecode(owner)) if owner else None


def _refuse_mount_point(path: Path) -> None:
    if mountinfo.at(path) is not None:
        raise MountError(
            f"upper directory is a mount point: {path}: overlayfs requires a work directory beside"
            " it on the same mount",
            hint="choose a directory inside it",
        )


def _copy_root_attributes(plan: Plan, upper: Path) -> None:
    """Copy the root's owner, xattrs, mode and times, but no overlayfs mark, to a new upper."""
    from stacker.layer.metadata import copy_layer_attributes  # read-only mounts copy none

    root = plan.root
    with FileDescriptor.open_directory(upper) as opened:
        _change_owner(opened, root.stat())  # another user may own an upper directory that existed
        # A path that ends in a directory is not a symlink, as /proc/self/fd/N itself is.
        inside = os.fsencode(opened.path) + b"/."
        copy_layer_attributes(os.fsencode(root), inside, whiteout_format=plan.whiteout_format)


def _restore_owner_and_mode(directory: Path, status: os.stat_result) -> None:
    with FileDescriptor.open_directory(directory) as opened:
        _change_owner(opened, status)
        opened.path.chmod(S_IMODE(status.st_mode))


def _change_owner(directory: FileDescriptor, status: os.stat_result) -> None:
    now = os.fstat(directory.number)
    if (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
        os.chown(directory.path, status.st_uid, status.st_gid)
