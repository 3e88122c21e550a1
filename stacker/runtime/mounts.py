"""The mounts of a container as runtime-spec has them, and the paths that it hides.

The words of a caller come in; `Mount` values go out.  This module mounts nothing, and reads no file
of the host.

Source: runtime-spec config.md ("Mounts"), config-linux.md ("Default Filesystems", "Masked Paths").
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.errors import UsageError
from stacker.image.document import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUIET = ("nosuid", "noexec", "nodev")
_NAME_SERVICE = ("/etc/resolv.conf", "/etc/hosts")
_TMPFS_OPTION = re.compile(
    r"(?:ro|rw|(?:no)?(?:suid|dev|exec|atime)|(?:size|nr_inodes)=[0-9]+[kmg%]?|mode=[0-7]{3,4}"
    r"|[ug]id=[0-9]+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount that the runtime makes.

    :param destination: absolute in the root filesystem.
    :param kind: the filesystem type, or ``bind``.
    :param source: for a bind mount an absolute path on the host.
    :param options: as for mount(8).
    """

    destination: str
    kind: str
    source: str
    options: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the mount as an entry of ``mounts``."""
        return {
            "destination": self.destination,
            "type": self.kind,
            "source": self.source,
            "options": list(self.options),
        }


STANDARD: Final = (
    Mount("/proc", "proc", "proc", _QUIET),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount("/dev/shm", "tmpfs", "shm", (*_QUIET, "mode=1777", "size=65536k")),  # noqa: S108 - in the container
    Mount("/dev/mqueue", "mqueue", "mqueue", _QUIET),
    Mount("/sys", "sysfs", "sysfs", (*_QUIET, "ro")),
    Mount("/sys/fs/cgroup", "cgroup", "cgroup", (*_QUIET, "relatime", "ro")),
)
"""The mounts of every container, in the order in which they are made."""
MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
"""The paths that appear empty: those of podman and Docker."""
READ_ONLY: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
"""The paths that refuse writes: those of podman and Docker."""


def bind(source: str, destination: str, *, read_only: bool = False) -> Mount:
    """Return a bind mount of a file or directory of the host, with all mounts in it.

    :param source: absolute.
    :raises UsageError: as for `mount_point`.
    """
    options = ("rbind", "rprivate", "ro" if read_only else "rw")
    return Mount(mount_point(destination), "bind", source, options)


def name_service(volumes: Iterable[Mount]) -> tuple[Mount, ...]:
    """Return mounts of the host's files for name resolution that no volume replaces.

    A container with the network of the host needs them.
    """
    taken = {volume.destination for volume in volumes}
    return tuple(
        bind(path, path, read_only=True)
        for path in _NAME_SERVICE
        if os.path.exists(path) and path not in taken
    )


def tmpfs(text: str) -> Mount:
    """Return the tmpfs that a caller describes as ``PATH[:OPTION,...]``.

    :raises UsageError: as for `mount_point`, or an option is unknown.
    """
    destination, _, words = text.partition(":")
    options = tuple(words.split(",")) if words else ()
    for option in options:
        if not _TMPFS_OPTION.fullmatch(option):
            raise UsageError(
                f"unknown tmpfs option: got {quoted(option)}, want such as ro, noexec, size=64m or"
                " mode=1777"
            )
    return Mount(mount_point(destination), "tmpfs", "tmpfs", ("nosuid", "nodev", *options))


def parse_volume(text: str) -> Mount:
    """Return the bind mount that a caller describes as ``SRC:DST[:ro|:rw]``.

    :raises UsageError: the text is malformed, or as for `mount_point`.
    """
    words = text.split(":")
    mode = words.pop() if len(words) == 3 else "rw"
    if len(words) != 2 or not words[0].startswith("/") or mode not in {"ro", "rw"}:
        raise UsageError(
            f"malformed volume: got {quoted(text)}, want SRC:DST or SRC:DST:ro with absolute paths"
        )
    return bind(words[0], words[1], read_only=mode == "ro")


def mount_point(path: str) -> str:
    """Return a mount point without ``.``, ``..`` and repeated slashes.

    :raises UsageError: relative, the root itself, or /proc, /sys or something in them.
    """
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"malformed mount point: got {quoted(path)}, want an absolute path")
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if clean == "/" or clean.split("/")[1] in {"proc", "sys"}:
        raise UsageError(f"mount point is not allowed: got {clean}, want no part of /proc or /sys")
    return clean
