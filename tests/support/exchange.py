"""An attacker who exchanges a directory with a symlink while a command works.

`exchanging` runs the attacker in another process, without a pause.  `Interleaving` runs it in this
process at one chosen moment, so that a test can try every moment in turn: Python raises an audit
event before most system calls that name a file (docs.python.org, "Audit events table").
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ATTACKER = 65534
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # include/uapi/linux/fcntl.h, fs.h
_WATCHED = frozenset(
    {
        *("open", "os.chdir", "os.chmod", "os.chown", "os.getxattr", "os.link", "os.listdir"),
        *("os.listxattr", "os.mkdir", "os.remove", "os.removexattr", "os.rename", "os.rmdir"),
        *("os.scandir", "os.setxattr", "os.symlink", "os.truncate", "os.utime"),
        *("ctypes.call_function", "fcntl.flock", "fcntl.ioctl"),
    }
)


@dataclass(frozen=True)
class Trap:
    """A directory of the attacker, and a symlink that takes its place.

    :param real: the directory.
    :param link: the symlink, which leads to a directory of the victim.
    """

    real: Path
    link: Path

    @classmethod
    def at(cls, real: Path, victim: Path) -> Trap:
        """Give `real` to the attacker, and put the symlink beside it; the parent is theirs too."""
        link = real.with_name("link")
        link.symlink_to(victim)
        for path in (real.parent, real, link):
            os.lchown(path, ATTACKER, ATTACKER)
        return cls(real, link)

    def exchange(self) -> None:
        """Exchange both; nothing happens where the kernel refuses, as for a mount point."""
        one, other = os.fsencode(self.real), os.fsencode(self.link)
        _libc().renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)

    def reset(self) -> None:
        """Put the directory back to its place."""
        if self.real.is_symlink():
            self.exchange()
        assert not self.real.is_symlink()


@cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.renameat2.restype = ctypes.c_int
    return library


@contextmanager
def exchanging(trap: Trap) -> Iterator[None]:
    """Exchange a trap in a loop, in a process of the attacker, until the block ends."""
    _libc()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(ATTACKER, ATTACKER, ATTACKER)
            os.setresuid(ATTACKER, ATTACKER, ATTACKER)
            while True:
                trap.exchange()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@dataclass
class Interleaving:
    """Exchanges a trap before one file operation of this process.

    Operations inside `ignored` are not counted: the attacker cannot reach them, so an exchange
    before one of them equals an exchange before the next one that counts.

    :param trap: what to exchange.
    :param ignored: directories that only root can change.
    :param at: the number of the operation, from 1; 0 for none.
    """

    trap: Trap
    ignored: Sequence[Path] = ()
    at: int = 0
    count: int = field(default=0, init=False)

    def __enter__(self) -> Interleaving:
        self.trap.reset()
        _libc()
        _active().append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _active().clear()
        self.trap.reset()

    def step(self, arguments: Sequence[object]) -> None:
        """Count an operation, and exchange the trap before the chosen one."""
        if any(self._is_ignored(argument) for argument in arguments):
            return
        self.count += 1
        if self.count == self.at:
            self.trap.exchange()

    def _is_ignored(self, argument: object) -> bool:
        if isinstance(argument, os.PathLike):
            argument = os.fspath(argument)
        if isinstance(argument, bytes):
            argument = os.fsdecode(argument)
        return isinstance(argument, str) and argument.startswith(tuple(map(str, self.ignored)))


@cache
def _active() -> list[Interleaving]:
    """Return the list of the running interleaving, after installing the audit hook once."""
    active: list[Interleaving] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if active and event in _WATCHED:
            current = active.pop()  # the exchange itself raises events
            try:
                current.step(arguments)
            finally:
                active.append(current)

    sys.addaudithook(hook)  # it stays until the process ends
    return active
