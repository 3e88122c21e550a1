"""A writable tree on directories of a test, addressed by path."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.plan import Plan
from stacker.tree.creation import Caller
from stacker.tree.merged import merge
from stacker.tree.protocol import ROOT, Node
from stacker.tree.writable import WritableTree
from tests.support.merged import tree_snapshot
from tests.support.snapshot import Node as Seen

ROOT_USER = Caller(0, 0)


class Writable:
    """A writable tree with lower directories, an upper and a work directory below ``workspace``.

    :param lowers: names of directories below ``workspace``, topmost first.
    """

    def __init__(
        self, workspace: Path, lowers: Sequence[str] = ("lower",), whiteout_format: str = "trusted"
    ) -> None:
        self.workspace = workspace
        self.whiteout_format = WhiteoutFormat(whiteout_format)
        self.lowers = [workspace / name for name in lowers]
        self.upper, self.work = workspace / "upper", workspace / "work"
        for directory in (*self.lowers, self.upper, self.work):
            directory.mkdir(exist_ok=True)
        self.tree = self._open()

    def _open(self) -> WritableTree:
        lower = merge(self.lowers, self.whiteout_format)
        return WritableTree(lower, self.whiteout_format, self.upper, self.work, durable=True)

    def reopen(self) -> None:
        """Close the tree and open it again, as another mount would."""
        self.tree.close()
        self.tree = self._open()

    def close(self) -> None:
        self.tree.close()

    def at(self, path: str | bytes) -> Node:
        """Return the inode of a path."""
        node = ROOT
        for name in filter(None, os.fsencode(path).split(b"/")):
            found = self.tree.lookup(node, name)
            if found is None:
                raise FileNotFoundError(2, "no such name", path)
            node = found
        return node

    def parent_and_name(self, path: str | bytes) -> tuple[Node, bytes]:
        """Return the directory of a path, and its last name."""
        above, _, name = os.fsencode(path).rpartition(b"/")
        return self.at(above), name

    def names(self, path: str = "") -> list[str]:
        return sorted(os.fsdecode(name) for _, name, _ in self.tree.entries(self.at(path)))

    def read(self, path: str | bytes) -> bytes:
        return self.content(self.at(path))

    def content(self, node: Node) -> bytes:
        return self.tree.read(node, 0, self.tree.status(node).size + 1)

    def write(self, path: str, data: bytes, offset: int = 0) -> None:
        self.tree.files.write(self.at(path), data, offset)

    def create(self, path: str, data: bytes = b"", mode: int = 0o644) -> Node:
        node = self.tree.create(*self.parent_and_name(path), mode, ROOT_USER)
        if data:
            self.tree.files.write(node, data, 0)
        return node

    def mkdir(self, path: str, mode: int = 0o755) -> Node:
        return self.tree.make_directory(*self.parent_and_name(path), mode, ROOT_USER)

    def unlink(self, path: str) -> None:
        self.tree.unlink(*self.parent_and_name(path))

    def rmdir(self, path: str) -> None:
        self.tree.remove_directory(*self.parent_and_name(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.tree.rename(*self.parent_and_name(old), *self.parent_and_name(new), flags)

    def link(self, old: str, new: str) -> None:
        self.tree.link(self.at(old), *self.parent_and_name(new))

    def snapshot(self) -> dict[bytes, Seen]:
        """Return everything that a process could read of the tree."""
        return tree_snapshot(self.tree)

    @contextmanager
    def by_kernel(self, work: str = "kernel") -> Iterator[Path]:
        """Mount the same directories with the kernel's overlayfs, writable."""
        target, scratch = self.workspace / "target", self.workspace / work
        target.mkdir(exist_ok=True)
        scratch.mkdir(exist_ok=True)
        layers = tuple(self.lowers)
        plan = Plan(
            "kernel",
            target,
            layers,
            self.whiteout_format,
            False,
            self.upper,
            scratch,
            volatile=False,
        )
        OverlayDriver().mount(plan)
        try:
            yield target
        finally:
            mountapi.umount2(target)


LONG_AGO = 1_000_000_000


def on_disk(tree: Writable, path: str = "") -> list[str]:
    return sorted(os.listdir(tree.upper / path))


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)
