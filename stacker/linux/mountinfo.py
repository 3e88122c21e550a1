"""The mounts of a process: /proc/PID/mountinfo as values.

`read` takes a process and returns a `MountTable` in the kernel's order.  This module does not use
stacker's own mount records.  Sources: proc_pid_mountinfo(5); Documentation/filesystems/proc.rst,
section 3.5.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of mountinfo."""

    mount_id: int
    parent_id: int
    device: tuple[int, int]
    root: Path
    mount_point: Path
    options: frozenset[str]
    fstype: str
    source: str
    super_options: str

    @property
    def read_only(self) -> bool:
        """Whether the mount is read-only; its filesystem may be read-only as well."""
        return "ro" in self.options


class MountTable:
    """The mounts of one namespace at the time of the read, oldest first.

    :param mounts: in the kernel's order.
    """

    __slots__ = ("mounts",)

    def __init__(self, mounts: tuple[MountInfo, ...]) -> None:
        self.mounts = mounts

    def all_at(self, path: Path) -> list[MountInfo]:
        """Return the mounts at exactly this absolute path, the visible one last."""
        return [mount for mount in self.mounts if mount.mount_point == path]

    def at(self, path: Path) -> MountInfo | None:
        """Return the visible mount at exactly this absolute path, or ``None``."""
        found = self.all_at(path)
        return found[-1] if found else None

    def around(self, path: Path) -> MountInfo:
        """Return the visible mount that an absolute path without symlinks is on."""
        inside = [mount for mount in self.mounts if path.is_relative_to(mount.mount_point)]
        return max(reversed(inside), key=lambda mount: len(mount.mount_point.parts))

    def below(self, path: Path) -> list[MountInfo]:
        """Return the mounts strictly below an absolute path."""
        return [
            m for m in self.mounts if m.mount_point != path and m.mount_point.is_relative_to(path)
        ]


def read(process: int | str = "self") -> MountTable:
    """Return the mounts in a process's mount namespace.

    :param process: a process ID, or ``self``.
    :raises OSError: the process does not exist, or the caller may not inspect it.
    """
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        return parse(file.read())


def at(path: Path) -> MountInfo | None:
    """Return the visible mount at exactly this absolute path in this process's namespace.

    :raises OSError: /proc cannot be read.
    """
    return read().at(path)


def of_descriptor(descriptor: int) -> MountInfo | None:
    """Return the mount that an open file is on; ``None`` once it is unmounted.

    :raises OSError: /proc cannot be read.
    """
    with open(f"/proc/self/fdinfo/{descriptor}") as file:  # proc_pid_fdinfo(5)
        fields = dict(line.split(":", 1) for line in file)
    mount_id = int(fields["mnt_id"])
    return next((mount for mount in read().mounts if mount.mount_id == mount_id), None)


def parse(text: bytes) -> MountTable:
    """Parse the content of a mountinfo file.

    :raises ValueError: a line lacks fields of proc_pid_mountinfo(5).
    """
    return MountTable(tuple(_parse_line(line) for line in text.split(b"\n") if line))


def _parse_line(line: bytes) -> MountInfo:
    # Any number of optional fields precede the separator " - ".  A source can be empty.
    before, _, after = line.partition(b" - ")
    mount_id, parent_id, device, root, mount_point, options = before.split(b" ")[:6]
    fstype, source, super_options = after.split(b" ", 2)
    major, _, minor = device.partition(b":")
    return MountInfo(
        mount_id=int(mount_id),
        parent_id=int(parent_id),
        device=(int(major), int(minor)),
        root=_path(root),
        mount_point=_path(mount_point),
        options=frozenset(os.fsdecode(options).split(",")),
        fstype=os.fsdecode(fstype),
        source=os.fsdecode(unescape(source)),
        super_options=os.fsdecode(super_options),
    )


def _path(field: bytes) -> Path:
    return Path(os.fsdecode(unescape(field)))


def unescape(field: bytes) -> bytes:
    r"""Decode the kernel's octal escapes of blank, tab, newline, ``#`` and backslash.

    >>> unescape(rb"/a\040b")
    b'/a b'
    """
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)


def mount_number(path: Path) -> int | None:
    """Return a number that the kernel assigned to a filesystem when it was mounted.

    It is the inode number of the filesystem's directory in sysfs, which sysfs does not use again
    (fs/kernfs/dir.c, `__kernfs_new_node`).

    :returns: ``None`` for a filesystem other than ext4, xfs and f2fs, and without sysfs.
    :raises OSError: there is no such path.
    """
    device = os.stat(path).st_dev
    with suppress(OSError):
        link = os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        for kind in ("ext4", "xfs", "f2fs"):
            with suppress(FileNotFoundError):
                return os.stat(f"/sys/fs/{kind}/{os.path.basename(link)}").st_ino
    return None
