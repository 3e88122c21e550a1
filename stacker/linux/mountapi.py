"""Mount system calls: the API of Linux 5.2 and later, and mount(2).

Functions take descriptors and paths, and return descriptors.  An `OSError` has the path and, for
a filesystem context, the kernel's log messages.  No function is specific to one filesystem.

Sources: fsopen(2), fsconfig(2), fsmount(2), move_mount(2), open_tree(2), mount_setattr(2),
mount(2); include/uapi/linux/mount.h.  The newer calls have the same number on every architecture
except alpha.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.linux import safe_path
from stacker.linux.syscall import checked, libc, syscall

if TYPE_CHECKING:
    from stacker.linux.syscall import AnyPath

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442

_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6

_AT_FDCWD = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_IDMAP = 0x01, 0x100000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x01, 0x02, 0x04, 0x08, 0x20
MS_SYNCHRONOUS, MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME, MS_BIND = 0x10, 0x80, 0x400, 0x800, 0x1000
MS_REC, MS_PRIVATE, MS_RELATIME = 1 << 14, 1 << 18, 1 << 21
MNT_DETACH, UMOUNT_NOFOLLOW = 0x02, 0x08

OVERLAY_MAX_LAYERS = 500
"""Lower layers in one overlay mount (OVL_MAX_STACK, fs/overlayfs/params.h)."""

FSCONFIG_STRING_LIMIT = 255
"""Bytes in one value of `fsconfig_string` (fs/fsopen.c copies 256, including the NUL)."""


class FileDescriptor:
    """A file descriptor that a ``with`` block closes.

    :param number: an open descriptor; this object owns it.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def open_directory(cls, path: Path) -> FileDescriptor:
        """Open a directory with O_PATH, without following a symlink anywhere on the path.

        :raises OSError: the path is missing, or is not a directory.
        """
        return cls(safe_path.open_directory(path))

    @property
    def path(self) -> Path:
        """The path under /proc to this object: short, and without special characters."""
        return Path(f"/proc/self/fd/{self.number}")

    def __enter__(self) -> FileDescriptor:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)


def fsopen(kind: str) -> int:
    """Open a configuration context for a filesystem type; the caller closes it.

    :param kind: the type, such as ``overlay``.
    :raises OSError: ENODEV if the kernel does not have the type, EPERM without CAP_SYS_ADMIN.
    """
    return syscall(_FSOPEN, kind.encode(), _FSOPEN_CLOEXEC, path=kind)


def fsconfig_string(context: int, key: str, value: AnyPath) -> None:
    """Set a parameter to a string.

    :param value: at most `FSCONFIG_STRING_LIMIT` bytes.
    :raises OSError: the kernel rejects it; the error has the kernel's message and the value.
    """
    _fsconfig(context, _SET_STRING, key, os.fsencode(value), 0, value)


def fsconfig_fd(context: int, key: str, value: int) -> None:
    """Set a parameter to an open descriptor; overlayfs accepts layers this way since Linux 6.13.

    :raises OSError: the kernel rejects it; the error has the kernel's message.
    """
    _fsconfig(context, _SET_FD, key, None, value, f"/proc/self/fd/{value}")


def fsconfig_flag(context: int, key: str) -> None:
    """Set a parameter that has no value.

    :raises OSError: the kernel rejects it; the error has the kernel's message.
    """
    _fsconfig(context, _SET_FLAG, key, None, 0, key)


def fsconfig_create(context: int) -> None:
    """Create the filesystem that the context describes.

    :raises OSError: the kernel rejects it; the error has the kernel's message.
    """
    _fsconfig(context, _CREATE, None, None, 0, None)


def fsmount(context: int, *, attributes: int = 0) -> int:
    """Return a detached mount of a created filesystem; the caller closes it.

    :param attributes: ``MOUNT_ATTR_*`` flags of the mount.
    :raises OSError: the kernel refuses; the error has the kernel's message.
    """
    try:
        return syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise _with_kernel_message(error, context) from None


