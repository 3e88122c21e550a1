"""Find out what the kernel and a filesystem offer: namespaces, reflinks, xattrs and fs-verity.

A directory comes in; an `Answer` goes out.  The functions create files without a name
(O_TMPFILE), which the kernel removes when they are closed.  This module must not know what the
features are for.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from stacker.linux import mountapi, verity, xattr
from stacker.linux.filesystem import reflink
from stacker.linux.mountapi import FileDescriptor
from stacker.linux.probe import Answer
from stacker.linux.process import set_parent_death_signal
from stacker.linux.syscall import checked, libc

if TYPE_CHECKING:
    from collections.abc import Iterator

XATTR_NAMESPACES = ("user", "trusted", "security")
_BLOCK = 4096
_CLONE_NEWUSER = 0x10000000  # include/uapi/linux/sched.h


def unnamed_file(directory: Path, content: bytes = b"") -> FileDescriptor:
    """Create a file without a name, open for reading and writing.

    :raises OSError: the filesystem is read-only, or has no such files; the error has the path.
    """
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    file = FileDescriptor(os.open(directory, flags, 0o600))
    os.write(file.number, content)
    return file


def unnamed_files(directory: Path) -> Answer:
    """Return whether a directory takes files without a name."""
    with unnamed_file(directory):
        return Answer(works=True, reason="the filesystem has O_TMPFILE")


def reflinks(directory: Path) -> Answer:
    """Return whether files can share blocks."""
    with (
        unnamed_file(directory, bytes(_BLOCK)) as source,
        unnamed_file(directory) as target,
    ):
        if reflink(source.number, target.number):
            return Answer(works=True, reason="files can share blocks, which --dedup uses")
    return Answer(works=False, reason="the filesystem has no reflinks")


def xattrs(directory: Path, namespace: str) -> Answer:
    """Return whether this process can set the xattrs of a namespace.

    :param namespace: one of `XATTR_NAMESPACES`.
    """
    name = f"{namespace}.stacker".encode()
    with unnamed_file(directory) as file:
        xattr.set_value(file.number, name, b"y")
    return Answer(works=True, reason=f"this process sets {namespace}.* xattrs")


def fs_verity(directory: Path) -> Answer:
    """Return whether the kernel can check files at each read."""
    with unnamed_file(directory) as file:
        found = verity.is_supported(file.number)
    if found:
        return Answer(works=True, reason="the kernel can check files at each read")
    return Answer(works=False, reason="the filesystem or the kernel has no fs-verity")


def user_namespaces() -> Answer:
    """Return whether this process can create a user namespace."""
    with _user_namespace():
        return Answer(works=True, reason="this process can create user namespaces")


def idmapped_mounts(directory: Path) -> Answer:
    """Return whether a mount of a directory can map owners (``MOUNT_ATTR_IDMAP``)."""
    with (
        _user_namespace() as pid,
        FileDescriptor(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)) as namespace,
        FileDescriptor(mountapi.open_tree(directory)) as mount,
    ):
        mountapi.mount_setattr(
            mount.number,
            set_flags=mountapi.MOUNT_ATTR_IDMAP,
            user_namespace=namespace.number,
        )
    return Answer(works=True, reason="the kernel can map the owners of files in a mount")


@contextmanager
def _user_namespace() -> Iterator[int]:
    """Yield the PID of a child process in a new user namespace; both end with the block.

    The namespace maps its ID 0 to the effective IDs of this process.

    :raises OSError: the kernel refuses.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _wait_in_user_namespace(writer)
    try:
        os.close(writer)
        number = os.read(reader, 1)[0]
        if number:
            raise OSError(number, os.strerror(number))
        _map_ids(pid)
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _wait_in_user_namespace(writer: int) -> NoReturn:
    """Enter a new user namespace, write 0 or the errno to a pipe, and wait to be killed."""
    try:
        set_parent_death_signal(signal.SIGKILL)
        try:
            number = checked(libc().unshare(_CLONE_NEWUSER))
        except OSError as error:
            number = error.errno or 0
        os.write(writer, bytes([number]))
        signal.pause()
    finally:
        os._exit(1)


def _map_ids(pid: int) -> None:
    proc = Path(f"/proc/{pid}")
    proc.joinpath("setgroups").write_text("deny")  # else gid_map needs CAP_SETGID
    proc.joinpath("uid_map").write_text(f"0 {os.geteuid()} 1")
    proc.joinpath("gid_map").write_text(f"0 {os.getegid()} 1")
