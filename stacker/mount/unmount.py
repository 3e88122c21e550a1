"""Unmount one path, and name the processes that keep it busy.

The path of a mount point comes in; nothing goes out, or a `MountError` that names the processes
and mounts that use it.  This module must not use mount records.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from stacker.errors import MountError
from stacker.linux import mountapi, mountinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_MAX_NAMED_PROCESSES = 5
_BUSY_PAUSES = (0.001, 0.005, 0.02)
"""Seconds between attempts at a busy mount."""
_HINTS = {
    errno.EPERM: "unmounting needs CAP_SYS_ADMIN in the user namespace that mounted it",
    errno.EINVAL: "the mount may belong to the parent mount namespace: unmount it there",
}


def retry(attempt: Callable[[], bool], pauses: Sequence[float]) -> bool:
    """Call a function until it returns ``True``, at most once more than there are pauses.

    :param pauses: seconds to sleep between two calls.
    :returns: what the last call returned.
    """
    for pause in pauses:
        if attempt():
            return True
        time.sleep(pause)
    return attempt()


def unmount_path(target: Path, *, lazy: bool = False) -> None:
    """Unmount the topmost mount at a path; a symlink is not followed.

    :param lazy: detach the mount, and all mounts inside it, even while processes use it.
    :raises MountError: the mount is in use, or the kernel refuses.
    """
    flags = mountapi.UMOUNT_NOFOLLOW | (mountapi.MNT_DETACH if lazy else 0)
    try:
        # Another process that stats the directory keeps it busy for an instant.
        if not retry(lambda: _try_unmount(target, flags), _BUSY_PAUSES):
            raise _busy(target)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        raise MountError(f"cannot unmount: {target}: {error.strerror}", hint=hint) from error


def _try_unmount(target: Path, flags: int) -> bool:
    try:
        mountapi.umount2(target, flags)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _busy(target: Path) -> MountError:
    reasons = ["it is in use"]
    if inside := mountinfo.read().below(target):
        reasons.append(f"{inside[0].mount_point} is mounted in it")
    if users := list(islice(processes_in(target), _MAX_NAMED_PROCESSES)):
        reasons.append(f"used by process {', '.join(map(str, users))}")
    return MountError(
        f"cannot unmount: {target}: {'; '.join(reasons)}",
        hint="end the processes that use it, or detach the mount with --lazy",
    )


def processes_in(directory: Path) -> Iterator[int]:
    """Yield the processes with a working directory, root, program or open file in a directory.

    This reads only symlinks in /proc, so an unresponsive network filesystem cannot block it.  It
    skips processes that this process may not inspect, and files that are only mapped.
    """
    prefix = os.fsencode(directory)
    for name in os.listdir("/proc"):
        if name.isdigit() and any(_is_in(link, prefix) for link in _links(name)):
            yield int(name)


def _links(process: str) -> Iterator[bytes]:
    base = f"/proc/{process}"
    names = [f"{base}/cwd", f"{base}/root", f"{base}/exe"]
    with suppress(OSError):
        names += [f"{base}/fd/{number}" for number in os.listdir(f"{base}/fd")]
    for name in names:
        with suppress(OSError):
            yield os.fsencode(os.readlink(name))


def _is_in(link: bytes, prefix: bytes) -> bool:
    return link == prefix or link.startswith(prefix + b"/")
