"""Describe the machine of a run: processor, memory, kernel, filesystems, but no host name."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def described() -> dict[str, object]:
    """Return a description of this machine."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": int(_field("/proc/meminfo", "MemTotal").split()[0]) * 1024,
        "kernel": platform.release(),
        "system": _field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "python": platform.python_version(),
    }


def filesystem(path: Path) -> str:
    """Return the filesystem type of ``path``."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return "unknown"


def mounts_below(path: Path) -> list[str]:
    """Return the mount points below ``path``, innermost first; ``path`` may contain symlinks."""
    top = f"{path.resolve()}/"
    points = [
        line.split()[4].encode().decode("unicode_escape")
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    return [point for point in points[::-1] if point.startswith(top)]


def _field(path: str, name: str, separator: str = ":") -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip()
    return "unknown"
