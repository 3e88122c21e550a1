"""Compare two indexes of a layer: the one on disk, and one that was made from the tar.

Two :class:`~stacker.erofs.read.Image` come in; differences go out, each with the path and both
values.  This module must not read tars.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from stacker.layer.symlinks import join
from stacker.tar.entry import printable
from stacker.tree.compare import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.erofs.read import Image, Inode

_DOTS: Final = (b".", b"..")
_KINDS: Final = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symbolic link",
}


def index_differences(got: Image, want: Image) -> Iterator[Difference]:
    """Yield every difference between two trees, parents first.

    :raises IntegrityError: an image is damaged.
    """
    todo = [(b"", got.superblock.root, want.superblock.root)]
    while todo:
        path, left, right = todo.pop()
        here, there = got.inode(left), want.inode(right)
        yield from _attributes(path, got, here, want, there)
        if not (stat.S_ISDIR(here.mode) and stat.S_ISDIR(there.mode)):
            continue
        found, wanted = _children(got, here), _children(want, there)
        for name in sorted(found.keys() | wanted.keys(), reverse=True):
            inner = join(path, name)
            if name in found and name in wanted:
                todo.append((inner, found[name], wanted[name]))
            else:
                yield Difference(
                    inner, "type", _kind(got, found.get(name)), _kind(want, wanted.get(name))
                )


def _children(image: Image, inode: Inode) -> dict[bytes, int]:
    return {name: nid for name, nid, _ in image.names(inode) if name not in _DOTS}


def _kind(image: Image, nid: int | None) -> str:
    if nid is None:
        return "nothing"
    return _KINDS.get(stat.S_IFMT(image.inode(nid).mode), "device or FIFO")


def _attributes(
    path: bytes, got: Image, here: Inode, want: Image, there: Inode
) -> Iterator[Difference]:
    if stat.S_IFMT(here.mode) != stat.S_IFMT(there.mode):
        yield Difference(path, "type", _kind(got, here.nid), _kind(want, there.nid))
        return
    for what, left, right in zip(
        ("mode", "owner", "mtime", "size", "links", "xattrs", "target", "contents", "device"),
        _values(got, here),
        _values(want, there),
        strict=True,
    ):
        if left != right:
            yield Difference(path, what, left, right)


def _values(image: Image, inode: Inode) -> tuple[str, ...]:
    kind, is_file = stat.S_IFMT(inode.mode), stat.S_ISREG(inode.mode)
    xattrs = sorted(image.xattrs(inode).items())
    chunks = (
        ", ".join(f"{c.length} bytes at byte {c.start} of {c.tar}" for c in image.chunks(inode))
        if is_file
        else ""
    )
    return (
        f"{stat.S_IMODE(inode.mode):04o}",
        f"{inode.uid}:{inode.gid}",
        f"{inode.seconds}.{inode.nanoseconds:09d} s",
        f"{inode.size} bytes",
        f"{inode.links} names",
        ", ".join(f"{printable(name)}={value[:16].hex()}" for name, value in xattrs) or "none",
        printable(image.target(inode)) if kind == stat.S_IFLNK else "",
        chunks,
        f"{inode.device}" if kind in (stat.S_IFCHR, stat.S_IFBLK) else "",
    )
