"""What reaches the kernel otherwise than as bytes of a reply, over one channel of /dev/fuse.

In come open files.  Out go pieces of them that this process never sees (splice(2)), and contents
for the page cache that nobody has asked for yet (FUSE_NOTIFY_STORE).  Which ones, others decide.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import Final

from stacker.fuse import protocol as fuse

LEAST: Final = 64 << 10
"""Bytes from which on two more system calls cost less than a copy."""
_ROOM: Final = 1 << 20
"""Bytes of a pipe: what anybody may have (pipe(7)), and more than the largest reply."""
_GONE: Final = {errno.ENOENT, errno.ENODEV}


class Outlet:
    """A way past the adapter.

    :param channel: the channel, owned by somebody else.
    """

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._out, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._splices = True
        try:
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _ROOM)
        except OSError:  # somebody has lowered the limit, or has too many
            self._splices = False

    def send(self, unique: int, file: int, offset: int, length: int) -> bool:
        """Answer a request with a piece of a file; ``False`` when that has to be done otherwise.

        :param length: bytes; the file has them, or the request is still to be answered.
        """
        if not self._splices or length < LEAST:
            return False
        whole = fuse.OUT_HEADER.size + length
        try:
            os.write(self._in, fuse.OUT_HEADER.pack(whole, 0, unique))
            while length:
                count = os.splice(file, self._in, length, offset_src=offset)
                if not count:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                offset, length = offset + count, length - count
            os.splice(self._out, self._channel, whole)
        except OSError as error:
            self._empty()
            return error.errno in _GONE  # nobody waits for it any more
        return True

    def _empty(self) -> None:
        """Take what a failure left out of the pipe."""
        with suppress(BlockingIOError):
            while os.read(self._out, _ROOM):
                pass

    def store(self, nodeid: int, data: bytes) -> None:
        """Put a file's contents into the kernel's page cache, from its beginning on.

        It waits for readers of those pages, so somebody else has to answer them meanwhile.

        :raises OSError: the kernel has no such inode, or no room.
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
