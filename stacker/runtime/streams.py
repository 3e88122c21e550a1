"""The standard streams of a container's process, and the terminal between it and the caller.

Descriptors come in; descriptors for the process go out.  Pipes and files go to the process as they
are.  A terminal is a new pseudoterminal: its bytes are copied until the process ends.  The caller's
terminal is raw meanwhile, so that ^C is a byte for the process.  Sources: pty(7), termios(3),
ioctl_tty(2).
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 16
_END_OF_FILE = b"\x04"  # VEOF of a new terminal


@dataclass(frozen=True, slots=True)
class Streams:
    """The descriptors that a process gets as stdin, stdout and stderr.

    :param numbers: the three descriptors; the caller keeps them.
    :param terminal: they are one terminal, which becomes the process's controlling terminal.
    """

    numbers: tuple[int, int, int]
    terminal: bool = False


class Terminal:
    """A pseudoterminal that a process uses, connected to streams of the caller.

    :param master: descriptor of the side that this process reads and writes.
    :param given: the caller's stdin and stdout.
    """

    def __init__(self, master: int, given: tuple[int, int]) -> None:
        self._master = master
        self._stdin, self._stdout = given
        self._has_input = True
        self._unsent = b""

    def copy_until_exit(self, pid: int) -> None:
        """Copy bytes in both directions until a process has ended and all its output is copied."""
        process, ended = os.pidfd_open(pid), False
        os.set_blocking(self._master, False)  # a process that reads nothing must not stop us
        try:
            while True:
                ready = self._wait(process, ended=ended)
                if self._unsent:
                    self._send()
                if self._stdin in ready:
                    self._take_input()
                has_output = self._master in ready and self._copy_output()
                if ended and not has_output:
                    return
                ended = ended or process in ready
        finally:
            os.close(process)

    def _wait(self, process: int, *, ended: bool) -> set[int]:
        """Return the descriptors that have something to read, or have ended."""
        import select

        poll = select.poll()
        poll.register(self._master, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if not ended:
            poll.register(process, select.POLLIN)
        if self._has_input and not self._unsent:
            poll.register(self._stdin, select.POLLIN)
        found = poll.poll(0 if ended else None)
        return {number for number, events in found if events != select.POLLOUT}

    def resize(self) -> None:
        """Give the pseudoterminal the size of the caller's terminal, if the caller has one."""
        import fcntl
        import termios

        for given in (self._stdin, self._stdout):
            with suppress(OSError):
                size = fcntl.ioctl(given, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
                return

    def _copy_output(self) -> bool:
        try:
            chunk = os.read(self._master, _CHUNK)
        except OSError:  # EAGAIN; EIO if no process has the slave open
            return False
        _write(self._stdout, chunk)
        return bool(chunk)

    def _take_input(self) -> None:
        try:
            chunk = os.read(self._stdin, _CHUNK)
        except OSError:
            chunk = b""
        self._has_input = bool(chunk)
        self._unsent = chunk or _END_OF_FILE
        self._send()

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._master, self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = b""


@contextmanager
def new_terminal(given: tuple[int, int], *, raw: bool) -> Iterator[tuple[Terminal, Streams]]:
    """Create a pseudoterminal for the block; make the caller's terminal raw, and restore it.

    :param given: the caller's stdin and stdout; either may be another kind of file.
    :param raw: make the new one raw, too, since the process creates another one in the container.
    """
    import tty

    with ExitStack() as held:
        master, slave = os.openpty()
        held.callback(os.close, master)
        held.callback(os.close, slave)
        terminal = Terminal(master, given)
        terminal.resize()
        if raw:
            tty.setraw(slave)
        if os.isatty(given[0]):
            held.enter_context(_raw(given[0]))
        yield terminal, Streams((slave, slave, slave), terminal=True)


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
