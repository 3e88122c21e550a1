"""The kernel's FUSE protocol for any tree: requests in, replies out.

A request is the bytes that a read of /dev/fuse returns; a reply is the bytes to write to it.  This
module has what all adapters share: the handler of an operation, the INIT request, and the buffer
for reads.  It must not decide what a tree contains.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from stacker.fuse import protocol as fuse
from stacker.fuse.replies import NAME_MAX, errno_of, pack_statx, pack_xattr, visible_xattrs
from stacker.linux.inode_attributes import GET_FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stacker.fuse.channel import FileSender
    from stacker.tree.protocol import Node, Status

    Handler = Callable[[Node, bytes], bytes]
    """Returns the body of a reply; the request has its header."""

HEADER: Final = fuse.IN_HEADER.size
_NO_REPLY: Final = {fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT}


class RequestHandler:
    """Answers requests; a subclass adds handlers of operations.

    :param wanted: the flags of INIT to ask for.
    """

    largest_write: ClassVar[int] = fuse.LEAST_WRITE
    largest_read: ClassVar[int] = fuse.LARGEST_READ
    """Bytes of data in the largest reply; also limits the pages of a write request."""
    request_size: ClassVar[int] = fuse.REQUEST
    """Bytes of the largest request."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._agreed = 0
        """The flags of INIT that the kernel has accepted."""
        self.sender: FileSender | None = None
        """Sends file contents without a copy; set when the adapter has a channel."""
        self._buffer = bytearray(fuse.OUT_HEADER.size + self.largest_read)
        self._body = memoryview(self._buffer)[fuse.OUT_HEADER.size :]
        self._handlers: dict[int, Handler] = {
            fuse.INIT: self._init,
            fuse.RELEASE: _nothing,
            fuse.RELEASEDIR: _nothing,
            fuse.DESTROY: _nothing,
        }

    def answer(self, request: bytes) -> bytes | memoryview | None:
        """Return the reply to a request; ``None`` if it gets none or has been sent.

        The reply is valid until the next call.  Every exception becomes an errno.
        """
        if len(request) < HEADER:
            return None  # without a header the request has no ID to answer
        _, opcode, unique, nodeid, _, _, _, _, _ = fuse.IN_HEADER.unpack_from(request)
        try:
            if opcode in _NO_REPLY:
                self._handle_without_reply(opcode, nodeid - fuse.ROOT_ID, request)
                return None
            return self._dispatch(opcode, unique, nodeid - fuse.ROOT_ID, request)
        except Exception as error:  # noqa: BLE001 - it becomes an errno
            return None if opcode in _NO_REPLY else fuse.failure(unique, errno_of(error))

    def after_reply(self) -> None:
        """Do work that can wait until the reply is sent."""

    def _dispatch(
        self, opcode: int, unique: int, node: Node, request: bytes
    ) -> bytes | memoryview | None:
        handler = self._handlers.get(opcode)
        if handler is not None:
            return fuse.reply(unique, handler(node, request))
        if opcode == fuse.READ:
            return self._read(unique, node, request)
        return fuse.failure(unique, self._unsupported(opcode))

    def _unsupported(self, opcode: int) -> int:
        """Return the errno for an operation without a handler."""
        del opcode
        return errno.ENOSYS

    def _handle_without_reply(self, opcode: int, node: Node, request: bytes) -> None:
        """Handle a request that gets no reply."""

    def _init(self, node: Node, request: bytes) -> bytes:
        """Agree with the kernel on a version and on features (fuse.rst; fs/fuse/inode.c)."""
        del node
        major, minor, read_ahead, flags = fuse.INIT_IN.unpack_from(request, HEADER)
        if major < fuse.MAJOR or (major == fuse.MAJOR and minor < fuse.MINOR):
            raise OSError(errno.EPROTO, "the kernel is older than Linux 5.4")
        if major > fuse.MAJOR:  # the kernel repeats INIT with our version
            return fuse.INIT_OUT.pack(fuse.MAJOR, fuse.MINOR, *[0] * 10)
        read_ahead = max(read_ahead, fuse.READ_AHEAD)
        more_flags, depth = self._more_flags(flags, request)
        agreed = self._agreed = flags & (self._wanted | (fuse.INIT_EXT if more_flags else 0))
        return fuse.INIT_OUT.pack(
            *(fuse.MAJOR, fuse.MINOR, read_ahead, agreed),
            *(64, 48),  # max_background, congestion_threshold
            *(self.largest_write, 1, self.largest_read // fuse.PAGE, 0),
            *(more_flags, depth),
        )

    def _more_flags(self, flags: int, request: bytes) -> tuple[int, int]:
        """Return the second word of flags, and how many filesystems may be stacked."""
        del flags, request
        return 0, 0

    def _read(self, unique: int, node: Node, request: bytes) -> memoryview | None:
        """Read into the buffer of the reply, without a copy."""
        _, offset, size, *_ = fuse.READ_IN.unpack_from(request, HEADER)
        if offset >= 1 << 63:
            raise OSError(errno.EINVAL, "offset out of range")
        length = self._read_into(node, self._body[: min(size, self.largest_read)], offset)
        total = fuse.OUT_HEADER.size + length
        fuse.OUT_HEADER.pack_into(self._buffer, 0, total, 0, unique)
        return memoryview(self._buffer)[:total]

    def _read_into(self, node: Node, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from a file, and return the number of bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all files."""


class _Tree(Protocol):
    """What a tree knows about an inode besides its status."""

    def number(self, node: Node, /) -> int: ...

    def birth(self, node: Node, /) -> int | None: ...

    def flags(self, node: Node, /) -> int: ...


class TreeHandler(RequestHandler):
    """Answers STATX and IOCTL about a tree.

    :param status: returns the attributes of an inode in the mount.
    """

    def __init__(self, wanted: int, tree: _Tree, status: Callable[[Node], Status]) -> None:
        super().__init__(wanted)
        self._inodes, self._status = tree, status
        self._handlers |= {fuse.STATX: self._statx, fuse.IOCTL: self._ioctl}

    def _statx(self, node: Node, request: bytes) -> bytes:
        del request
        inodes = self._inodes
        return pack_statx(inodes.number(node), self._status(node), inodes.birth(node))

    def _ioctl(self, node: Node, request: bytes) -> bytes:
        """Return the flags of an inode; only FS_IOC_GETFLAGS is supported.

        :raises OSError: ``ENOTTY``, or the error of the tree.
        """
        _, _, command, _, _, size = fuse.IOCTL_IN.unpack_from(request, HEADER)
        if command != GET_FLAGS or size < 4:  # an int, although GET_FLAGS encodes a long
            raise OSError(errno.ENOTTY, "not supported")
        return fuse.IOCTL_OUT.pack(0, 0, 0, 0, self._inodes.flags(node)) + bytes(size - 4)


def _nothing(node: Node, request: bytes) -> bytes:
    del node, request
    return b""


def name_at(request: bytes, start: int, *, most: int = NAME_MAX) -> bytes:
    """Return the NUL-terminated name at an offset of a request.

    :param most: bytes of the longest name.
    :raises ValueError: the request has no name there.
    :raises OSError: ``ENAMETOOLONG``; the kernel passes longer names (FUSE_NAME_MAX).
    """
    end = request.index(b"\0", start)
    if end == start:
        raise ValueError(start)
    if end - start > most:
        raise OSError(errno.ENAMETOOLONG, "name too long")
    return request[start:end]


def list_xattrs(names: Iterable[bytes], request: bytes) -> bytes:
    """Return the reply to LISTXATTR, for the user of the request."""
    size, _ = fuse.XATTR.unpack_from(request, HEADER)
    uid = fuse.IN_HEADER.unpack_from(request)[4]
    return pack_xattr(b"".join(name + b"\0" for name in visible_xattrs(names, uid)), size)
