"""Hard links within a layer, before and after their targets.

A link may precede its target, and its target may be in a layer below.  So a link whose target
is not there waits until the stream has ended; what is still missing then is deferred to the
stack.  Knows paths and the growing tree, no metadata: a link's header repeats its target's.
"""

from __future__ import annotations

import os
import stat

from stacker.errors import LayerError
from stacker.layer.record import DeferredLink
from stacker.layer.root import Tree
from stacker.layer.symlinks import joined
from stacker.tar.entry import HardLink, shown


def attach(tree: Tree, entry: HardLink, what: str) -> None:
    """Make the link, or leave it in ``tree.pending`` under its physical path.

    :raises LayerError: the target is a directory.
    """
    above, _, name = entry.path.rpartition(b"/")
    parent, physical = tree.parent(above)
    path = joined(physical, name)
    target_above, _, target_name = entry.target.rpartition(b"/")
    found = tree.existing(target_above)
    if found is not None and joined(found[1], target_name) == path:
        return  # a link to itself keeps what is there
    if entry.target.startswith(path + b"/"):
        raise LayerError(
            f"malformed hard link: {what}: {shown(entry.path)}: got the target "
            f"{shown(entry.target)}, which lies below the link itself"
        )
    if found is not None:
        _is_there(tree, found, target_name, entry, what)
    parent, _ = tree.parent(above)
    if _exists(parent, name):
        tree.displace(parent, name, path)
    tree.pending.pop(path, None)
    if not _link(tree, entry, parent, name, what):
        tree.wait(path, entry.target)


def _exists(parent: int, name: bytes) -> bool:
    try:
        os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return False
    return True


def _is_there(
    tree: Tree, directory: tuple[int, bytes], name: bytes, entry: HardLink, what: str
) -> bool:
    """Say whether a link's target is in this layer.

    A directory that is only implied may be a symbolic link in a lower layer, so it is not.

    :raises LayerError: the target is a directory.
    """
    parent, physical = directory
    try:
        mode = os.lstat(name or b".", dir_fd=parent).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        return True
    if name and tree.directories[joined(physical, name)] is None:
        return False
    raise LayerError(
        f"malformed hard link: {what}: {shown(entry.path)}: got the directory "
        f"{shown(entry.target) or '/'} as target, want a file"
    )


def _link(tree: Tree, entry: HardLink, parent: int, name: bytes, what: str) -> bool:
    """Link the target, itself even where it is a symbolic link; say whether it was there."""
    above, _, target = entry.target.rpartition(b"/")
    found = tree.existing(above)
    if found is None or not _is_there(tree, found, target, entry, what):
        return False
    os.link(target, name, src_dir_fd=found[0], dst_dir_fd=parent, follow_symlinks=False)
    return True


def resolve_pending(tree: Tree, what: str) -> tuple[DeferredLink, ...]:
    """Make the links whose targets came later; give the others back in order.

    A link may wait for another link, so each one made wakes those that wait for it.
    """
    ready, waiting = list(tree.pending), dict[bytes, list[bytes]]()
    for path in ready:
        target = tree.pending[path]
        above, _, name = path.rpartition(b"/")
        parent, _ = tree.parent(above)
        if _link(tree, HardLink(path, target), parent, name, what):
            del tree.pending[path]
            ready.extend(waiting.pop(path, ()))
        else:
            target_above, _, target_name = target.rpartition(b"/")
            found = tree.existing(target_above)
            if found is not None:
                waiting.setdefault(joined(found[1], target_name), []).append(path)
    return tuple(DeferredLink(path, target) for path, target in tree.pending.items())
