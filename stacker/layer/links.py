"""Hard links within a layer, before and after their targets.

A link may precede its target, and its target may be in a layer below.  So a link whose target
is not there waits until the stream has ended; what is still missing then is deferred to the
stack.  Knows paths and the growing tree, no metadata: a link's header repeats its target's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from stacker.errors import LayerError
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


def resolve_pending(tree: Tree, what: str) -> tuple[HardLink, ...]:
    """Make the links whose targets came later; return the others in order."""

    def make(link: HardLink) -> bytes | None:
        parent, _ = tree.parent(link.path.rpartition(b"/")[0])
        if _link(tree, link, parent, link.path.rpartition(b"/")[2], what):
            del tree.pending[link.path]
            return None
        above, _, name = link.target.rpartition(b"/")
        found = tree.existing(above)
        return link.target if found is None else joined(found[1], name)

    links = [HardLink(path, target) for path, target in tree.pending.items()]
    return tuple(make_in_order(links, make).values())


def make_in_order(
    links: Iterable[HardLink], make: Callable[[HardLink], bytes | None]
) -> dict[bytes, HardLink]:
    """Make hard links, each after the links that its target depends on, in linear time.

    :param make: makes one link and returns ``None``, or returns the path that it waits for.
    :returns: the links that could not be made, by path, in their order.
    """
    left = {link.path: link for link in links}
    ready, waiting = list(left.values()), dict[bytes, list[HardLink]]()
    for link in ready:
        wanted = make(link)
        if wanted is None:
            del left[link.path]
            ready.extend(waiting.pop(link.path, ()))
        else:
            waiting.setdefault(wanted, []).append(link)
    return left
