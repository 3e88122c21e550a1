"""Make the hard links of a layer, before or after their targets.

A link may precede its target, and its target may be in a layer below.  A link without a target
waits until the stream ends; the links that still have none are returned, for the stack to make.
This module must not set metadata: the header of a link repeats the metadata of its target.
"""

from __future__ import annotations

import stat
from typing import Final

from stacker.errors import LayerError
from stacker.layer.root import LayerRoot
from stacker.layer.symlinks import join
from stacker.tar.entry import HardLink, printable

_DEFERRED_BYTES: Final = 300
"""Bytes of memory for a link of the record, besides its names, when a stack is built."""


def apply_hard_link(tree: LayerRoot, entry: HardLink, what: str) -> None:
    """Make a hard link, or add its physical path to ``tree.pending``.

    :raises LayerError: the target is a directory.
    """
    above, _, name = entry.path.rpartition(b"/")
    parent, physical = tree.parent(above)
    path = join(physical, name)
    target_above, _, target_name = entry.target.rpartition(b"/")
    found = tree.existing(target_above)
    if found is not None and join(found[1], target_name) == path:
        # It changes nothing.  Only the stack knows whether a lower layer has the file.
        if path not in tree.pending and not tree.exists(parent, name):
            tree.defer(path, path)
        return
    if entry.target.startswith(path + b"/"):
        raise LayerError(
            f"malformed hard link: {what}: {printable(entry.path)}: got the target "
            f"{printable(entry.target)}, which is below the link itself, want a file elsewhere"
        )
    if found is not None:
        _has_target(tree, found, target_name, entry, what)
    parent, _ = tree.parent(above)
    if tree.exists(parent, name):
        tree.set_aside(parent, name, path)
    tree.pending.discard(path)
    if not _link(tree, entry, parent, name, what):
        tree.defer(path, entry.target)


def _has_target(
    tree: LayerRoot, directory: tuple[int, bytes], name: bytes, entry: HardLink, what: str
) -> bool:
    """Return whether the target of a link is in this layer.

    An implied directory does not count: a lower layer may have a symbolic link there.

    :raises LayerError: the target is a directory.
    """
    parent, physical = directory
    try:
        kind = tree.kind(parent, name)
    except FileNotFoundError:
        return False
    if kind != stat.S_IFDIR:
        return True
    if name and tree.directories[join(physical, name)] is None:
        return False
    raise LayerError(
        f"malformed hard link: {what}: {printable(entry.path)}: got the directory "
        f"{printable(entry.target) or '/'} as target, want a file"
    )


def _link(tree: LayerRoot, entry: HardLink, parent: int, name: bytes, what: str) -> bool:
    """Link the target and return whether it exists; a symbolic link is linked, not followed."""
    above, _, target = entry.target.rpartition(b"/")
    found = tree.existing(above)
    if found is None or not _has_target(tree, found, target, entry, what):
        return False
    tree.link(found[0], target, parent, name)
    return True


def resolve_pending(tree: LayerRoot, what: str) -> tuple[HardLink, ...]:
    """Make the links whose targets came later; return the others in order."""

    def make(link: HardLink) -> bytes | None:
        parent, _ = tree.parent(link.path.rpartition(b"/")[0])
        if _link(tree, link, parent, link.path.rpartition(b"/")[2], what):
            return None
        above, _, name = link.target.rpartition(b"/")
        found = tree.existing(above)
        return link.target if found is None else join(found[1], name)

    tree.pending.make(make)
    for link in tree.pending:
        tree.budget.spend(_DEFERRED_BYTES, link.path)
    return tuple(tree.pending)
