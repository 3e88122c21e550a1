"""Run peers in a Debian root filesystem, so that their versions are those of another release.

In: a root filesystem that ``scripts/chroot`` made, and the host's directories that the peers use.
Out: the prefix of a command that runs in it.  This module must not know the peers.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_KERNEL = ("/dev", "/sys")


def enter(root: Path, directories: Sequence[Path]) -> tuple[str, ...]:
    """Mount ``directories`` below ``root`` at their own paths; return a command prefix.

    The mounts are in a new mount namespace of this process, so they end with it.  They are shared
    within that namespace: a filesystem that a run mounts later is visible on both sides.

    :raises OSError: the process has no privilege for a mount namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "unshare")
    _mount("--make-rprivate", "/")
    _mount("--make-rshared", "/")
    # Archive readers call pivot_root(2), which needs a root that is a mount point.
    _mount("--bind", str(root), str(root))
    for name in dict.fromkeys([*_KERNEL, *map(str, directories)]):
        target = root / name.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        _mount("--rbind", name, str(target))
    _mount("-t", "proc", "proc", str(root / "proc"))
    return ("chroot", str(root))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)
