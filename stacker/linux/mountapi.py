"""Mounting, one small function a system call: the calls of Linux 5.2 and after, and mount(2).

In come descriptors and paths; out go descriptors, or an `OSError` with the path and, from a
filesystem context, the kernel's own words.  Knows no filesystem in particular.

Sources: fsopen(2), fsconfig(2), fsmount(2), move_mount(2), open_tree(2), mount_setattr(2),
mount(2); include/uapi/linux/mount.h.  The newer calls have one number on every architecture
but alpha.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from stacker.linux.syscall import checked, libc, syscall

if TYPE_CHECKING:
    from stacker.linux.syscall import AnyPath

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442

_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
MOUNT_ATTR_RDONLY = 0x01
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x01, 0x02, 0x04, 0x08, 0x20
MS_SYNCHRONOUS, MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME, MS_BIND = 0x10, 0x80, 0x400, 0x800, 0x1000
MS_PRIVATE, MS_RELATIME = 1 << 18, 1 << 21
MNT_DETACH, UMOUNT_NOFOLLOW = 0x02, 0x08

OVERLAY_MAX_LAYERS = 500
"""Lower layers in one overlay mount (OVL_MAX_STACK, fs/overlayfs/params.h)."""

FSCONFIG_STRING_LIMIT = 255
"""Bytes in one value of `fsconfig_string` (fs/fsopen.c copies 256 with the NUL)."""


def fsopen(kind: str) -> int:
    """Open a context in which a filesystem of a kind can be configured; the caller closes it.

    :raises OSError: ENODEV when the kernel has no such filesystem, EPERM without privilege.
    """
    return syscall(_FSOPEN, kind.encode(), _FSOPEN_CLOEXEC, path=kind)


def fsconfig_string(context: int, key: str, value: AnyPath) -> None:
    """Set a parameter to a string of at most `FSCONFIG_STRING_LIMIT` bytes.

    :raises OSError: with the kernel's message and the value.
    """
    _fsconfig(context, _SET_STRING, key, os.fsencode(value), 0, value)


def fsconfig_fd(context: int, key: str, value: int) -> None:
    """Set a parameter to an open descriptor; overlayfs takes its layers so from Linux 6.13 on.

    :raises OSError: with the kernel's message.
    """
    _fsconfig(context, _SET_FD, key, None, value, f"/proc/self/fd/{value}")


def fsconfig_flag(context: int, key: str) -> None:
    """Set a parameter that has no value.

    :raises OSError: with the kernel's message.
    """
    _fsconfig(context, _SET_FLAG, key, None, 0, key)


def fsconfig_create(context: int) -> None:
    """Make the filesystem that the context describes.

    :raises OSError: with the kernel's message.
    """
    _fsconfig(context, _CREATE, None, None, 0, None)


def fsmount(context: int, *, attributes: int = 0) -> int:
    """Turn a created filesystem into a mount without a place; the caller closes it.

    :param attributes: ``MOUNT_ATTR_*`` of the mount.
    :raises OSError: as the kernel refuses it.
    """
    try:
        return syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise _with_kernel_message(error, context) from None


def open_tree(path: AnyPath) -> int:
    """Clone the mount that a directory lies on, with that directory as its root.

    The clone has no place until `move_mount` gives it one; the caller closes it.

    :raises OSError: as the kernel refuses it.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    return syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags, path=path)


def move_mount(mount: int, target: int, *, path: AnyPath | None = None) -> None:
    """Attach a mount object to the directory behind a descriptor.

    :param path: the directory's name, for the error.
    :raises OSError: as the kernel refuses it.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    syscall(_MOVE_MOUNT, mount, b"", target, b"", flags, path=path)


def mount_setattr(mount: int, *, set_flags: int, propagation: int = 0) -> None:
    """Change the attributes of a mount object (Linux 5.12).

    :param set_flags: ``MOUNT_ATTR_*`` to set.
    :param propagation: ``MS_PRIVATE`` or another type; 0 leaves it.
    :raises OSError: as the kernel refuses it.
    """
    words = (set_flags, 0, propagation, 0)  # struct mount_attr: set, clear, propagation, userns_fd
    attributes = b"".join(word.to_bytes(8, sys.byteorder) for word in words)
    syscall(_MOUNT_SETATTR, mount, b"", _AT_EMPTY_PATH, attributes, len(attributes))


def mount(
    source: AnyPath, target: AnyPath, kind: str | None, flags: int, data: bytes = b""
) -> None:
    """Make, change or bind a mount in the way of kernels before 5.2.

    Source: the manual page in section 2.

    :param flags: ``MS_*``.
    :param data: the filesystem's options, fewer bytes than a page.
    :raises OSError: with the target.
    """
    name = kind.encode() if kind is not None else None
    arguments = (os.fsencode(source), os.fsencode(target), name, _unsigned(flags), data or None)
    checked(libc().mount(*arguments), target)


def umount2(target: AnyPath, flags: int = UMOUNT_NOFOLLOW) -> None:
    """Take away the topmost mount at a path; a symlink is not followed unless flags say so.

    :raises OSError: with the target.
    """
    checked(libc().umount2(os.fsencode(target), flags), target)


def _fsconfig(  # noqa: PLR0917 - the system call has that many
    context: int, command: int, key: str | None, value: bytes | None, aux: int, path: AnyPath | None
) -> None:
    name = key.encode() if key is not None else None
    try:
        syscall(_FSCONFIG, context, command, name, value, aux, path=path)
    except OSError as error:
        raise _with_kernel_message(error, context) from None


def _with_kernel_message(error: OSError, context: int) -> OSError:
    """Add to an error what the kernel wrote to the context's log, if it wrote anything."""
    words = _messages(context)
    if not words:
        return error
    text = f"{error.strerror} ({'; '.join(words)})"
    if error.filename is None:
        return OSError(error.errno, text)
    return OSError(error.errno, text, error.filename)


def _messages(context: int) -> list[str]:
    """One read gives one message, `e`, `w` or `i` and a blank before it; ENODATA ends them."""
    lines: list[str] = []
    with suppress(OSError):
        while line := os.read(context, 4096):
            lines.append(line.decode(errors="replace").strip()[2:])
    return lines


def _unsigned(flags: int) -> object:
    import ctypes

    return ctypes.c_ulong(flags)
