"""Namespaces and privileges of the calling thread: enter new ones, and drop the old ones.

Functions take numbers and names, change the calling thread or process, and return nothing.  Only
`fork_into_pid_namespace` starts a process.  This module does not use mounts.  Sources:
namespaces(7), pid_namespaces(7), unshare(2), setns(2), pivot_root(2), capabilities(7), prctl(2).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from stacker.linux.syscall import checked, libc, syscall

if TYPE_CHECKING:
    from collections.abc import Collection

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_NAMES: Final = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES: Final = tuple(f"CAP_{name}" for name in _NAMES.split())
"""The name of each capability, by its number (include/uapi/linux/capability.h)."""

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_WORD = 0xFFFFFFFF
_CLONE3 = 435  # on every architecture except alpha
_AF_INET, _SOCK_DGRAM, _SIOCSIFFLAGS, _IFF_UP = 2, 2, 0x8914, 1


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces.

    :param flags: ``CLONE_NEW*`` flags.
    :raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    checked(libc().unshare(flags))


def enter_user_namespace() -> None:
    """Move this process into a user namespace where its user is root, with mounts of its own.

    The namespace maps a single user and a single group ID (user_namespaces(7)).

    :raises OSError: EPERM or ENOSPC if the kernel permits no namespace, EINVAL with threads.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "wb", buffering=0) as file:
            file.write(text.encode())


def fork_into_pid_namespace() -> int:
    """Fork a process that is PID 1 of a new PID namespace.

    All processes of the namespace end with that process.  Later children of this thread are in
    this process's namespace again.

    :returns: the new process's ID in this namespace; 0 in the new process.
    :raises OSError: EPERM without CAP_SYS_ADMIN; EAGAIN at the limit of processes.
    """
    from stacker.linux.process import in_initial_user_namespace

    if in_initial_user_namespace():
        with new_children_namespace():
            return os.fork()
    # A user namespace may not return to the PID namespace of its parent, so clone3(2) enters the
    # new one.  It runs no handlers of fork, which a process with one thread does not need.
    arguments = (CLONE_NEWPID, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)  # struct clone_args
    raw = b"".join(word.to_bytes(8, sys.byteorder) for word in arguments)
    return syscall(_CLONE3, raw, len(raw))


class new_children_namespace:  # noqa: N801 - a context manager, as `contextlib.suppress`
    """Start the children of this thread in a new PID namespace during a block."""

    def __enter__(self) -> None:
        self._before = os.open("/proc/thread-self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._process = os.getpid()
            unshare(CLONE_NEWPID)
        except BaseException:
            os.close(self._before)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if os.getpid() == self._process:  # a forked child is inside of the namespace
                checked(libc().setns(self._before, CLONE_NEWPID))
        finally:
            os.close(self._before)


def pivot_root(directory: int) -> None:
    """Make a mount the root of this mount namespace, and detach the old root.

    Both mounts are on one mount point for a moment, so the new root needs no directory for the old
    one (pivot_root(2), "pivot_root(".", ".")").

    :param directory: descriptor of the root of a mount.
    :raises OSError: EINVAL if it is not a mount, or if a mount is shared.
    """
    from stacker.linux.mountapi import MNT_DETACH

    os.fchdir(directory)
    checked(libc().pivot_root(b".", b"."))
    checked(libc().umount2(b".", MNT_DETACH))
    os.chdir("/")


def set_hostname(name: str) -> None:
    """Set the host name of the UTS namespace (sethostname(2)).

    :raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL if the name is too long.
    """
    raw = name.encode()
    checked(libc().sethostname(raw, len(raw)))


def set_no_new_privileges() -> None:
    """Let execve(2) grant no privileges from now on (``PR_SET_NO_NEW_PRIVS``)."""
    checked(libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def limit_bounding_set(kept: Collection[str]) -> None:
    """Drop capabilities from the bounding set, which limits those of later programs.

    :param kept: names of `CAPABILITIES`; the others are dropped.
    :raises OSError: EPERM without CAP_SETPCAP.
    """
    for number in range(64):
        name = CAPABILITIES[number] if number < len(CAPABILITIES) else ""
        if name not in kept:
            if libc().prctl(_PR_CAPBSET_READ, number, 0, 0, 0) < 0:
                return  # the kernel has no capability of this number
            checked(libc().prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))


def set_capabilities(names: Collection[str]) -> None:
    """Set the effective and permitted capabilities; clear the inheritable and ambient ones.

    :param names: names of `CAPABILITIES`; each must be permitted already.
    :raises OSError: EPERM if one is not permitted.
    """
    import ctypes

    bits = sum(1 << CAPABILITIES.index(name) for name in names)
    low, high = bits & _WORD, bits >> 32
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    checked(libc().capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)))
    libc().prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)  # Linux 4.3


def bring_up_loopback() -> None:
    """Enable the loopback interface of this network namespace (netdevice(7), ``SIOCSIFFLAGS``).

    :raises OSError: EPERM without CAP_NET_ADMIN.
    """
    import fcntl
    import struct

    # The module socket takes several milliseconds to import.
    any_socket = checked(libc().socket(_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0))
    try:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
    finally:
        os.close(any_socket)
