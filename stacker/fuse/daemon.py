"""The processes behind a FUSE mount: a supervisor, and workers that answer requests.

A `ServedTree` comes in; when `start` returns, the mount answers requests.  The supervisor mounts,
replaces dead workers and unmounts on SIGTERM.  This module must not use a mount plan or the store.

The supervisor builds a read-only tree once and forks the workers, which share it.  Each worker has
a channel of its own, so the kernel aborts only the requests that a dead worker had read.  A
writable tree has one worker, and the mount dies with it, since only that worker knows which inodes
the kernel holds.
"""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import MountError, StackerError, path_of
from stacker.fuse import connect
from stacker.fuse.adapters import load_adapter, worker_count
from stacker.linux import mountapi, mountinfo, opath, process
from stacker.linux.mountapi import FileDescriptor
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.fuse.adapters import Service
    from stacker.fuse.options import ServedTree
    from stacker.layer.paths import LayerPaths
    from stacker.linux.mountinfo import MountInfo
    from stacker.tree.protocol import LowerTree

_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_RESTART_PAUSE: Final = 0.05
"""Seconds before a dead worker is replaced, so a request that kills workers costs little CPU."""
_SIGNALS: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def start(tree: ServedTree) -> tuple[int, str | None]:
    """Mount a tree in the background.

    :returns: the PID of the supervisor, and a note for the user.
    :raises OSError: from the kernel.
    :raises StackerError: the mount failed for another reason.
    """
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        try:
            if process.has_threads():
                child = _start_python(tree, writer)
            else:
                child = _fork(lambda: _daemonize(tree, writer))
        finally:
            os.close(writer)
        os.waitpid(child, 0)
        reply = pipe.read()
    if not reply:
        raise MountError(f"cannot mount by FUSE: {tree.target}: the server process died")
    outcome = pickle.loads(reply)  # noqa: S301 - our own child wrote it
    if isinstance(outcome, BaseException):
        raise outcome
    pid, note = outcome
    return int(pid), note


def _start_python(tree: ServedTree, writer: int) -> int:
    """Start an interpreter that calls `serve_stdin`; return its PID.

    A fork would copy locks that other threads hold (fork(2), "Notes").
    """
    reader, request = os.pipe()
    with os.fdopen(request, "wb") as pipe:
        try:
            child = process.start_python(
                "from stacker.fuse import daemon; daemon.serve_stdin()",
                stdin=reader,
                stdout=writer,
            )
        finally:
            os.close(reader)
        with suppress(BrokenPipeError):  # the reply is missing, which says that it died
            pickle.dump(tree, pipe)
            pipe.flush()
    return child


def serve_stdin() -> None:
    """Serve the tree that stdin has as a pickle, in the background; send the outcome to stdout."""
    with os.fdopen(0, "rb", closefd=False) as request:
        tree = pickle.load(request)  # noqa: S301 - the process that started this one wrote it
    _daemonize(tree, 1)


def _fork(run: Callable[[], None]) -> int:
    """Fork a child that calls a function and exits; return its PID."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run()
        code = 0
    finally:
        os._exit(code)


def _daemonize(tree: ServedTree, writer: int) -> None:
    """Leave the caller's session and working directory, and close its descriptors and locks."""
    os.setsid()
    os.chdir("/")
    if writer != 3:
        os.dup2(writer, 3)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 3:
            with suppress(OSError):  # the descriptor of this listing is closed by now
                os.close(int(name))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.close(null)
    _fork(lambda: _serve(3, tree))


