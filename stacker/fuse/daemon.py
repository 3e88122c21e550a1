"""The processes behind a FUSE mount: one that looks after it, and workers that answer.

In comes a plan; when `start` returns, the mount answers, and whatever stood in its way was raised.
A tree that does not change is built once and shared by all workers, which were forked from the
same process; each has a channel of its own, so that the kernel fails what a dead worker had taken
and a new one goes on.  A tree that takes writes has one worker, and dies with it: nobody else knows
what the kernel has been told.  They leave when the mount is gone; SIGTERM takes it away.
"""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import signal
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import MountError, StackerError
from stacker.fuse import connect
from stacker.fuse.adapters import form_of, service_of, workers
from stacker.linux import mountapi, mountinfo, opath, process
from stacker.tree.merged import merge, tree_of
from stacker.tree.protocol import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.fuse.adapters import Service
    from stacker.mount.plan import Plan
    from stacker.tree.merged import MergedTree

_PAUSE: Final = 0.05
"""Seconds before a dead worker is replaced, so that a request that kills them costs little."""
_SIGNALS: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def start(plan: Plan) -> tuple[int, str | None]:
    """Mount a plan in the background.

    :returns: the number of the process that looks after it, and what a person should know.
    :raises OSError: as the kernel says.
    :raises StackerError: what else stood in the way.
    """
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as answer:
        try:
            child = _forked(lambda: _leave(plan, writer))
        finally:
            os.close(writer)
        os.waitpid(child, 0)
        said = answer.read()
    if not said:
        raise MountError(f"cannot mount by FUSE: {plan.target}: the process that serves it died")
    outcome = pickle.loads(said)  # noqa: S301 - our own child wrote it
    if isinstance(outcome, BaseException):
        raise outcome
    number, note = outcome
    return int(number), note


def _forked(run: Callable[[], None]) -> int:
    """Fork a process that does one thing and returns to nobody."""
    with warnings.catch_warnings():
        # Python warns where other threads could hold locks; the child touches nothing of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        run()
        code = 0
    finally:
        os._exit(code)


def _leave(plan: Plan, writer: int) -> None:
    """Leave the caller: its session, its directory, its descriptors (and with them its locks)."""
    os.setsid()
    os.chdir("/")
    if writer != 3:
        os.dup2(writer, 3)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 3:
            with suppress(OSError):  # the one that listed them is gone
                os.close(int(name))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.close(null)
    _forked(lambda: _serve_for(3, plan))


