"""Symbolic links followed by name, inside a root.

In: a path, and a question that says where a link leads.  Out: the path with no link in it.  One
walk serves the tree that grows and the tree that is merged, so a link means the same in both.
Source: path_resolution(7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stacker.errors import LayerError
from stacker.tar.entry import shown

_LINKS_IN_A_PATH: Final = 40  # as the kernel's MAXSYMLINKS (path_resolution(7))


def joined(parent: bytes, name: bytes) -> bytes:
    """Join two normalised paths; the root is empty."""
    return parent + b"/" + name if parent else name


def followed(
    path: bytes,
    target_of: Callable[[bytes], bytes | None],
    *,
    want: str,
    left: Callable[[bytes], None] | None = None,
    check: Callable[[int], None] | None = None,
) -> bytes:
    """Follow every symbolic link in ``path``; what does not exist stays as it is.

    :param target_of: gives a link's target, ``None`` for all else; asked of physical paths.
    :param want: what an error says should have been there.
    :param left: told of each directory that a ``..`` leaves again.
    :param check: told after each link how many components are still to be walked.
    :raises LayerError: the links go round in a circle.
    """
    todo, physical, links = path.split(b"/")[::-1], b"", 0
    while todo:
        part = todo.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            if left is not None:
                left(physical)
            physical = physical.rpartition(b"/")[0]
            continue
        candidate = joined(physical, part)
        target = target_of(candidate)
        if target is None:
            physical = candidate
            continue
        links += 1
        if links > _LINKS_IN_A_PATH:
            raise LayerError(
                f"symlink loop: {shown(path)}: got more than {_LINKS_IN_A_PATH} links, want {want}"
            )
        if target[:1] == b"/":
            physical = b""
        todo.extend(target.split(b"/")[::-1])
        if check is not None:
            check(len(todo))
    return physical