def _serve(writer: int, tree: ServedTree) -> None:
    """Mount, send the outcome to the caller, and supervise until the mount is gone."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    daemon = Daemon(tree)
    try:
        note = daemon.mount()
        daemon.start_workers(writer)
    except (OSError, StackerError) as error:
        daemon.unmount()
        os.write(writer, pickle.dumps(error))
        return
    try:
        os.write(writer, pickle.dumps((os.getpid(), note)))
    except OSError:  # the caller died and recorded no mount
        daemon.unmount()
    os.close(writer)
    daemon.supervise()


class Daemon:
    """The supervisor of a mount: call `mount`, then `start_workers`, then `supervise`.

    :param tree: the tree to serve.
    """

    def __init__(self, tree: ServedTree) -> None:
        self._tree = tree
        self._service: Service
        self._connection = self._upper = -1
        self._mounted: _Identity | None = None
        self._workers: set[int] = set()
        self._signals: set[signal.Signals] = set(_SIGNALS)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # in the foreground
            self._signals.add(signal.SIGHUP)

    def start_workers(self, *unused: int) -> None:
        """Fork the workers.

        :param unused: descriptors that the workers close.
        """
        while len(self._workers) < worker_count(self._tree):
            self._start_worker(*unused)
        if not self._tree.read_only:  # the kernel then ends the mount when the worker dies
            os.close(self._connection)

    def supervise(self) -> None:
        """Replace dead workers until the mount is gone."""
        self._lock_upper()
        self._wait_for_workers()

    def mount(self) -> str | None:
        """Mount; signals stay blocked until `supervise`.

        :returns: a note for the user.
        :raises OSError: from the kernel.
        :raises StackerError: the mount failed for another reason.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        tree = self._tree
        adapter = load_adapter(tree)
        gc.disable()  # the tree has no cycles, and a collection would double the time to build it
        merged = _merge(tree)
        if tree.read_only and not tree.options.keeps_owners:
            merged = merged.with_owners(tree.options.users.in_mount, tree.options.groups.in_mount)
        self._service = adapter(merged)
        gc.freeze()
        writable = None if tree.read_only else tree.upper
        if tree.overlay is not None:
            writable = tree.overlay.upper
        if writable is not None:
            with FileDescriptor.open_directory(writable) as upper:
                self._upper = os.open(b".", _LIST, dir_fd=upper.number)
        self._connection = connect.connect(tree, merged.mode(ROOT))
        found = mountinfo.at(tree.target)
        if found is not None and found.fstype.startswith("fuse"):
            self._mounted = _identity(found)
        try:
            note = self._service.begin(self._connection)
        except BaseException:
            self.unmount()
            raise
        connect.raise_read_ahead(tree)
        return note

    def _lock_upper(self) -> None:
        """Hold a lock on the upper directory until the last process of this mount ends.

        The process that makes the mount holds an exclusive lock until it has written the record
        (`stacker.mount.upper_directory`), so this call waits.  The worker inherits the descriptor
        and with it the lock, which therefore also covers a mount that was detached.
        """
        if self._upper >= 0:
            fcntl.flock(self._upper, fcntl.LOCK_SH)

    def _start_worker(self, *unused: int) -> None:
        self._workers.add(_fork(lambda: self._work(unused)))

    def _work(self, unused: tuple[int, ...]) -> None:
        if not self._tree.read_only:  # the supervisor cannot replace this worker
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            gc.enable()  # frozen objects cost nothing, and this process may live for months
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        for descriptor in unused:
            os.close(descriptor)
        self._service.serve(self._channel())

    def _channel(self) -> int:
        """Return a channel of this process; the supervisor keeps the one that it is cloned from."""
        channel = connect.clone(self._connection)
        if channel != self._connection:
            os.close(self._connection)
        return channel

    def _wait_for_workers(self) -> None:
        while self._workers:
            if signal.sigwait(self._signals) != signal.SIGCHLD:
                self.unmount()
                continue
            while self._workers:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                self._workers.discard(pid)
                if status and self._tree.read_only and connect.is_alive(self._connection):
                    time.sleep(_RESTART_PAUSE)
                    self._start_worker()

    def unmount(self) -> None:
        """Detach the mount, and the overlay above it, at every mount point.

        Processes that use it can finish.
        """
        overlay = None if self._tree.overlay is None else self._tree.overlay.source
        for mount in mountinfo.read().mounts:
            if _identity(mount) != self._mounted and mount.source != overlay:
                continue
            with suppress(OSError, StackerError):
                if process.has_capability(process.CAP_SYS_ADMIN):
                    flags = mountapi.UMOUNT_NOFOLLOW | mountapi.MNT_DETACH
                    mountapi.umount2(mount.mount_point, flags)
                else:
                    connect.disconnect(mount.mount_point, lazy=True)


_Identity = tuple[tuple[int, int], str, str]


def _identity(mount: MountInfo) -> _Identity:
    """Return values that identify a mount: the kernel reuses device numbers alone."""
    return mount.device, mount.fstype, mount.source


def _merge(tree: ServedTree) -> LowerTree:
    """Map the index, or read and merge the layers.

    :raises OSError: from the kernel, with the path that the caller gave.
    """
    if tree.merged is not None:
        from stacker.tree.indexed import open_index  # each mount needs one of both modules

        return open_index(tree.merged, tree.whiteout_format)
    from stacker.tree.merged import merge, tree_of

    layers = tree.layers
    if tree.read_only and tree.upper is not None:
        layers = (tree.upper, *layers)
    opened = [_opened(layer) for layer in layers]
    try:
        return merge(opened, tree.whiteout_format)
    except OSError as error:
        name = path_of(error)
        for layer, source in zip(map(tree_of, layers), map(tree_of, opened), strict=True):
            inside = name.removeprefix(f"{source}/")
            if layer != source and inside != name:
                raise OSError(error.errno, error.strerror, str(layer / inside)) from error
        raise


def _opened(layer: LayerPaths | Path) -> LayerPaths | Path:
    """Return a path to a directory that is valid for the life of this process.

    The mount may cover the directory, and a chain that is built again takes the place of the old
    one.  Another program may pass a mount of its own and unmount it as soon as this mount exists
    (the idmapped mounts of containers/storage).
    """
    if not isinstance(layer, Path):
        return layer
    opened = os.open(layer, os.O_PATH | os.O_DIRECTORY)
    return Path(os.fsdecode(opath.proc_path(opened)))
