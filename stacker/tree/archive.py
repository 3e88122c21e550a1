"""Write a merged tree as one tar.

A :class:`~stacker.tree.protocol.LowerTree` comes in; the chunks of a tar go out.  The tar depends
on the tree alone: names are in order, and a hole is a run of zeros, wherever the zeros are stored.
So a tree of directories and the tree of an index give the same bytes.  This module must not write
files.
"""

from __future__ import annotations

import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Final

from stacker.errors import UnsupportedError
from stacker.layer.symlinks import join
from stacker.tar.entry import printable
from stacker.tar.write import BLOCK, END, Member, member_header, sparse_map
from stacker.tree.contents import changed_file, data_segments, segment_data
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.tree.protocol import Contents, LowerTree, Node, Status

KINDS: Final = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
"""The typeflag of each kind of file."""
HARD_LINK: Final = b"1"


class TreeArchive:
    """The tar of a tree; ``entries`` counts the members so far."""

    def __init__(self, tree: LowerTree, what: str) -> None:
        """Prepare the tar.

        :param what: the name of the image in errors.
        """
        self.entries = 0
        self._tree = tree
        self._what = what
        self._first: dict[Node, bytes] = {}

    def chunks(self) -> Iterator[bytes]:
        """Yield the tar.

        :raises IntegrityError: a file on disk is missing or shorter than its layer declares.
        :raises UnsupportedError: a tar cannot hold a file.
        :raises OSError: the disk cannot read a file.
        """
        todo = [(b"", ROOT)]
        while todo:
            path, inode = todo.pop()
            status = self._tree.status(inode)
            self.entries += 1
            yield from self._member(path, inode, status)
            if stat.S_ISDIR(status.mode):
                names = [(join(path, name), child) for _, name, child in self._tree.entries(inode)]
                todo += names[::-1]
        yield END

    def _member(self, path: bytes, inode: Node, status: Status) -> Iterator[bytes]:
        kind, directory = stat.S_IFMT(status.mode), stat.S_ISDIR(status.mode)
        first = self._first.get(inode)
        if first is not None:
            yield member_header(Member(path, HARD_LINK, mtime=status.mtime, target=first))
            return
        if status.nlink > 1 and not directory:
            self._first[inode] = path
        if kind not in KINDS:
            raise UnsupportedError(
                f"cannot write to a tar: /{printable(path)}: got a file of type {kind:06o}, "
                "want a file, directory, link, device or FIFO"
            )
        member = Member(
            name=(path or b".") + b"/" if directory else path,
            kind=KINDS[kind],
            mode=stat.S_IMODE(status.mode),
            uid=status.uid,
            gid=status.gid,
            mtime=status.mtime,
            target=self._tree.readlink(inode) if kind == stat.S_IFLNK else b"",
            device=(os.major(status.device), os.minor(status.device)),
            xattrs=self._tree.xattrs(inode),
        )
        if kind == stat.S_IFREG and status.size:
            yield from self._file(path, inode, member)
        else:
            yield member_header(member)

    def _file(self, path: bytes, inode: Node, member: Member) -> Iterator[bytes]:
        with changed_file(self._what, path), closing(self._tree.file(inode)) as file:
            yield from with_contents(file, member)


def with_contents(file: Contents, member: Member) -> Iterator[bytes]:
    """Yield a member with the contents of its file, as a sparse file if that has holes."""
    segments = data_segments(file)
    length = sum(segment.length for segment in segments)
    head = b""
    if length < file.size:
        head = sparse_map(segments)
        member = member._replace(sparse=file.size)
    yield member_header(member._replace(size=len(head) + length)) + head
    yield from segment_data(file, segments)
    if length % BLOCK:
        yield bytes(-length % BLOCK)
