"""Mount and unmount a FUSE connection, as root or through fusermount3.

A `ServedTree` comes in; the descriptor that requests are read from goes out.  With CAP_SYS_ADMIN
this module calls mount(2); otherwise it runs fusermount3, which is set-user-ID and returns the
descriptor over a socket (fuse.rst, *How do non-privileged mounts work?*).  It must not look at
the layers.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import MountError, RefusedError
from stacker.fuse.protocol import IOC_CLONE, READ_AHEAD
from stacker.linux import mountapi, mountinfo, process
from stacker.linux.mountapi import FileDescriptor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.fuse.options import ServedTree

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
MOUNT_OPTIONS: Final = frozenset(_FLAGS)
"""The options of mount(8) that a FUSE mount accepts, besides ``ro``."""
_HELPER_OPTIONS: Final = frozenset({"noexec", "noatime", "sync", "dirsync"})
"""Those that fusermount3 accepts from a user."""


def find_helper() -> str | None:
    """Return the path of fusermount3 or of fusermount; ``None`` when neither is installed."""
    from shutil import which

    return next((path for name in _HELPERS if (path := which(name))), None)


def connect(tree: ServedTree, root_mode: int) -> int:
    """Mount a new connection on a tree's target, and return its descriptor.

    :param root_mode: type and permissions of the tree's root.
    :raises OSError: /dev/fuse cannot be opened, or the kernel refuses.
    :raises MountError: fusermount3 is missing.
    :raises RefusedError: fusermount3 refuses.
    """
    if process.has_capability(process.CAP_SYS_ADMIN):
        return _connect_by_mount(tree, root_mode)
    return _connect_by_helper(tree)


def _connect_by_mount(tree: ServedTree, root_mode: int) -> int:
    device = os.open(DEVICE, _READ_WRITE)
    try:
        options = (
            f"fd={device},rootmode={stat.S_IFDIR | root_mode:o},user_id={os.geteuid()},"
            f"group_id={os.getegid()},default_permissions"
        )
        if tree.options.allow_other is not False:
            options += ",allow_other"
        kind = f"fuse.{tree.options.subtype}"
        with FileDescriptor.open_directory(tree.target) as target:
            mountapi.mount(tree.source, target.path, kind, _flags(tree), options.encode())
    except BaseException:
        os.close(device)
        raise
    return device


def _flags(tree: ServedTree) -> int:
    flags = mountapi.MS_RDONLY if tree.read_only else 0
    if tree.options.mount_options is not None:
        for option in tree.options.mount_options:
            flags |= _FLAGS[option]
    elif not process.in_initial_user_namespace():
        flags |= mountapi.MS_NOSUID | mountapi.MS_NODEV
    return flags


def _connect_by_helper(tree: ServedTree) -> int:
    import socket
    import subprocess

    ours, helpers = socket.socketpair()
    with ours, helpers:
        done = subprocess.run(
            [_require_helper(), "-o", _helper_options(tree), "--", str(tree.target)],
            env={"_FUSE_COMMFD": str(helpers.fileno()), "LC_ALL": "C"},
            pass_fds=[helpers.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        helpers.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if done.returncode or not descriptors:
        raise RefusedError(_helper_message("mount", tree.target, done.stderr))
    os.set_inheritable(descriptors[0], False)  # noqa: FBT003 - the signature of the standard library
    return descriptors[0]


def _helper_options(tree: ServedTree) -> str:
    """Return the options for fusermount3, which requires nosuid and nodev from users."""
    source = tree.source.replace("\\", "\\\\").replace(",", "\\,")
    options = ["ro" if tree.read_only else "rw", "nosuid", "nodev", "default_permissions"]
    options += [f"fsname={source}", f"subtype={tree.options.subtype}"]
    options += sorted((tree.options.mount_options or frozenset()) & _HELPER_OPTIONS)
    options += ["allow_other"] if tree.options.allow_other else []
    return ",".join(options)


def clone(connection: int) -> int:
    """Open another channel of a connection (FUSE_DEV_IOC_CLONE).

    The kernel aborts the requests that were read from a channel when the channel is closed.
    Where this process may not open the device, return a duplicate of the same channel.
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


def is_alive(connection: int) -> bool:
    """Return whether a mount still uses a connection; the kernel reports POLLERR afterwards.

    Source: fuse_dev_poll, fs/fuse/dev.c.
    """
    import select

    poll = select.poll()
    poll.register(connection, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def raise_read_ahead(tree: ServedTree) -> None:
    """Raise the mount's read-ahead above the kernel's default of 128 KiB; only root can."""
    found = mountinfo.at(tree.target)
    if found is None or found.source != tree.source:
        return
    major, minor = found.device
    with suppress(OSError):
        setting = Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb")
        setting.write_text(str(READ_AHEAD >> 10))


def disconnect(target: Path, *, lazy: bool) -> None:
    """Unmount a mount that fusermount3 made.

    :param lazy: detach the mount even while processes use it.
    :raises MountError: the mount is in use, or fusermount3 is missing.
    """
    import subprocess

    options: Sequence[str] = ["-u", "-z"] if lazy else ["-u"]
    done = subprocess.run(
        [_require_helper(), *options, "--", str(target)],
        env={"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise MountError(_helper_message("unmount", target, done.stderr))


def _require_helper() -> str:
    path = find_helper()
    if path is None:
        raise MountError(
            "fusermount3 is not installed: a user without CAP_SYS_ADMIN needs it to mount",
            hint="install the package fuse3",
        )
    return path


def _helper_message(verb: str, target: Path, stderr: bytes) -> str:
    text = "; ".join(stderr.decode(errors="replace").split("\n")).strip("; ")
    return f"cannot {verb} with fusermount3: {target}: {text or 'fusermount3 printed no reason'}"
