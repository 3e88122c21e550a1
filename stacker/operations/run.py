"""Run a process in the root filesystem of an image.

A store, an image's name and a `RunRequest` come in; the exit code of the process goes out.  The
root filesystem is a mount in a directory of its own, whose writes are discarded when the process
has ended.  If this process is killed, the next command that lists or makes such a mount removes it.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.errors import MountError, StackerError, UnsupportedError
from stacker.mount.attach import attach_for_run
from stacker.mount.plan import MountRequest
from stacker.mount.table import Table
from stacker.operations.mount import mount_flags, stacked_image
from stacker.runtime.process import Overrides, make_process
from stacker.runtime.root import Root
from stacker.runtime.spec import Settings, runtime_config
from stacker.runtime.streams import Streams, Terminal, new_terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Self

    from stacker.image.config import ImageConfig
    from stacker.linux.lock import Lock
    from stacker.mount.record import MountRecord
    from stacker.operations.durability import Restore
    from stacker.runtime.process import Process
    from stacker.store.store import Store

    Handler = Callable[[int, FrameType | None], object] | int | None

RUNTIMES: Final = ("auto", "runc", "crun", "chroot")
"""The values of ``--runtime``."""
_FORWARDED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1),
    *(signal.SIGUSR2, signal.SIGALRM, signal.SIGCONT, signal.SIGWINCH),
)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The request of a caller.

    :param overrides: the changes of the image's process.
    :param settings: of the container; an empty host name is the short image ID.
    :param runtime: one of `RUNTIMES`; ``auto`` is the first of them that is installed.
    :param runtime_flags: global options of the OCI runtime.
    :param driver: a mount driver's name, or ``auto``.
    :param keep: keep the mount and its writes after the end of the process.
    """

    overrides: Overrides = field(default_factory=Overrides)
    settings: Settings = field(default_factory=Settings)
    runtime: str = "auto"
    runtime_flags: tuple[str, ...] = ()
    driver: str = "auto"
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended.

    :param exit_code: its exit code; 128 plus the signal's number if a signal killed it.
    :param record: the mount of its root filesystem, which exists only if the request keeps it.
    """

    exit_code: int
    record: MountRecord


def run_image(
    store: Store,
    name: str,
    request: RunRequest,
    given: tuple[int, int, int],
    *,
    restore: Restore | None = None,
    forward_signals: bool = False,
) -> Finished:
    """Run a process in an image, and wait for its end.

    :param name: an image ID, a unique prefix of one, or a name.
    :param given: the descriptors of the caller for stdin, stdout and stderr.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :param forward_signals: send the signals of this process to the container's process; only the
        main thread can.
    :raises NotFoundError: the store lacks the image, or the machine the runtime.
    :raises UsageError: there is no command, or a value is malformed.
    :raises IntegrityError: a file of the image is unsafe to use.
    :raises StartError: the program is missing, or cannot be executed.
    :raises MountError: every driver fails, or the kernel refuses.
    """
    command = _command(request)
    table = Table(store.mounts)
    mounting = MountRequest(
        target=Path("/"),
        driver=request.driver,
        read_only=False,
        flags=mount_flags(["nodev"]),  # a device node of an image gives access to the host
    )
    with stacked_image(store, name, restore) as image:
        config = store.images.config(store.images.find(image.id))
        record, _, held = attach_for_run(table, mounting, image, command or ())
    kept = False
    try:
        run = _Run(table, record, request, config, command)
        code = run.execute(given, forward_signals=forward_signals)
        kept = request.keep
    finally:
        _end(table, record, held, keep=kept)
    return Finished(code, record)


def enter_user_namespace(request: RunRequest) -> RunRequest:
    """Move this process to a user namespace where it may mount, and return the request for it.

    The mount ends with this process, so it cannot be kept.

    :raises UnsupportedError: the request needs root.
    :raises MountError: the kernel permits no user namespace.
    """
    from stacker.linux import namespaces

    if request.keep:
        raise UnsupportedError("--keep requires root", hint="omit --keep")
    if request.runtime not in {"auto", "chroot"}:
        raise UnsupportedError(
            f"--runtime {request.runtime} requires root", hint="use --runtime chroot"
        )
    try:
        namespaces.enter_user_namespace()
    except OSError as error:
        raise MountError(
            f"cannot run without root: the kernel permits no user namespace: {error.strerror}",
            hint="run the command as root, or see user_namespaces(7) for the limits",
        ) from error
    return replace(request, runtime="chroot")


@dataclass(frozen=True, slots=True)
class _Run:
    """A mounted root filesystem, and what runs in it.

    :param command: the OCI runtime and its options; ``None`` to run without one.
    """

    table: Table
    record: MountRecord
    request: RunRequest
    config: ImageConfig
    command: tuple[str, ...] | None

    def execute(self, given: tuple[int, int, int], *, forward_signals: bool) -> int:
        """Start the process, wait for its end, and return its exit code."""
        with Root.open(self.record.target) as root:
            root.require_mount_points()
            process = make_process(self.config.execution, self.request.overrides, root)
        with ExitStack() as held:
            terminal, streams = None, Streams(given)
            if process.terminal:
                terminal, streams = held.enter_context(
                    new_terminal(given[:2], raw=bool(self.command))
                )
            forwarding = held.enter_context(_Forwarding()) if forward_signals else None
            pid, fail = self._start(process, streams)
            try:
                if forwarding is not None:
                    forwarding.begin(pid, terminal)
                if terminal is not None:
                    terminal.copy_until_exit(pid)
                code = _wait(pid)
            except BaseException:
                self._kill(pid)
                raise
        if code and (failure := fail()) is not None:
            raise failure
        return code

    def _start(
        self, process: Process, streams: Streams
    ) -> tuple[int, Callable[[], StackerError | None]]:
        """Start the process; return a process ID, and a function that returns why it failed."""
        if self.command is None:
            from stacker.runtime.chroot import Container, start

            container = Container(self.record.target, process, self._settings)
            pid = start(container, streams, self._clear_others)
            self.table.write_process(self.record.id, pid)
            return pid, lambda: None
        from stacker.runtime.oci import Runtime
        from stacker.runtime.seccomp import read_profile

        runtime = Runtime(self.command, self.table.directory / self.record.id)
        document = runtime_config(self.config, process, self._settings, read_profile())
        (runtime.bundle / "config.json").write_bytes(document)
        pid = runtime.start(streams)
        try:
            self._clear_others()
        except BaseException:
            self._kill(pid)
            raise
        return pid, lambda: runtime.failure(process.args[0])

    @property
    def _settings(self) -> Settings:
        short = self.record.image.removeprefix("sha256:")[:12]
        settings = self.request.settings
        return replace(settings, hostname=settings.hostname or short)

    def _clear_others(self) -> None:
        """Remove what killed commands left, while the process starts."""
        from stacker.mount.detach import clear_stale

        with suppress(StackerError):  # a command that lists mounts reports it
            clear_stale(self.table)

    def _kill(self, pid: int) -> None:
        if self.command:
            from stacker.runtime.oci import Runtime

            Runtime(self.command, self.table.directory / self.record.id).delete()
        from stacker.runtime.chroot import end

        end(pid)


def _command(request: RunRequest) -> tuple[str, ...] | None:
    """Return the OCI runtime and its options; ``None`` to run without one."""
    if request.runtime == "chroot":
        return None
    from stacker.runtime.oci import find_runtime

    found = find_runtime(request.runtime)
    if found is None:
        return None
    return (found, *(f"--{flag.lstrip('-')}" for flag in request.runtime_flags))


def _end(table: Table, record: MountRecord, held: Lock, *, keep: bool) -> None:
    from stacker.mount.detach import end_run

    end_run(table, record, held, keep=keep)


def _wait(pid: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


class _Forwarding:
    """Delay the signals of this process during a block, until a child exists that gets them."""

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Handler] = {}

    def begin(self, pid: int, terminal: Terminal | None) -> None:
        """Send all signals from now on to a child, and resize its terminal."""

        def forward(number: int, _: object) -> None:
            if number == signal.SIGWINCH and terminal is not None:
                terminal.resize()
            with suppress(ProcessLookupError):
                os.kill(pid, number)

        for number in _FORWARDED:
            self._handlers[number] = signal.signal(number, forward)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def __enter__(self) -> Self:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a caller may ignore it
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
