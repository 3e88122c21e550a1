"""What is mounted here: /proc/self/mountinfo as values.

In comes the kernel's table, out go `MountInfo` values in the kernel's order.  Knows no
mount of ours.  Source: proc_pid_mountinfo(5); Documentation/filesystems/proc.rst, 3.5.
"""

from __future__ import annotations

import os
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
        """Whether the mount itself refuses writes; its filesystem may do so besides."""
        return "ro" in self.options


class MountTable:
    """Return the mounts of one namespace, oldest first, as they were when read.

    :param mounts: in the kernel's order.
    """

    __slots__ = ("mounts",)

    def __init__(self, mounts: tuple[MountInfo, ...]) -> None:
        self.mounts = mounts

    def all_at(self, path: Path) -> list[MountInfo]:
        """Return the mounts at exactly this absolute path, the one that shows last."""
        return [mount for mount in self.mounts if mount.mount_point == path]

    def at(self, path: Path) -> MountInfo | None:
        """Return the mount that shows at exactly this absolute path, or ``None``."""
        found = self.all_at(path)
        return found[-1] if found else None

    def below(self, path: Path) -> list[MountInfo]:
        """Return the mounts strictly below an absolute path."""
        return [
            m for m in self.mounts if m.mount_point != path and m.mount_point.is_relative_to(path)
        ]


def read(process: int | str = "self") -> MountTable:
    """Read the mounts that a process sees.

    :raises OSError: when there is no such process, or it is not ours to ask about.
    """
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        return parse(file.read())


def at(path: Path) -> MountInfo | None:
    """Return the mount that shows at exactly this absolute path in this process's namespace.

    :raises OSError: when /proc cannot be read.
    """
    return read().at(path)


def parse(text: bytes) -> MountTable:
    """Parse a whole mountinfo file.

    :raises ValueError: when a line has not the fields that proc_pid_mountinfo(5) promises.
    """
    return MountTable(tuple(_parse_line(line) for line in text.split(b"\n") if line))


def _parse_line(line: bytes) -> MountInfo:
    # Optional fields, of any number, stand before the lone dash.  A source can be empty.
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
    r"""Undo the kernel's octal escapes of blank, tab, newline, ``#`` and backslash.

    >>> unescape(rb"/a\040b")
    b'/a b'
    """
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)
