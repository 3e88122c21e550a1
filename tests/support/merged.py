"""A merged tree as the same value that a tree on disk is for `tests.support.snapshot`."""

from __future__ import annotations

import os
import stat

from stacker.tree.merged import ROOT, MergedTree, Node
from tests.support.snapshot import KINDS
from tests.support.snapshot import Node as Seen


def merged_snapshot(tree: MergedTree) -> dict[bytes, Seen]:
    """Ask a tree for everything a process could see of it."""
    paths: dict[Node, bytes] = {}
    todo = [ROOT]
    while todo:
        node = todo.pop()
        paths[node] = tree.path(node)
        for child in tree.children(node):
            assert tree.lookup(node, tree.name(child)) == child
            assert tree.parent(child) == node
            todo.append(child)
    groups: dict[Node, list[bytes]] = {}
    for node, path in paths.items():
        groups.setdefault(tree.inode(node), []).append(path)
    return {
        path: _seen(tree, tree.inode(node), tuple(sorted(groups[tree.inode(node)])))
        for node, path in sorted(paths.items(), key=lambda item: item[1])
    }


def _seen(tree: MergedTree, inode: Node, group: tuple[bytes, ...]) -> Seen:
    mode, nlink, uid, gid, size, mtime, device = tree.attributes(inode)
    kind = KINDS[stat.S_IFMT(mode)]
    content = b""
    if kind == "file":
        content = tree.read(inode, 0, size + 1)
        assert nlink == len(group)
    elif kind == "symlink":
        content = tree.readlink(inode) or b""
    return Seen(
        kind=kind,
        mode=stat.S_IMODE(mode),
        owner=(uid, gid),
        mtime=mtime,
        size=size,
        content=content,
        device=device,
        xattrs=tuple(sorted((os.fsdecode(k), v) for k, v in tree.xattrs(inode).items())),
        group=group,
    )
