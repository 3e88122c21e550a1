"""Taking one mount away, and saying who keeps it when that fails.

In comes a path where something is mounted; out goes nothing, or a `MountError` that names the
processes and mounts in the way.  Knows no record.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from stacker.errors import MountError
from stacker.linux import mountapi, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAMED_USERS = 5
_PAUSES = (0.001, 0.005, 0.02)
"""Seconds between attempts."""
_HINTS = {
    errno.EPERM: "unmounting needs CAP_SYS_ADMIN in the user namespace that mounted it",
    errno.EINVAL: "it may belong to the mount namespace this one was copied from",
}


def release(target: Path, *, lazy: bool = False) -> None:
    """Unmount what shows at a path; a symlink is not followed.

    :param lazy: detach it, and all that is mounted in it, even while processes use it.
    :raises MountError: it is in use, or the kernel refuses.
    """
    try:
        _unmount(target, mountapi.UMOUNT_NOFOLLOW | (mountapi.MNT_DETACH if lazy else 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _busy(target) from error
        hint = _HINTS.get(error.errno or 0)
        raise MountError(f"cannot unmount: {target}: {error.strerror}", hint=hint) from error


def _unmount(target: Path, flags: int) -> None:
    # Whoever looks at the directory just now keeps it busy for an instant.
    for pause in _PAUSES:
        try:
            mountapi.umount2(target, flags)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(pause)
        else:
            return
    mountapi.umount2(target, flags)


def _busy(target: Path) -> MountError:
    reasons = []
    if inside := mountinfo.read().below(target):
        reasons.append(f"{inside[0].mount_point} is mounted in it")
    if users := list(_first(_NAMED_USERS, users_of(target))):
        reasons.append(f"used by process {', '.join(map(str, users))}")
    hint = f"{'; '.join(reasons)}; or detach it with --lazy" if reasons else "detach it with --lazy"
    return MountError(f"cannot unmount: {target}: it is in use", hint=hint)


def users_of(directory: Path) -> Iterator[int]:
    """Find processes with a working directory, root, program or open file in a directory.

    Only links are read, so that a dead network filesystem cannot stop the search; processes of
    others are skipped without privilege, and so are files that are only mapped.
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


def _first(count: int, numbers: Iterator[int]) -> Iterator[int]:
    for number, _ in zip(numbers, range(count), strict=False):
        yield number
