"""Write a merged tree as one tar.

A :class:`~stacker.tree.protocol.LowerTree` comes in; the chunks of a tar go out.  The tar depends
on the tree alone: names are in order, and a hole is a run of zeros, wherever the zeros are stored.
So a tree of directories and the tree of an index give the same bytes.  This module must not write
files.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError, UnsupportedError
from stacker.layer.symlinks import join
from stacker.tar.entry import Segment, printable
from stacker.tar.write import BLOCK, END, Member, member_header, sparse_map
from stacker.tree.contents import read_into
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.tree.protocol import Contents, LowerTree, Node, Status

_CHUNK: Final = 1 << 20
_UNIT: Final = 1 << 16
"""Zeros become a hole if they fill an aligned range of this size in bytes."""
_WORTH_HOLES: Final = 1 << 20
"""Smaller files are written whole: to find holes, a file is read twice."""
_KINDS: Final = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_HARD_LINK: Final = b"1"
_SHRUNK: Final = frozenset({errno.EIO, errno.ENOENT, errno.ENODATA})


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
            yield member_header(Member(path, _HARD_LINK, mtime=status.mtime, target=first))
            return
        if status.nlink > 1 and not directory:
            self._first[inode] = path
        if kind not in _KINDS:
            raise UnsupportedError(
                f"cannot write to a tar: /{printable(path)}: got a file of type {kind:06o}, "
                "want a file, directory, link, device or FIFO"
            )
        member = Member(
            name=(path or b".") + b"/" if directory else path,
            kind=_KINDS[kind],
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
        try:
            with closing(self._tree.file(inode)) as file:
                yield from _with_contents(file, member)
        except OSError as error:
            if error.errno not in _SHRUNK:
                raise
            raise IntegrityError(
                f"file differs from its layer: {self._what}: /{printable(path)}: {error.strerror}",
                hint="`stacker repair` replaces damaged layers",
            ) from error


def _with_contents(file: Contents, member: Member) -> Iterator[bytes]:
    segments = _segments(file) if file.size >= _WORTH_HOLES else [Segment(0, file.size)]
    length = sum(segment.length for segment in segments)
    head = b""
    if length < file.size:
        head = sparse_map(segments)
        member = member._replace(sparse=file.size)
    yield member_header(member._replace(size=len(head) + length)) + head
    for offset, size in segments:
        for at in range(offset, offset + size, _CHUNK):
            yield _read(file, at, min(_CHUNK, offset + size - at))
    if length % BLOCK:
        yield bytes(-length % BLOCK)


def _segments(file: Contents) -> Sequence[Segment]:
    """Return the ranges of a file that are not holes; the last one ends where the file does."""
    found: list[Segment] = []
    for at in range(0, file.size, _UNIT):
        length = min(_UNIT, file.size - at)
        data = _read(file, at, length)
        if data.count(0) == length:
            continue
        if found and found[-1].offset + found[-1].length == at:
            found[-1] = Segment(found[-1].offset, found[-1].length + length)
        else:
            found.append(Segment(at, length))
    if not found or found[-1].offset + found[-1].length < file.size:
        found.append(Segment(file.size, 0))  # GNU tar's readers take the size from it
    return found


def _read(file: Contents, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    read_into(file, memoryview(buffer), offset)
    return bytes(buffer)
