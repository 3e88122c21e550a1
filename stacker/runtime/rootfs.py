"""Make the mounts of a container in its root filesystem, and make this its root.

An open mount namespace, a root filesystem and `Settings` come in; afterwards the root filesystem is
the root of the calling process, and the old root is gone.

The image's author chooses every name in the root filesystem.  Each mount point is opened one
component after another without following a symlink, and each mount is attached to that descriptor,
so no exchanged name redirects it (CVE-2019-19921, CVE-2021-30465).  Masks are attached to
descriptors inside of the new /proc and /sys (CVE-2025-52881).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, MountError
from stacker.linux import mountapi, namespaces, process, safe_path
from stacker.linux.mountapi import FileDescriptor
from stacker.runtime.mounts import MASKED, READ_ONLY, STANDARD, Mount
from stacker.runtime.root import MOUNT_POINTS, Root

if TYPE_CHECKING:
    from pathlib import Path

    from stacker.runtime.spec import Settings

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_ATTRIBUTES = {"ro": 0x01, "nosuid": 0x02, "nodev": 0x04, "noexec": 0x08, "noatime": 0x10}
"""``MOUNT_ATTR_*`` flags by their names in mount options."""
_IGNORED = {"rw", "suid", "dev", "exec", "atime", "relatime", "strictatime"}
_TTY_GROUP = 5  # as in STANDARD
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def enter_root(directory: Path, settings: Settings, cwd: str, *, terminal: bool) -> None:
    """Make a directory the root of this process, which is in a new mount namespace.

    :param cwd: the working directory, absolute in the root; it is created if it is missing.
    :param terminal: descriptor 0 is a terminal, which becomes /dev/console.
    :raises MountError: the kernel refuses a mount.
    :raises IntegrityError: a mount point of the image leads elsewhere.
    :raises OSError: the kernel's error.
    """
    os.umask(0)
    with FileDescriptor.open_directory(directory) as point:
        root = mountapi.open_tree(point.path)
        mountapi.move_mount(root, point.number, path=directory)
    for mount in STANDARD:
        if mount.kind != "cgroup":
            _mount(root, _adapted(mount))
    _fill_dev(root, terminal=terminal)
    for mount in settings.mounts:
        _mount(root, mount)
    for path in MASKED:
        _mask(root, path)
    for path in READ_ONLY:
        _protect(root, path)
    os.close(_directory(root, cwd))
    if settings.read_only:
        mountapi.mount_setattr(root, set_flags=mountapi.MOUNT_ATTR_RDONLY)
    namespaces.pivot_root(root)


def _mount(root: int, mount: Mount) -> None:
    """Make one mount in the root filesystem."""
    try:
        with FileDescriptor(_detached(mount)) as made:
            is_directory = stat.S_ISDIR(os.fstat(made.number).st_mode)
            with FileDescriptor(_target(root, mount.destination, directory=is_directory)) as point:
                mountapi.move_mount(made.number, point.number)
    except OSError as error:
        raise MountError(
            f"cannot mount {mount.source} in the container: {mount.destination}: {error.strerror}"
        ) from error


def _adapted(mount: Mount) -> Mount:
    """Return a mount of `STANDARD` that a user namespace may make.

    A namespace with a single group ID has no group 5 for terminals.
    """
    if mount.kind == "devpts" and not _is_mapped(_TTY_GROUP):
        options = tuple(word for word in mount.options if not word.startswith("gid="))
        return replace(mount, options=options)
    return mount


def _is_mapped(group: int) -> bool:
    return any(0 <= group - ids.inside < ids.count for ids in process.gid_map())


def _detached(mount: Mount) -> int:
    flags = sum({_ATTRIBUTES[word] for word in mount.options if word in _ATTRIBUTES})
    if mount.kind == "bind":
        made = mountapi.open_tree(mount.source, recursive="rbind" in mount.options)
        if flags:
            mountapi.mount_setattr(made, set_flags=flags, recursive=True)
        return made
    try:
        return _filesystem(mount, flags)
    except PermissionError:
        if mount.kind != "sysfs":
            raise
        # A user namespace may not mount the /sys of the host's network namespace.
        made = mountapi.open_tree("/sys", recursive=True)
        mountapi.mount_setattr(made, set_flags=flags, recursive=True)
        return made


def _filesystem(mount: Mount, flags: int) -> int:
    with FileDescriptor(mountapi.fsopen(mount.kind)) as context:
        mountapi.fsconfig_string(context.number, "source", mount.source)
        for word in mount.options:
            key, equals, value = word.partition("=")
            if equals:
                mountapi.fsconfig_string(context.number, key, value)
            elif word not in _ATTRIBUTES and word not in _IGNORED:
                mountapi.fsconfig_flag(context.number, word)
        mountapi.fsconfig_create(context.number)
        return mountapi.fsmount(context.number, attributes=flags)


def _target(root: int, path: str, *, directory: bool) -> int:
    """Open a mount point in the root filesystem with ``O_PATH``; create it if it is missing."""
    resolved = Root(root).resolve(path)
    if resolved != path and path.startswith(MOUNT_POINTS):
        raise IntegrityError(
            f"unsafe mount point in the image: {path}: got a symlink to {resolved},"
            " want a directory"
        )
    if directory:
        return _directory(root, resolved)
    above, _, name = resolved.rpartition("/")
    with FileDescriptor(_directory(root, above)) as parent:
        with suppress(FileExistsError):
            os.close(os.open(name, _NEW, 0o644, dir_fd=parent.number))
        return os.open(name, _PIN, dir_fd=parent.number)


def _directory(root: int, path: str) -> int:
    """Open a directory in the root filesystem, and create what is missing of it.

    :param path: absolute in the root, and without symlinks.
    """
    here = os.open(b".", _PIN | os.O_DIRECTORY, dir_fd=root)
    for name in path.split("/"):
        if name not in {"", "."}:
            above = here
            try:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=above)
                here = os.open(name, _PIN | os.O_DIRECTORY, dir_fd=above)
            finally:
                os.close(above)
    return here


def _fill_dev(root: int, *, terminal: bool) -> None:
    """Create the devices and links that programs expect (runtime-spec, "Default Devices")."""
    nodes = {name: f"/dev/{name}" for name in _DEVICES}
    if terminal:
        nodes["console"] = os.ttyname(0)
    with FileDescriptor(_directory(root, "/dev")) as dev:
        for name, source in nodes.items():
            os.close(os.open(name, _NEW, 0o666, dir_fd=dev.number))
            with (
                FileDescriptor(mountapi.open_tree(source)) as node,
                FileDescriptor(os.open(name, _PIN, dir_fd=dev.number)) as point,
            ):
                mountapi.move_mount(node.number, point.number)
        for name, link in _LINKS.items():
            os.symlink(link, name, dir_fd=dev.number)


def _mask(root: int, path: str) -> None:
    """Make a file or directory of /proc or /sys appear empty."""
    point = _existing(root, path)
    if point is None:
        return
    with FileDescriptor(point):
        if stat.S_ISDIR(os.fstat(point).st_mode):
            empty = _filesystem(Mount(path, "tmpfs", "tmpfs", ("size=0k",)), _ATTRIBUTES["ro"])
        else:
            empty = mountapi.open_tree("/dev/null")
        with FileDescriptor(empty):
            mountapi.move_mount(empty, point)


def _protect(root: int, path: str) -> None:
    """Make a file or directory of /proc read-only."""
    point = _existing(root, path)
    if point is None:
        return
    with (
        FileDescriptor(point) as found,
        FileDescriptor(mountapi.open_tree(found.path, recursive=True)) as copy,
    ):
        mountapi.mount_setattr(copy.number, set_flags=mountapi.MOUNT_ATTR_RDONLY, recursive=True)
        mountapi.move_mount(copy.number, point)


def _existing(root: int, path: str) -> int | None:
    try:
        return safe_path.open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        raise
