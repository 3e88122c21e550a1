"""Follow symbolic links by name, inside a root (path_resolution(7)).

A path and a function that reads links come in; a path without symbolic links goes out.  The tree
that grows and the merged tree share this walk, so a link means the same in both.  This module
must not use a filesystem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stacker.errors import LayerError
from stacker.tar.entry import printable

_MAX_LINKS: Final = 40  # the kernel's MAXSYMLINKS (path_resolution(7))


def join(parent: bytes, name: bytes) -> bytes:
    """Join two normalised paths; the root is empty."""
    return parent + b"/" + name if parent else name


def follow_symlinks(
    path: bytes,
    target_of: Callable[[bytes], bytes | None],
    *,
    want: str,
    left: Callable[[bytes], None] | None = None,
    check: Callable[[int], None] | None = None,
) -> bytes:
    """Follow every symbolic link in ``path``; keep components that do not exist.

    :param target_of: returns the target of a link, ``None`` for anything else; gets physical paths.
    :param want: names the expected file type in an error.
    :param left: called with each directory that a ``..`` leaves.
    :param check: called after each link with the number of components that remain.
    :raises LayerError: the links form a loop.
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
        candidate = join(physical, part)
        target = target_of(candidate)
        if target is None:
            physical = candidate
            continue
        links += 1
        if links > _MAX_LINKS:
            raise LayerError(
                f"symlink loop: {printable(path)}: got more than {_MAX_LINKS} links, want {want}"
            )
        if target[:1] == b"/":
            physical = b""
        todo.extend(target.split(b"/")[::-1])
        if check is not None:
            check(len(todo))
    return physical
