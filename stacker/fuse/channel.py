"""A channel of /dev/fuse: it reads requests and writes replies of the kernel's own protocol.

A descriptor and a `RequestHandler` come in; replies go to the descriptor.  File contents can go to
the kernel without a copy in this process (splice(2)), or before the kernel asks for them
(FUSE_NOTIFY_STORE).  This module must not interpret requests.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

from stacker.fuse import protocol as fuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.fuse.dispatch import RequestHandler
    from stacker.fuse.passthrough import Passthrough

MIN_SPLICE: Final = 64 << 10
"""Bytes from which two more system calls cost less than a copy."""
_PIPE_SIZE: Final = 1 << 20
"""Bytes of a pipe: the limit for unprivileged users (pipe(7)), and more than the largest reply."""
_WRITE_ONLY: Final = 128 << 10
"""Bytes of a request that only a write reaches; its data may be in any buffer."""
_REQUEST_GONE: Final = {errno.ENOENT, errno.ENODEV}
_TRY_AGAIN: Final = {errno.EINTR, errno.EAGAIN, errno.ENOENT}


class KernelService:
    """Serves a tree in the kernel's own protocol.

    :param adapter: returns the request handler of a process.
    :param passthrough: the table of backing files that all processes share.
    :param note: the note that `begin` returns.
    :param unsupported_note: the note instead, if the kernel has no passthrough.
    """

    def __init__(
        self,
        adapter: Callable[[], RequestHandler],
        passthrough: Passthrough | None = None,
        *,
        note: str | None = None,
        unsupported_note: str | None = None,
    ) -> None:
        self._adapter = adapter
        self._passthrough = passthrough
        self._note = note
        self._unsupported_note = unsupported_note

    def begin(self, connection: int) -> str | None:
        """Agree with the kernel on a version and on flags.

        :returns: a note for the user.
        :raises OSError: the kernel's version is not supported, or the mount is gone.
        """
        _begin(connection, self._adapter())
        if self._passthrough is not None and not self._passthrough.agreed:
            return self._unsupported_note
        return self._note

    def serve(self, channel: int) -> None:
        """Answer requests until the mount is gone, and then close all files.

        Another process can unmount a lower filesystem as soon as no file of it is open.

        :raises OSError: any error except the end of the mount.
        """
        if self._passthrough is not None:
            self._passthrough.channel = channel
        adapter = self._adapter()
        adapter.sender = FileSender(channel)
        serve(channel, adapter)
        adapter.close()


def _begin(connection: int, adapter: RequestHandler) -> None:
    agreed = False
    while not agreed:
        request = os.read(connection, adapter.request_size)
        reply = adapter.answer(request)
        if reply is None:
            continue
        os.write(connection, reply)
        _, error, _ = fuse.OUT_HEADER.unpack_from(reply)
        if error:
            raise OSError(-error, "the kernel's version of FUSE is not supported")
        # A kernel with a later major version repeats INIT in the version of the reply.
        agreed = fuse.INIT_IN.unpack_from(request, fuse.IN_HEADER.size)[0] == fuse.MAJOR


def serve(channel: int, adapter: RequestHandler) -> None:
    """Answer requests until the mount is gone.

    :param channel: the descriptor to read requests from and write replies to.
    :raises OSError: any error except the end of the mount.
    """
    read, write, answer = os.readv, os.write, adapter.answer
    # One buffer for all requests: a new one of this size would cost a mmap(2) each time.
    buffer = memoryview(bytearray(adapter.request_size))
    while True:
        try:
            length = read(channel, [buffer])
        except OSError as error:
            if error.errno in _TRY_AGAIN:  # ENOENT: the kernel aborted the request
                continue
            if error.errno == errno.ENODEV:
                return
            raise
        short = length < _WRITE_ONLY
        reply = answer(bytes(buffer[:length]) if short else cast("bytes", buffer[:length]))
        if reply is not None:
            try:
                write(channel, reply)
            except OSError as error:
                _answer_with_eio(channel, reply, error)
        adapter.after_reply()


def _answer_with_eio(channel: int, reply: bytes | memoryview, error: OSError) -> None:
    """Answer EIO if the kernel rejects a reply as malformed, so that the mount survives the bug.

    The kernel may have ended the request by itself (fs/fuse/dev.c, fuse_dev_do_write).

    :raises OSError: `error`, if it has another reason than a request that is gone.
    """
    if error.errno == errno.EINVAL:
        _, _, unique = fuse.OUT_HEADER.unpack_from(reply)
        try:
            os.write(channel, fuse.failure(unique, errno.EIO))
        except OSError as second:
            error = second
        else:
            return
    if error.errno not in _REQUEST_GONE:
        raise error


class FileSender:
    """Sends the contents of files to the kernel without a copy, or ahead of a request.

    :param channel: the descriptor of the channel, which the caller owns.
    """

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._out, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._can_splice = True
        try:
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:  # the user has exceeded the limits of pipe(7)
            self._can_splice = False

    def reply(self, unique: int, file: int, offset: int, length: int) -> bool:
        """Answer a request with a range of a file; return ``False`` if the caller has to answer.

        :param file: a descriptor; -1, for a hole, is not sent.
        :param length: bytes; the file has them, or the caller has to answer.
        """
        if not self._can_splice or file < 0 or length < MIN_SPLICE:
            return False
        total = fuse.OUT_HEADER.size + length
        try:
            os.write(self._in, fuse.OUT_HEADER.pack(total, 0, unique))
            while length:
                count = os.splice(file, self._in, length, offset_src=offset)
                if not count:
                    raise OSError(errno.EIO, "the file has shrunk")
                offset, length = offset + count, length - count
            os.splice(self._out, self._channel, total)
        except OSError as error:
            self._drain()
            return error.errno in _REQUEST_GONE
        return True

    def _drain(self) -> None:
        """Discard what a failed reply left in the pipe."""
        with suppress(BlockingIOError):
            while os.read(self._out, _PIPE_SIZE):
                pass

    def store(self, nodeid: int, data: bytes) -> None:
        """Store the contents of a file in the kernel's page cache, from its start.

        The call waits for the lock of a page that another process reads, so another worker has to
        answer that read.

        :raises OSError: the kernel has no such inode, or no memory.
        """
        size = len(data)
        head = fuse.OUT_HEADER.pack(
            fuse.OUT_HEADER.size + fuse.STORE_OUT.size + size, fuse.NOTIFY_STORE, 0
        )
        os.writev(self._channel, [head, fuse.STORE_OUT.pack(nodeid, 0, size, 0), data])

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._out)
        os.close(self._in)
