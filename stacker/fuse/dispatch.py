"""The kernel's FUSE protocol, for whatever tree: requests in, replies out.

A request is bytes as /dev/fuse gives them, a reply is bytes to be written there.  Here is what all
trees have in common: finding the step for an operation, agreeing on a version, room for what is
read; and errors, which become an errno (`fuse_answer`).  The trees' own: `fuse_kernel`, which never
changes, and `fuse_writable`.

A node of a tree is the kernel's node less one, and its inode number is the kernel's node.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar, Final

from stacker.fuse import protocol as fuse
from stacker.fuse.replies import NAME_MAX, errno_of, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stacker.fuse.splice import Outlet
    from stacker.tree.protocol import Node

    Step = Callable[[Node, bytes], bytes]
    """Answers one kind of request about a node; the header is part of the request."""

HEADER: Final = fuse.IN_HEADER.size
ABSENT: Final = fuse.ENTRY_HEAD.pack(0, 0, fuse.FOREVER, 0, 0, 0) + bytes(fuse.ATTR.size)
"""An entry for a name that is missing, to be remembered as missing."""
NO_ENTRY: Final = bytes(len(ABSENT))
VALID: Final = fuse.ATTR_HEAD.pack(fuse.FOREVER, 0, 0)
_NO_REPLY: Final = {fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT}


class Requests:
    """Answers requests by the steps that a subclass adds."""

    wanted: ClassVar[int] = fuse.WANTED
    """The flags of INIT that are asked for."""
    largest_write: ClassVar[int] = fuse.LEAST_WRITE
    largest_read: ClassVar[int] = fuse.LARGEST_READ
    """Bytes of a reply's contents; as many pages are the most of a request for a write, too."""
    request_size: ClassVar[int] = fuse.REQUEST
    """Bytes to read for one request."""

    def __init__(self) -> None:
        self.outlet: Outlet | None = None
        """Ways past the reply, once there is a channel to answer on."""
        self._buffer = bytearray(fuse.OUT_HEADER.size + self.largest_read)
        self._body = memoryview(self._buffer)[fuse.OUT_HEADER.size :]
        self._steps: dict[int, Step] = {
            fuse.INIT: self._init,
            fuse.RELEASE: nothing,
            fuse.RELEASEDIR: nothing,
            fuse.DESTROY: nothing,
        }

    def answer(self, request: bytes) -> bytes | memoryview | None:
        """Give the reply to a request, or ``None`` for one that gets none, or has got it already.

        It is valid until the next call.  Whatever the request, no error comes out.
        """
        if len(request) < HEADER:
            return None  # nobody to reply to
        _, opcode, unique, nodeid, _, _, _, _, _ = fuse.IN_HEADER.unpack_from(request)
        try:
            if opcode in _NO_REPLY:
                self._take_note(opcode, nodeid - fuse.ROOT_ID, request)
                return None
            return self._answered(opcode, unique, nodeid - fuse.ROOT_ID, request)
        except Exception as error:  # noqa: BLE001 - it becomes an errno
            return None if opcode in _NO_REPLY else fuse.failure(unique, errno_of(error))

    def afterwards(self) -> None:
        """Do what can wait until the reply is out."""

    def _answered(
        self, opcode: int, unique: int, node: Node, request: bytes
    ) -> bytes | memoryview | None:
        if opcode == fuse.READ:
            return self._read(unique, node, request)
        step = self._steps.get(opcode)
        if step is None:
            return fuse.failure(unique, self._refusal(opcode))
        return fuse.reply(unique, step(node, request))

    def _refusal(self, opcode: int) -> int:
        """Give the errno for an operation without a step."""
        del opcode
        return errno.ENOSYS

    def _take_note(self, opcode: int, node: Node, request: bytes) -> None:
        """Look at a request that gets no reply."""

    def _init(self, node: Node, request: bytes) -> bytes:
        """Agree on a version and on what both sides can do (fuse.rst; fs/fuse/inode.c)."""
        del node
        major, minor, read_ahead, flags = fuse.INIT_IN.unpack_from(request, HEADER)
        if major < fuse.MAJOR or (major == fuse.MAJOR and minor < fuse.MINOR):
            raise OSError(errno.EPROTO, "a kernel before 5.4")
        if major > fuse.MAJOR:  # it asks again, in our words
            return fuse.INIT_OUT.pack(fuse.MAJOR, fuse.MINOR, *[0] * 10)
        ahead = max(read_ahead, fuse.READ_AHEAD)
        more, depth = self._more(flags, request)
        agreed = flags & (self.wanted | (fuse.INIT_EXT if more else 0))
        return fuse.INIT_OUT.pack(
            *(fuse.MAJOR, fuse.MINOR, ahead, agreed),
            *(64, 48),  # requests in the background, and when that is called congested
            *(self.largest_write, 1, self.largest_read // fuse.PAGE, 0),
            *(more, depth),
        )

    def _more(self, flags: int, request: bytes) -> tuple[int, int]:
        """Give the second word of flags, and how many filesystems may lie on each other."""
        del flags, request
        return 0, 0

    def _read(self, unique: int, node: Node, request: bytes) -> memoryview | None:
        """Read straight into the reply."""
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, HEADER)
        if offset >= 1 << 63:
            raise OSError(errno.EINVAL, "offset out of range")
        length = self._read_into(node, self._body[: min(size, self.largest_read)], offset)
        whole = fuse.OUT_HEADER.size + length
        fuse.OUT_HEADER.pack_into(self._buffer, 0, whole, 0, unique)
        return memoryview(self._buffer)[:whole]

    def _read_into(self, node: Node, buffer: memoryview, offset: int) -> int:
        """Read a file as far as the buffer goes, and give the number of bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all files."""


def nothing(node: Node, request: bytes) -> bytes:
    """Answer a request that wants nothing."""
    del node, request
    return b""


def dirent(inode: Node, offset: int, name: bytes, mode: int) -> bytes:
    """Give an entry of a listing.

    :param offset: by which the next entry is asked for.
    """
    head = fuse.DIRENT.pack(inode + fuse.ROOT_ID, offset, len(name), mode >> 12)
    return head + name + bytes(-len(name) % 8)


def name_at(request: bytes, start: int, *, most: int = NAME_MAX) -> bytes:
    """Give the NUL-terminated name, of `most` bytes at most, at a place in a request.

    :raises ValueError: there is none.
    :raises OSError: ``ENAMETOOLONG``; the kernel lets longer ones through (FUSE_NAME_MAX).
    """
    end = request.index(b"\0", start)
    if end == start:
        raise ValueError(start)
    if end - start > most:
        raise OSError(errno.ENAMETOOLONG, "name too long")
    return request[start:end]


def listed(names: Iterable[bytes], request: bytes) -> bytes:
    """Give the reply to LISTXATTR."""
    size, _ = fuse.XATTR.unpack_from(request, HEADER)
    uid = fuse.IN_HEADER.unpack_from(request)[4]
    return sized(b"".join(name + b"\0" for name in visible(names, uid)), size)


def sized(value: bytes, size: int) -> bytes:
    """Give an xattr reply: how long the value is, or the value when it has room.

    :raises OSError: ``ERANGE``.
    """
    if not size:
        return fuse.XATTR.pack(len(value), 0)
    if size < len(value):
        raise OSError(errno.ERANGE, "no room for the value")
    return value
