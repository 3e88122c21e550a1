"""Start a process in a root filesystem, without an OCI runtime.

A root filesystem, a `Process` and `Settings` come in; the ID of a running process goes out.  The
process is PID 1 of a new PID namespace.  As under an OCI runtime, it ignores signals that it has no
handler for, and all its descendants end with it.  If the thread that started it ends, the kernel
kills it.  It has mount, IPC and UTS namespaces of its own, and with the network ``none`` also a
network namespace.  It has no cgroup of its own and no seccomp filter.

The new process enters the root filesystem itself (`stacker.runtime.enter`).  A process with one
thread forks it.  Other processes start an interpreter, since a lock of another thread would stay
locked in a forked child.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import MountError
from stacker.linux import namespaces, process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stacker.runtime.process import Process
    from stacker.runtime.spec import Settings
    from stacker.runtime.streams import Streams


@dataclass(frozen=True, slots=True)
class Container:
    """A process to start in a root filesystem.

    :param root: the root filesystem, absolute; missing mount points are created in it.
    """

    root: Path
    process: Process
    settings: Settings


def start(container: Container, streams: Streams, meanwhile: Callable[[], object]) -> int:
    """Start a process, and return its ID as soon as its program is running.

    The caller waits for it (waitpid(2)).

    :param meanwhile: called while the process enters the root filesystem.
    :raises StartError: the program is missing, or cannot be executed.
    :raises MountError: the kernel refuses a namespace or a mount.
    :raises IntegrityError: a mount point of the image leads elsewhere.
    """
    read, write = os.pipe()
    with open(read, "rb") as failure:
        try:
            begin = _spawn if process.has_threads() else _fork
            pid = begin(container, streams, write)
        except PermissionError as error:
            raise MountError(
                "cannot start a process by chroot: this process lacks CAP_SYS_ADMIN",
                hint="run the command as root",
            ) from error
        finally:
            os.close(write)
        try:
            meanwhile()
            if raw := failure.read():
                from stacker.runtime.enter import decode_failure

                raise decode_failure(raw)
        except BaseException:
            end(pid)
            raise
    return pid


def end(pid: int) -> None:
    """Kill a child process, and wait for it; nothing happens if it has been waited for."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(container: Container, streams: Streams, report: int) -> int:
    from stacker.runtime import enter  # before the fork: the root filesystem has no modules

    pid = namespaces.fork_into_pid_namespace()
    if pid == 0:
        enter.enter(container, streams, report)
    return pid


def _spawn(container: Container, streams: Streams, report: int) -> int:
    """Start an interpreter as PID 1 of a new PID namespace."""
    import pickle

    read, write = os.pipe()
    try:
        with namespaces.new_children_namespace():
            code = "from stacker.runtime.enter import main; main(3, 4)"
            pid = process.spawn_python(code, (*streams.numbers, read, report))
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    with suppress(BrokenPipeError), open(write, "wb") as file:  # it was killed
        file.write(pickle.dumps((container, streams.terminal)))
    return pid
