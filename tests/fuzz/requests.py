"""Answer random FUSE requests without a kernel.

In come bytes: records of two bytes for the body's length, one for the operation, one for the node,
and the body.  Each becomes a request with a correct header; the last 40 bytes or more are also
answered as they are.  A reply that the kernel would refuse, an exception that is not an errno, or
a change outside the upper directory raises.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from struct import error as struct_error
from typing import Final
from unittest.mock import patch

from stacker.fuse import dispatch, replies
from stacker.fuse import protocol as fuse
from stacker.fuse.dispatch import RequestHandler
from stacker.fuse.read_only import ReadOnlyAdapter
from stacker.fuse.read_write import WritableAdapter
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.merged import MergedTree, merge
from stacker.tree.writable import WritableTree

_MOST: Final = 24  # requests of one input
_OPERATIONS: Final = (
    *(fuse.LOOKUP, fuse.FORGET, fuse.GETATTR, fuse.SETATTR, fuse.READLINK, fuse.SYMLINK),
    *(fuse.MKNOD, fuse.MKDIR, fuse.UNLINK, fuse.RMDIR, fuse.RENAME, fuse.LINK, fuse.OPEN),
    *(fuse.READ, fuse.WRITE, fuse.STATFS, fuse.RELEASE, fuse.FSYNC, fuse.SETXATTR),
    *(fuse.GETXATTR, fuse.LISTXATTR, fuse.REMOVEXATTR, fuse.FLUSH, fuse.INIT, fuse.OPENDIR),
    *(fuse.READDIR, fuse.RELEASEDIR, fuse.FSYNCDIR, fuse.CREATE, fuse.INTERRUPT, fuse.DESTROY),
    *(fuse.BATCH_FORGET, fuse.FALLOCATE, fuse.READDIRPLUS, fuse.RENAME2, fuse.LSEEK),
    *(fuse.COPY_FILE_RANGE, 4095),
)
_SECRET: Final = b"outside the tree\n"


class UnexpectedError(BaseException):
    """The server answered EIO for an exception that no code expected."""


def _errno_of(error: Exception) -> int:
    if not isinstance(error, (OSError, ValueError, OverflowError, struct_error)):
        raise UnexpectedError(repr(error)) from error
    return replies.errno_of(error)


def _requests(data: bytes) -> Iterator[bytes]:
    at = 0
    for _ in range(_MOST):
        if at + 4 > len(data):
            break
        length = int.from_bytes(data[at : at + 2], "little") % 8192
        operation = _OPERATIONS[data[at + 2] % len(_OPERATIONS)]
        node = data[at + 3] % 16
        body = data[at + 4 : at + 4 + length]
        size = fuse.IN_HEADER.size + len(body)
        yield fuse.IN_HEADER.pack(size, operation, 7, node, 0, 0, 1, 0, 0) + body
        at += 4 + length
    yield data[-200:]


def _check(reply: bytes | memoryview | None, request: bytes) -> None:
    """Raise if the kernel would refuse the reply (fuse_dev_do_write)."""
    if reply is None:
        return
    size, error, unique = fuse.OUT_HEADER.unpack_from(reply)
    assert size == len(reply), (size, len(reply))
    assert unique == fuse.IN_HEADER.unpack_from(request)[2]
    assert -4096 < error <= 0, error
    assert not error or size == fuse.OUT_HEADER.size
    assert size <= fuse.OUT_HEADER.size + fuse.LARGEST_WRITE + 4096, size


def _answer(adapter: RequestHandler, data: bytes) -> None:
    with patch.object(dispatch, "errno_of", _errno_of):
        for request in _requests(data):
            _check(adapter.answer(request), request)


def answer_read_only(data: bytes) -> None:
    """Answer requests about a tree that never changes."""
    adapter = ReadOnlyAdapter(_lower_tree())
    try:
        _answer(adapter, data)
    finally:
        adapter.close()


def answer_read_write(data: bytes) -> None:
    """Answer requests about a writable tree; check that nothing outside it changes."""
    path = Path(tempfile.mkdtemp(prefix="stacker-fuzz-"))
    try:
        for name in ("upper", "work"):
            (path / name).mkdir()
        (path / "secret").write_bytes(_SECRET)
        tree = WritableTree(
            _lower_tree(), WhiteoutFormat.USER, path / "upper", path / "work", durable=False
        )
        adapter = WritableAdapter(tree)
        try:
            _answer(adapter, data)
        finally:
            adapter.close()
        assert sorted(os.listdir(path)) == ["secret", "upper", "work"]
        assert (path / "secret").read_bytes() == _SECRET
    finally:
        shutil.rmtree(path)


@cache
def _lower_tree() -> MergedTree:
    path = Path(tempfile.mkdtemp(prefix="stacker-fuzz-"))
    (path / "dir" / "below").mkdir(parents=True)
    (path / "file").write_bytes(b"contents" * 1000)
    (path / "link").symlink_to("file")
    (path / "dir" / "other").hardlink_to(path / "file")
    os.setxattr(path / "file", "user.kind", b"plain")
    return merge([path], WhiteoutFormat.USER)


def seeds() -> list[bytes]:
    """Return inputs of well-formed requests, one for most operations."""
    read = fuse.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0)
    bodies = {
        fuse.LOOKUP: b"file\0",
        fuse.MKDIR: bytes(8) + b"new\0",
        fuse.MKNOD: (0o100644).to_bytes(4, "little") + bytes(12) + b"node\0",
        fuse.SYMLINK: b"name\0target\0",
        fuse.CREATE: bytes(4) + (0o100600).to_bytes(4, "little") + bytes(8) + b"created\0",
        fuse.RENAME: (1).to_bytes(8, "little") + b"file\0renamed\0",
        fuse.LINK: (2).to_bytes(8, "little") + b"another\0",
        fuse.UNLINK: b"file\0",
        fuse.RMDIR: b"dir\0",
        fuse.READ: read,
        fuse.READDIR: read,
        fuse.READDIRPLUS: read,
        fuse.WRITE: bytes(16) + (5).to_bytes(4, "little") + bytes(20) + b"hello",
        fuse.SETATTR: bytes(88),
        fuse.GETXATTR: bytes(8) + b"user.kind\0",
        fuse.SETXATTR: (1).to_bytes(4, "little") + bytes(12) + b"user.a\0v",
        fuse.INIT: fuse.INIT_IN.pack(7, 40, 1 << 17, 0xFFFFFFFF) + bytes(48),
    }
    one = [_record(operation, body) for operation, body in bodies.items()]
    return [*one, b"".join(one)]


def _record(operation: int, body: bytes, node: int = 1) -> bytes:
    return len(body).to_bytes(2, "little") + bytes([_OPERATIONS.index(operation), node]) + body
