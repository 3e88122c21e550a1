"""Write a merged tree as one EROFS image that has its file contents in it.

A :class:`~stacker.tree.protocol.LowerTree` comes in; an image for other machines goes out.  The
inodes come first, then the contents in the same order.  The size of the inodes does not depend on
where contents start, so the inodes are encoded twice: once to learn their size.  The same tree
gives the same image, in either form.  This module must not mount anything.
"""

from __future__ import annotations

import stat
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO

from stacker.erofs.format import BLOCK, aligned, split_xattr_name
from stacker.erofs.inodes import Inodes
from stacker.erofs.write import write_image
from stacker.errors import UnsupportedError
from stacker.layer.symlinks import join
from stacker.stream.verify import metered
from stacker.tar.entry import Meta, Segment, printable
from stacker.tree.contents import changed_file, data_segments, segment_data
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stacker.erofs.inodes import XattrSet
    from stacker.tree.protocol import Contents, LowerTree, Node, Status


class ErofsImage:
    """The image of a tree; ``entries`` counts its names."""

    def __init__(self, tree: LowerTree, what: str) -> None:
        """Prepare the image.

        :param what: the name of the tree in errors.
        """
        self.entries = 0
        self._tree = tree
        self._what = what
        self._inodes = Inodes()
        self._numbers: dict[Node, int] = {}
        self._contents: list[tuple[bytes, Node, int]] = []
        """The path, the node and the number of each file that is not empty."""
        self._length = 0

    def write(self, out: BinaryIO, report: Callable[[int], None]) -> None:
        """Write the image to an empty file that can seek.

        :param report: called with the bytes of each chunk of contents.

        :raises IntegrityError: a file on disk is missing or shorter than its layer declares.
        :raises UnsupportedError: EROFS cannot hold an xattr.
        :raises LayerError: EROFS cannot hold the tree.
        :raises OSError: the disk cannot read or write a file.
        """
        root = self._collect()
        write_image(out, self._inodes, root, (), contents=self._length)
        start = out.tell()
        for _, _, number in self._contents:
            self._inodes.start[number] += start
        out.seek(0)
        write_image(out, self._inodes, root, (), contents=self._length)
        for path, node, number in self._contents:
            self._write_contents(out, path, node, number, report)

    def _collect(self) -> int:
        """Add all inodes, and return the number of the root."""
        tree, inodes = self._tree, self._inodes
        root = self._added(b"", ROOT)
        todo = [(b"", ROOT, root)]
        while todo:
            path, directory, number = todo.pop()
            inner = []
            for _, name, child in tree.entries(directory):
                below = join(path, name)
                known = self._numbers.get(child)
                inodes.directories[number][name] = found = (
                    self._added(below, child) if known is None else known
                )
                self.entries += known is not None
                if found in inodes.directories:
                    inner.append((below, child, found))
            todo += inner[::-1]
        return root

    def _added(self, path: bytes, node: Node) -> int:
        self.entries += 1
        inodes, status = self._inodes, self._tree.status(node)
        kind, xattrs = stat.S_IFMT(status.mode), self._xattrs(path, node)
        meta = _meta(status)
        if kind == stat.S_IFDIR:
            return inodes.add_directory(meta, xattrs)
        if kind == stat.S_IFLNK:
            number = inodes.add_symlink(meta, self._tree.readlink(node), xattrs)
        elif kind == stat.S_IFREG and status.size:
            number = inodes.add(kind, meta, xattrs, size=status.size, start=self._length)
            self._place(path, node, number)
        else:
            number = inodes.add(kind, meta, xattrs, start=status.device)
        if status.nlink > 1:
            self._numbers[node] = number
        return number

    def _place(self, path: bytes, node: Node, number: int) -> None:
        """Give the contents of a file their place after those of the files before it."""
        with changed_file(self._what, path), closing(self._tree.file(node)) as file:
            segments = data_segments(file)
            length = sum(segment.length for segment in segments)
            if length < file.size:
                self._inodes.sparse[number] = tuple(each for each in segments if each.length)
        self._contents.append((path, node, number))
        self._length += aligned(length, BLOCK)

    def _write_contents(
        self,
        out: BinaryIO,
        path: bytes,
        node: Node,
        number: int,
        report: Callable[[int], None],
    ) -> None:
        segments = self._inodes.sparse.get(number)
        if segments is None:
            segments = (Segment(0, self._inodes.size[number]),)
        with closing(self._opened(path, node)) as file:
            chunks = metered(segment_data(file, segments), report)
            while chunk := self._next(path, chunks):
                out.write(chunk)
        out.write(bytes(-sum(segment.length for segment in segments) % BLOCK))

    def _opened(self, path: bytes, node: Node) -> Contents:
        with changed_file(self._what, path):
            return self._tree.file(node)

    def _next(self, path: bytes, chunks: Iterator[bytes]) -> bytes:
        """Return the next chunk, or nothing; errors of the output are not those of the file."""
        with changed_file(self._what, path):
            return next(chunks, b"")

    def _xattrs(self, path: bytes, node: Node) -> XattrSet:
        xattrs = self._tree.xattrs(node)
        for name in xattrs:
            if split_xattr_name(name) is None:
                raise UnsupportedError(
                    f"cannot write to an EROFS image: /{printable(path)}: "
                    f"got the xattr {printable(name)}, want user, trusted, security or a POSIX ACL"
                )
        return tuple(sorted(xattrs.items()))


def _meta(status: Status) -> Meta:
    mode, time = stat.S_IMODE(status.mode), status.mtime
    return Meta(mode, status.uid, status.gid, time, time, None)
