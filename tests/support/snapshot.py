"""A tree on disk as a comparable value: each path with all that a process can read of it."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_EXTRACT = (
    *("tar", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*"),
    *("--warning=no-timestamp", "-xpf"),
)


@dataclass(frozen=True, slots=True)
class Node:
    """One path.  ``group`` lists the names of the same inode, sorted."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime: int
    size: int
    content: bytes
    device: int
    xattrs: tuple[tuple[str, bytes], ...]
    group: tuple[bytes, ...]


KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def inode_numbers(root: Path) -> dict[str, int]:
    """Return the inode number of every path below ``root``."""
    return {str(path.relative_to(root)): path.lstat().st_ino for path in root.rglob("*")}


def extracted(tar: Path) -> dict[bytes, Node]:
    """Return the snapshot of a tree that GNU tar extracts, with owners, xattrs and devices."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([*_EXTRACT, tar, "-C", directory], check=True)
        return snapshot(directory)


def snapshot(root: Path | str) -> dict[bytes, Node]:
    """Return every path below ``root``, and the root itself as ``b""``."""
    top = os.fsencode(root)
    stats: dict[bytes, os.stat_result] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        stats[path] = status = os.lstat(top + b"/" + path)
        if stat.S_ISDIR(status.st_mode):
            todo += [
                (path + b"/" if path else b"") + name for name in os.listdir(top + b"/" + path)
            ]
    groups: dict[tuple[int, int], list[bytes]] = {}
    for path, status in stats.items():
        if not stat.S_ISDIR(status.st_mode):
            groups.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {
        path: _node(top + b"/" + path, status, groups.get((status.st_dev, status.st_ino), [path]))
        for path, status in sorted(stats.items())
    }


def _open_unnoticed(path: str, flags: int) -> int:
    """Open a file without a change of its access time, if the caller owns it."""
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def _node(path: bytes, status: os.stat_result, group: list[bytes]) -> Node:
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    content = b""
    if kind == "file":
        with open(path, "rb", opener=_open_unnoticed) as file:
            content = file.read()
    elif kind == "symlink":
        content = os.readlink(path)
    return Node(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime=status.st_mtime_ns,
        size=0 if kind == "directory" else status.st_size,
        content=content,
        device=status.st_rdev if kind in ("char", "block") else 0,
        xattrs=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        ),
        group=tuple(sorted(group)),
    )