def _serve_for(writer: int, plan: Plan) -> None:
    """Mount, tell the caller, and stay until the mount is gone."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    daemon = Daemon(plan)
    try:
        note = daemon.mount()
    except (OSError, StackerError) as error:
        os.write(writer, pickle.dumps(error))
        return
    daemon.hire(writer)
    try:
        os.write(writer, pickle.dumps((os.getpid(), note)))
    except OSError:  # the caller is gone, and nobody knows of this mount
        daemon.unmount()
    os.close(writer)
    daemon.stay()


class Daemon:
    """The process that looks after a mount: `mount`, then `hire`, then `stay`.

    :param plan: the mount.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._service: Service
        self._connection = self._upper = -1
        self._device: tuple[int, int] | None = None
        self._workers: set[int] = set()
        self._signals: set[signal.Signals] = set(_SIGNALS)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # in the foreground
            self._signals.add(signal.SIGHUP)

    def hire(self, *closed: int) -> None:
        """Start the workers.

        :param closed: descriptors that they have no use for.
        """
        while len(self._workers) < workers(self._plan):
            self._hire(*closed)
        if not self._plan.read_only:  # so that the mount is dead when its worker is
            os.close(self._connection)

    def stay(self) -> None:
        """Look after the mount until it is gone."""
        self._claim_upper()
        self._look_after()

    def mount(self) -> str | None:
        """Mount; signals wait until `stay`.

        :returns: what a person should know.
        :raises OSError: as the kernel says.
        :raises StackerError: what else stands in the way.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        plan = self._plan
        serve = service_of(plan)
        gc.disable()  # nothing here has cycles, and looking for them takes as long as the rest
        tree = _merged(plan)
        if plan.read_only and plan.guise is not None and not plan.guise.owners_as_they_are:
            tree = tree.owned(plan.guise.users.shown, plan.guise.groups.shown)
        self._service = serve(tree)
        gc.freeze()
        if not (plan.read_only or plan.upper is None):
            self._upper = os.open(plan.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._connection = connect.connect(plan, tree.mode(ROOT))
        found = mountinfo.at(plan.target)
        if found is not None and found.fstype.startswith("fuse"):
            self._device = found.device
        try:
            note = self._service.begin(self._connection)
        except BaseException:
            self.unmount()
            raise
        connect.read_further_ahead(plan)
        return note

    def _claim_upper(self) -> None:
        """Hold the directory that keeps the writes as long as anybody answers, mounted or detached.

        Whoever made the mount has a lock on it until it is written down (`mount.upper`), so this
        waits; the worker has the descriptor too, and with it the lock.
        """
        if self._upper >= 0:
            fcntl.flock(self._upper, fcntl.LOCK_SH)

    def _hire(self, *closed: int) -> None:
        self._workers.add(_forked(lambda: self._work(closed)))

    def _work(self, closed: tuple[int, ...]) -> None:
        if not self._plan.read_only:  # nobody can take this one's place; it leaves with the mount
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            gc.enable()  # what is frozen costs nothing, and this process may live for months
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        for descriptor in closed:
            os.close(descriptor)
        self._service.serve(self._channel())

    def _channel(self) -> int:
        """Give a channel of this process's own; the one it is cloned from stays with the parent."""
        channel = connect.clone(self._connection)
        if channel != self._connection:
            os.close(self._connection)
        return channel

    def _look_after(self) -> None:
        """Replace workers that die, until they leave because the mount is gone."""
        while self._workers:
            if signal.sigwait(self._signals) != signal.SIGCHLD:
                self.unmount()
                continue
            while self._workers:
                number, status = os.waitpid(-1, os.WNOHANG)
                if not number:
                    break
                self._workers.discard(number)
                if status and self._plan.read_only:
                    time.sleep(_PAUSE)
                    self._hire()

    def unmount(self) -> None:
        """Detach the mount wherever it is; who uses it may finish."""
        for mount in mountinfo.read().mounts:
            if mount.device != self._device:
                continue
            with suppress(OSError, StackerError):
                if process.has_capability(process.CAP_SYS_ADMIN):
                    flags = mountapi.UMOUNT_NOFOLLOW | mountapi.MNT_DETACH
                    mountapi.umount2(mount.mount_point, flags)
                else:
                    connect.disconnect(mount.mount_point, lazy=True)


def _merged(plan: Plan) -> MergedTree:
    """Read the directories of a plan.

    :raises OSError: as the kernel says, with the path as the plan has it.
    """
    known = {source.diff: source for source in plan.sources}
    shown = plan.layers
    if plan.read_only and plan.upper is not None:  # one more layer, then
        shown = (plan.upper, *shown)
    sources = [known.get(layer) or _held(layer, plan) for layer in shown]
    try:
        return merge(sources, form_of(plan))
    except OSError as error:
        for layer, source in zip(shown, sources, strict=True):
            inside = os.fsdecode(error.filename or b"").removeprefix(f"{tree_of(source)}/")
            if layer != tree_of(source) and inside != os.fsdecode(error.filename or b""):
                raise OSError(error.errno, error.strerror, str(layer / inside)) from error
        raise


def _held(layer: Path, plan: Plan) -> Path:
    """Give a path that leads to a directory as long as this process lives.

    The mount may cover it; and what other programs hand over may be a mount of theirs that they
    take away as soon as this one is there (containers/storage's idmapped ones).
    """
    if not (plan.foreign or layer.is_relative_to(plan.target)):
        return layer
    held = os.open(layer, os.O_PATH | os.O_DIRECTORY)
    return Path(os.fsdecode(opath.proc_path(held)))