def open_tree(path: AnyPath, *, recursive: bool = False) -> int:
    """Return a detached bind mount of a file or directory; the caller closes it.

    `move_mount` attaches it.

    :param recursive: clone the mounts below the directory, too.
    :raises OSError: the kernel refuses.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags, path=path)


def move_mount(mount: int, target: int, *, path: AnyPath | None = None) -> None:
    """Attach a detached mount to a directory.

    :param mount: descriptor from `fsmount` or `open_tree`.
    :param target: descriptor of the directory.
    :param path: name of the directory for the error.
    :raises OSError: the kernel refuses.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    syscall(_MOVE_MOUNT, mount, b"", target, b"", flags, path=path)


def mount_setattr(
    mount: int,
    *,
    set_flags: int,
    propagation: int = 0,
    user_namespace: int = 0,
    recursive: bool = False,
) -> None:
    """Change the attributes of a mount (Linux 5.12).

    :param mount: descriptor from `fsmount` or `open_tree`.
    :param set_flags: ``MOUNT_ATTR_*`` flags to set.
    :param propagation: ``MS_PRIVATE`` or another type; 0 keeps the current one.
    :param user_namespace: descriptor of the one whose ID maps ``MOUNT_ATTR_IDMAP`` uses.
    :param recursive: change the mounts below it, too.
    :raises OSError: the kernel refuses; ENOSYS before Linux 5.12.
    """
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    words = (set_flags, 0, propagation, user_namespace)  # the fields of struct mount_attr
    attributes = b"".join(word.to_bytes(8, sys.byteorder) for word in words)
    syscall(_MOUNT_SETATTR, mount, b"", flags, attributes, len(attributes))


def mount(
    source: AnyPath, target: AnyPath, kind: str | None, flags: int, data: bytes = b""
) -> None:
    """Mount, remount or bind-mount by the call that kernels before 5.2 need.

    Source: mount(2).

    :param flags: ``MS_*`` flags.
    :param data: options of the filesystem, less than one page.
    :raises OSError: the kernel refuses; the error has the target.
    """
    name = kind.encode() if kind is not None else None
    arguments = (os.fsencode(source), os.fsencode(target), name, _unsigned(flags), data or None)
    checked(libc().mount(*arguments), target)


def umount2(target: AnyPath, flags: int = UMOUNT_NOFOLLOW) -> None:
    """Unmount the topmost mount at a path, without following a symlink among its parents.

    The call names the mount point below a descriptor of its parent: a descriptor of the mount
    itself would keep it busy.

    :param target: absolute.
    :param flags: ``MNT_*`` and ``UMOUNT_*`` flags; the default does not follow a symlink.
    :raises OSError: the kernel refuses; the error has the target.
    """
    path = Path(os.fsdecode(target))
    with FileDescriptor.open_directory(path.parent) as above:
        checked(libc().umount2(os.fsencode(above.path / path.name), flags), target)


def _fsconfig(  # noqa: PLR0917 - the arguments of the system call
    context: int, command: int, key: str | None, value: bytes | None, aux: int, path: AnyPath | None
) -> None:
    name = key.encode() if key is not None else None
    try:
        syscall(_FSCONFIG, context, command, name, value, aux, path=path)
    except OSError as error:
        raise _with_kernel_message(error, context) from None


def _with_kernel_message(error: OSError, context: int) -> OSError:
    """Return the error with the messages of the context's log, if there are any."""
    messages = _messages(context)
    if not messages:
        return error
    text = f"{error.strerror} ({'; '.join(messages)})"
    if error.filename is None:
        return OSError(error.errno, text)
    return OSError(error.errno, text, error.filename)


def _messages(context: int) -> list[str]:
    """Return the messages of a context's log without their level (fsopen(2)).

    Each read returns one message after `e`, `w` or `i` and a blank; ENODATA ends the log.
    """
    lines: list[str] = []
    with suppress(OSError):
        while line := os.read(context, 4096):
            lines.append(line.decode(errors="replace").strip()[2:])
    return lines


def _unsigned(flags: int) -> object:
    import ctypes

    return ctypes.c_ulong(flags)
