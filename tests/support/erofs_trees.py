"""Trees in memory for tests of EROFS images, and their images."""

from __future__ import annotations

import io
from collections.abc import Sequence

from stacker.erofs.inodes import Inodes
from stacker.erofs.read import Image
from stacker.erofs.write import Tar, write_image
from stacker.tar.entry import Meta

SECOND = 1_000_000_000


def meta(mode: int = 0o644, *, uid: int = 0, gid: int = 0, mtime: int = SECOND) -> Meta:
    """Return the attributes of an entry."""
    return Meta(mode, uid, gid, mtime, mtime, None)


class Tree:
    """A tree in memory with a root directory."""

    def __init__(self) -> None:
        self.inodes = Inodes()
        self.root = self.inodes.add_directory(meta(0o755))

    def directory(self, name: bytes, above: int | None = None) -> int:
        """Add a directory."""
        number = self.inodes.add_directory(meta(0o755))
        self.name(name, number, above)
        return number

    def file(self, name: bytes, size: int = 0, start: int = 512, above: int | None = None) -> int:
        """Add a regular file."""
        number = self.inodes.add(0o100000, meta(), size=size, start=start, tar=1)
        self.name(name, number, above)
        return number

    def name(self, name: bytes, number: int, above: int | None = None) -> None:
        """Give an inode a name."""
        self.inodes.directories[self.root if above is None else above][name] = number

    def written(self, *sizes: int) -> bytes:
        """Return the image; it refers to tars of these sizes."""
        out = io.BytesIO()
        write_image(out, self.inodes, self.root, [Tar(size) for size in sizes])
        return out.getvalue()

    def image(self, *sizes: int) -> Image:
        """Return the image for reading."""
        return Image(self.written(*sizes), "test")


def names_of(image: Image, *path: bytes) -> list[bytes]:
    """Return the names in a directory of an image."""
    inode = image.inode(image.superblock.root)
    for name in path:
        nid = image.lookup(inode, name)
        assert nid is not None
        inode = image.inode(nid)
    found: Sequence[tuple[bytes, int, int]] = list(image.names(inode))
    return [name for name, _, _ in found if name not in (b".", b"..")]
