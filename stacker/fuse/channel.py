"""Requests off /dev/fuse and replies back, for the adapter that speaks the kernel's own protocol.

In comes a descriptor, out go replies to it.  What a request means, an adapter knows.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, cast

from stacker.fuse import protocol as fuse
from stacker.fuse.splice import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.fuse.dispatch import Requests
    from stacker.fuse.passthrough import Passthrough

_LONG: Final = 128 << 10
"""Bytes that only the request for a write has; and what is written can be any buffer."""
_NOT_WAITED_FOR: Final = {errno.ENOENT, errno.ENODEV}
_TRY_AGAIN: Final = {errno.EINTR, errno.EAGAIN, errno.ENOENT}


class KernelService:
    """Serves a tree in the kernel's own protocol.

    :param adapter: makes what answers in one process; always the same where there is one process.
    :param passthrough: what the adapters share to let the kernel read large files by itself.
    :param note: what `begin` returns.
    :param without: what it returns where the kernel has no passthrough.
    """

    def __init__(
        self,
        adapter: Callable[[], Requests],
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

        :returns: what a person should know.
        :raises OSError: it speaks another version, or the mount is gone.
        """
        _begin(connection, self._adapter())
        if self._passthrough is not None and not self._passthrough.agreed:
            return self._unsupported_note
        return self._note

    def serve(self, channel: int) -> None:
        """Answer requests until the mount is gone.

        :raises OSError: anything but the mount's end.
        """
        if self._passthrough is not None:
            self._passthrough.channel = channel
        adapter = self._adapter()
        adapter.outlet = Outlet(channel)
        serve(channel, adapter)


def _begin(connection: int, adapter: Requests) -> None:
    agreed = False
    while not agreed:
        request = os.read(connection, adapter.request_size)
        reply = adapter.answer(request)
        if reply is None:
            continue
        os.write(connection, reply)
        _, error, _ = fuse.OUT_HEADER.unpack_from(reply)
        if error:
            raise OSError(-error, "this kernel speaks FUSE in another version")
        # A kernel of a later major version hears which one we speak, and asks again.
        agreed = fuse.INIT_IN.unpack_from(request, fuse.IN_HEADER.size)[0] == fuse.MAJOR


def serve(channel: int, adapter: Requests) -> None:
    """Answer requests until the mount is gone.

    :param channel: where requests are read from and replies go to.
    :raises OSError: anything but the mount's end.
    """
    read, write, answer = os.readv, os.write, adapter.answer
    # Memory for each request, of what the longest may have, would be got from the kernel each time.
    room = memoryview(bytearray(adapter.request_size))
    while True:
        try:
            length = read(channel, [room])
        except OSError as error:
            if error.errno in _TRY_AGAIN:  # ENOENT: it was taken back
                continue
            if error.errno == errno.ENODEV:
                return
            raise
        reply = answer(bytes(room[:length]) if length < _LONG else cast("bytes", room[:length]))
        if reply is not None:
            try:
                write(channel, reply)
            except OSError as error:
                _answer_otherwise(channel, reply, error)
        adapter.afterwards()


def _answer_otherwise(channel: int, reply: bytes | memoryview, error: OSError) -> None:
    """Say EIO where the kernel takes no reply of ours for one: a mistake must not end the mount.

    Some such requests it has ended itself by then (fs/fuse/dev.c, fuse_dev_do_write).

    :raises OSError: anything else is wrong, but that nobody waits for it any more.
    """
    if error.errno == errno.EINVAL:
        _, _, unique = fuse.OUT_HEADER.unpack_from(reply)
        try:
            os.write(channel, fuse.failure(unique, errno.EIO))
        except OSError as second:
            error = second
        else:
            return
    if error.errno not in _NOT_WAITED_FOR:
        raise error
