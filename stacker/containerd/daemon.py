"""Run the services in the foreground until a signal ends them.

A `Settings` value comes in; the process serves a Unix socket that only its owner can open.  The
directories are locked, so two processes never serve the same snapshots.  This module reads no
environment variable: the command line passes what systemd has set.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grpclib.server import Server

from stacker.containerd.differ import Differ
from stacker.containerd.mounts import Directories
from stacker.containerd.server import DiffService, SnapshotsService
from stacker.containerd.snapshots import Snapshotter
from stacker.containerd.workers import Workers
from stacker.errors import LockedError, StackerError
from stacker.linux import lock, process
from stacker.store.snapshotters import register
from stacker.store.store import Store

_BACKLOG: Final = 128
_END: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a snapshotter runs.

    :param store: the root of the store, which has the layers.
    :param root: the directory of the snapshots.
    :param address: the path of the socket.
    :param content: the directory of containerd's content store.
    :param jobs: the number of workers; ``None`` for one for each processor.
    :param listening: a listening socket that systemd passed, instead of `address`.
    :param notify: the address of the socket that systemd reads the state from (sd_notify(3)).
    """

    store: Path
    root: Path
    address: Path
    content: Path
    jobs: int | None = None
    listening: int | None = None
    notify: str | None = None


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises LockedError: another process serves these snapshots, or the socket.
    :raises StackerError: the directories or the socket cannot be used.
    """
    store = Store.open(settings.store)
    directories = Directories(settings.root, store.whiteout_format)
    with ExitStack() as stack:
        stack.enter_context(_locked(directories))
        workers = Workers(settings.jobs or process.usable_processors())
        stack.callback(workers.end)
        snapshotter = Snapshotter(directories, store, workers)
        stack.callback(snapshotter.close)
        register(store, directories.root)
        differ = Differ(snapshotter, workers, settings.content)
        asyncio.run(_serve(snapshotter, differ, settings))
        if settings.listening is None:
            settings.address.unlink(missing_ok=True)


def _locked(directories: Directories) -> lock.Lock:
    """Create the directories, and lock them."""
    root = directories.root
    try:
        directories.make()
        held = lock.try_exclusive(root / "lock")
    except OSError as error:
        raise StackerError(
            f"cannot use the snapshots: {root}: {error.strerror}",
            hint="name another directory with --root",
        ) from error
    if held is None:
        raise LockedError(
            f"snapshots in use: {root}: another process serves them",
            hint="end that process, or name another directory with --root",
        )
    return held


async def _serve(snapshotter: Snapshotter, differ: Differ, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in _END:
        loop.add_signal_handler(number, ended.set)
    await snapshotter.cleanup()
    server = Server([SnapshotsService(snapshotter), DiffService(differ)])
    with _listening(settings) as listening:
        await server.start(sock=listening)
        _tell(settings.notify, "READY=1")
        await ended.wait()
        _tell(settings.notify, "STOPPING=1")
        server.close()
        await server.wait_closed()


def _listening(settings: Settings) -> socket.socket:
    """Return the listening socket; a new one has mode 0600."""
    if settings.listening is not None:
        return socket.socket(fileno=settings.listening)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        settings.address.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_abandoned(settings.address)
        before = os.umask(0o177)
        try:
            found.bind(str(settings.address))
        finally:
            os.umask(before)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise StackerError(
            f"cannot listen: {settings.address}: {error.strerror or error}",
            hint="name another socket with --address",
        ) from error
    return found


def _remove_abandoned(address: Path) -> None:
    """Remove the socket of a process that was killed.

    :raises LockedError: a process listens on it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(address))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            address.unlink()
            return
    raise LockedError(
        f"socket in use: {address}: another process listens on it",
        hint="end that process, or name another socket with --address",
    )


def _tell(address: str | None, state: str) -> None:
    """Send a state to systemd; without systemd, and if it has gone, nothing happens."""
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, suppress(OSError):
        notify.sendto(state.encode(), path)
