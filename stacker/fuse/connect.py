"""Getting a FUSE connection mounted, and taken away, with privileges or without.

In come a plan's target and source; out goes the descriptor that requests are read from.  With
CAP_SYS_ADMIN it is mount(2); otherwise fusermount3, which is set-user-ID and hands the descriptor
over a socket (its manual page; fuse.rst, *How do non-privileged mounts work?*).  Knows no tree.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import MountError
from stacker.fuse.protocol import IOC_CLONE, READ_AHEAD
from stacker.linux import mountapi, mountinfo, process
from stacker.linux.mountapi import FileDescriptor
from stacker.mount.drivers.protocol import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.mount.plan import Plan

DEVICE: Final = "/dev/fuse"
_HELPERS: Final = ("fusermount3", "fusermount")
_READ_WRITE: Final = os.O_RDWR | os.O_CLOEXEC
_FLAGS: Final = {
    "nosuid": mountapi.MS_NOSUID,
    "nodev": mountapi.MS_NODEV,
    "noexec": mountapi.MS_NOEXEC,
    "noatime": mountapi.MS_NOATIME,
    "nodiratime": mountapi.MS_NODIRATIME,
    "sync": mountapi.MS_SYNCHRONOUS,
    "dirsync": mountapi.MS_DIRSYNC,
}
OPTIONS: Final = frozenset(_FLAGS)
"""Options of mount(8) that a mount can have, besides ``ro``."""
_BY_HELPER: Final = frozenset({"noexec", "noatime", "sync", "dirsync"})
"""Those that fusermount3 takes from a user."""


def helper() -> str | None:
    """Return the path of fusermount3, or of its predecessor; ``None`` when neither is installed."""
    from shutil import which

    return next((path for name in _HELPERS if (path := which(name))), None)


def connect(plan: Plan, root_mode: int) -> int:
    """Mount an empty connection on a plan's target, and return its descriptor.

    :param root_mode: type and permissions of the tree's root.
    :raises OSError: /dev/fuse cannot be opened, or the kernel refuses.
    :raises MountError: fusermount3 is missing.
    :raises RefusedError: fusermount3 refuses.
    """
    if process.has_capability(process.CAP_SYS_ADMIN):
        return _connect_by_mount(plan, root_mode)
    return _connect_by_helper(plan)


def _connect_by_mount(plan: Plan, root_mode: int) -> int:
    device = os.open(DEVICE, _READ_WRITE)
    try:
        options = (
            f"fd={device},rootmode={stat.S_IFDIR | root_mode:o},user_id={os.geteuid()},"
            f"group_id={os.getegid()},default_permissions"
        )
        if plan.guise is None or plan.guise.to_all:
            options += ",allow_other"
        kind = f"fuse.{_subtype(plan)}"
        with FileDescriptor.open_directory(plan.target) as place:
            mountapi.mount(plan.source, place.path, kind, _flags(plan), options.encode())
    except BaseException:
        os.close(device)
        raise
    return device


def _subtype(plan: Plan) -> str:
    return "stacker" if plan.guise is None else plan.guise.subtype


def _flags(plan: Plan) -> int:
    flags = mountapi.MS_RDONLY if plan.read_only else 0
    if plan.guise is not None:
        for word in plan.guise.options:
            flags |= _FLAGS[word]
    elif not process.in_initial_user_namespace():
        flags |= mountapi.MS_NOSUID | mountapi.MS_NODEV
    return flags


def _connect_by_helper(plan: Plan) -> int:
    import socket
    import subprocess

    ours, its = socket.socketpair()
    with ours, its:
        done = subprocess.run(
            [_required_helper(), "-o", _words(plan), "--", str(plan.target)],
            env={"_FUSE_COMMFD": str(its.fileno()), "LC_ALL": "C"},
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        its.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if done.returncode or not descriptors:
        raise RefusedError(_said("mount", plan.target, done.stderr))
    os.set_inheritable(descriptors[0], False)  # noqa: FBT003 - as the standard library has it
    return descriptors[0]


def _words(plan: Plan) -> str:
    """Give what fusermount3 is told; without privileges it insists on nosuid and nodev."""
    source = plan.source.replace("\\", "\\\\").replace(",", "\\,")
    words = ["ro" if plan.read_only else "rw", "nosuid", "nodev", "default_permissions"]
    words += [f"fsname={source}", f"subtype={_subtype(plan)}"]
    if plan.guise is not None:
        words += sorted(plan.guise.options & _BY_HELPER)
        words += ["allow_other"] if plan.guise.to_all else []
    return ",".join(words)


def clone(connection: int) -> int:
    """Open another channel of a connection, whose requests die with it (FUSE_DEV_IOC_CLONE).

    Where the device may not be opened, it is the same channel once more.
    """
    import fcntl

    with suppress(OSError):
        device = os.open(DEVICE, _READ_WRITE)
        try:
            fcntl.ioctl(device, IOC_CLONE, connection.to_bytes(4, sys.byteorder))
        except OSError:
            os.close(device)
        else:
            return device
    return os.dup(connection)


def read_further_ahead(plan: Plan) -> None:
    """Raise the mount's read-ahead above the kernel's 128 KiB; only root may."""
    found = mountinfo.at(plan.target)
    if found is None or found.source != plan.source:
        return
    major, minor = found.device
    with suppress(OSError):
        knob = Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb")
        knob.write_text(str(READ_AHEAD >> 10))


def disconnect(target: Path, *, lazy: bool) -> None:
    """Take a mount away that fusermount3 made.

    :param lazy: detach it even while processes use it.
    :raises MountError: it is in use, or fusermount3 is missing.
    """
    import subprocess

    words: Sequence[str] = ["-u", "-z"] if lazy else ["-u"]
    done = subprocess.run(
        [_required_helper(), *words, "--", str(target)],
        env={"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise MountError(_said("unmount", target, done.stderr))


def _required_helper() -> str:
    path = helper()
    if path is None:
        raise MountError(
            "no fusermount3: it mounts for a user without privileges",
            hint="install the package fuse3",
        )
    return path


def _said(verb: str, target: Path, said: bytes) -> str:
    text = "; ".join(said.decode(errors="replace").split("\n")).strip("; ")
    return f"cannot {verb} by fusermount3: {target}: {text or 'it gives no reason'}"
