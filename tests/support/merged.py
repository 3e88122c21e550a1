"""The snapshot of a merged tree, equal to that of the same tree on disk."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from stacker.tree.protocol import ROOT, Node
from tests.support.snapshot import KINDS
from tests.support.snapshot import Node as Seen

if TYPE_CHECKING:
    from stacker.tree.protocol import Tree


def tree_snapshot(tree: Tree) -> dict[bytes, Seen]:
    """Return every path of a tree with all that a process could read of it."""
    paths: dict[bytes, Node] = {}
    todo: list[tuple[bytes, Node]] = [(b"", ROOT)]
    while todo:
        path, node = todo.pop()
        paths[path] = node
        if tree.kind(node) == stat.S_IFDIR:
            inside = path + b"/" if path else b""
            for _, name, child in tree.entries(node):
                assert tree.lookup(node, name) == child
                if tree.kind(child) == stat.S_IFDIR:
                    assert tree.parent(child) == node
                todo.append((inside + name, child))
    groups: dict[Node, list[bytes]] = {}
    for path, node in paths.items():
        groups.setdefault(node, []).append(path)
    return {path: _seen(tree, paths[path], groups[paths[path]]) for path in sorted(paths)}


def _seen(tree: Tree, node: Node, group: list[bytes]) -> Seen:
    status = tree.status(node)
    kind = KINDS[stat.S_IFMT(status.mode)]
    content = b""
    if kind == "directory":
        assert status.nlink == 1
    else:
        assert status.nlink == len(group)
    if kind == "file":
        content = tree.read(node, 0, status.size + 1)
    elif kind == "symlink":
        content = tree.readlink(node)
    return Seen(
        kind=kind,
        mode=stat.S_IMODE(status.mode),
        owner=(status.uid, status.gid),
        mtime=status.mtime,
        size=0 if kind == "directory" else status.size,
        content=content,
        device=status.device if kind in ("char", "block") else 0,
        xattrs=tuple(
            (os.fsdecode(name), tree.xattr(node, name)) for name in sorted(tree.xattr_names(node))
        ),
        group=tuple(sorted(group)),
    )
