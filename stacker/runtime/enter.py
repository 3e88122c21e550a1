"""Enter a root filesystem, and become the process of a container.

A `Container` comes in; the program replaces this process, or a failure is written to a pipe.  This
process is PID 1 of a PID namespace, and has one thread.  It imports nothing after it has left the
host's root filesystem.

`stacker.runtime.rootfs` makes the mounts.  The working directory is entered after all descriptors
of the host are closed (CVE-2024-21626).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from stacker.errors import IntegrityError, MountError, StackerError, StartError
from stacker.linux import mountapi, namespaces, process
from stacker.runtime.rootfs import enter_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.runtime.chroot import Container
    from stacker.runtime.process import Process
    from stacker.runtime.spec import Settings
    from stacker.runtime.streams import Streams

_NO_EXECUTABLE, _NOT_FOUND = 126, 127
_UMASK = 0o022
_HEAD, _INTERPRETERS = 256, 6  # BINPRM_BUF_SIZE; more than the depth in exec_binprm, fs/exec.c


def main(source: int, report: int) -> NoReturn:
    """Enter the container that a pipe describes; this interpreter has its streams.

    :param source: descriptor of a pipe with a pickled `Container` and whether it has a terminal.
    :param report: as for `enter`.
    """
    import pickle

    from stacker.runtime.streams import Streams

    with open(source, "rb") as file:
        container, terminal = pickle.load(file)  # noqa: S301 - the parent process wrote it
    enter(container, Streams((0, 1, 2), terminal=terminal), report)


def enter(container: Container, streams: Streams, report: int) -> NoReturn:
    """Replace this process by the program of a container.

    :param report: descriptor of a pipe; it gets the failure, or is closed by execve(2).
    """
    try:
        report = _take_streams(streams, report)
        _end_with_parent(report)
        _enter_namespaces(container.settings)
        settings, cwd = container.settings, container.process.cwd
        enter_root(container.root, settings, cwd, terminal=streams.terminal)
        os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
        _become(container.process, report)
        _execute(container.process)
    except StackerError as error:
        failure = error
    except OSError as error:
        failure = MountError(f"cannot start a process: {error.strerror}: {error.filename}")
    except BaseException as error:  # noqa: BLE001 - the parent reports it
        failure = StackerError(f"cannot start a process: {type(error).__name__}: {error}")
    with suppress(OSError):
        os.write(report, encode_failure(failure))
    os._exit(1)


def encode_failure(failure: StackerError) -> bytes:
    """Return a failure as bytes; `decode_failure` reads them."""
    kind = type(failure).__name__
    words = (kind, str(failure.exit_code), failure.message, failure.hint or "")
    return "\0".join(words).encode(errors="surrogateescape")


def decode_failure(raw: bytes) -> StackerError:
    """Return the failure that `encode_failure` wrote."""
    kind, code, message, hint = raw.decode(errors="surrogateescape").split("\0")
    kinds: dict[str, type[StackerError]] = {
        each.__name__: each for each in (IntegrityError, MountError, StartError)
    }
    failure = kinds.get(kind, StackerError)(message, hint=hint or None)
    failure.exit_code = int(code)
    return failure


def _take_streams(streams: Streams, report: int) -> int:
    """Make the streams descriptors 0 to 2, and the report descriptor 3; return the latter."""
    with suppress(PermissionError):  # posix_spawn(3) has made the session
        os.setsid()
    numbers = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (*streams.numbers, report)]
    for number, copy in enumerate(numbers):
        os.dup2(copy, number, inheritable=number < 3)
    if streams.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    return 3


def _end_with_parent(report: int) -> None:
    """Make the kernel kill this process when its parent ends, or end if the parent is gone."""
    process.set_parent_death_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(report, 0)
    if poll.poll(0):  # POLLERR: the reader is closed
        os._exit(1)


def _enter_namespaces(settings: Settings) -> None:
    flags = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
    if settings.network == "none":
        flags |= namespaces.CLONE_NEWNET
    namespaces.unshare(flags)
    mountapi.mount("none", "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)
    namespaces.set_hostname(settings.hostname)
    if settings.network == "none":
        namespaces.bring_up_loopback()


def _become(wanted: Process, report: int) -> None:
    """Take the IDs, capabilities, limits and working directory of a process."""
    for limit in wanted.rlimits:
        number = getattr(resource, f"RLIMIT_{limit.name}")
        resource.setrlimit(number, (limit.soft, limit.hard))
    namespaces.limit_bounding_set(wanted.capabilities)
    _take_ids(wanted)
    namespaces.set_capabilities(wanted.effective)
    if wanted.no_new_privileges:
        namespaces.set_no_new_privileges()
    _end_with_parent(report)  # a change of IDs cancels the signal
    _enter_working_directory(wanted.cwd)
    os.umask(_UMASK)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)


def _take_ids(wanted: Process) -> None:
    user = wanted.user
    try:
        _set_groups(user.additional_gids)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        raise MountError(
            f"cannot become user {user.uid}:{user.gid}: the user namespace lacks one of the IDs:"
            f" {error.strerror}",
            hint="run the command as root, or with --user 0",
        ) from error


def _set_groups(groups: Sequence[int]) -> None:
    try:
        os.setgroups(groups)
    except PermissionError:
        # A user namespace with a single group ID cannot drop the groups of its user.
        if groups or process.in_initial_user_namespace():
            raise


def _enter_working_directory(path: str) -> None:
    try:
        os.chdir(path)
        if os.getcwd().startswith("/"):  # otherwise outside of the root: getcwd(3), "unreachable"
            return
        reason = "it is outside of the root filesystem"
    except OSError as error:
        reason = str(error.strerror)
    raise _failed(f"cannot enter working directory: {path}: {reason}", _NO_EXECUTABLE)


def _execute(wanted: Process) -> NoReturn:
    """Replace this process by the program, which is searched in the PATH of its environment."""
    own = os.stat("/proc/self/exe")
    variables = dict(entry.split("=", 1) for entry in wanted.env)
    name, denied = wanted.args[0], None
    candidates = [name] if "/" in name else _candidates(name, variables.get("PATH", ""))
    for path in candidates:
        if _starts(path, own):
            raise _failed(f"unsafe program: {path}: it is stacker's interpreter", _NO_EXECUTABLE)
        try:
            os.execve(path, wanted.args, variables)  # noqa: S606 - the program of the container
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            denied = denied or error
            if error.errno != errno.EACCES:
                break
    if denied is not None:
        raise _failed(f"cannot execute: {name}: {denied.strerror}", _NO_EXECUTABLE)
    raise _failed(f"command not found: {name}: the image has no such program", _NOT_FOUND)


def _starts(path: str, program: os.stat_result) -> bool:
    """Return whether a path, or its interpreter after ``#!``, is a program of the host.

    A link such as /proc/self/exe leads to the interpreter of this process.  A program of the
    container that runs it could then write to the host's file (CVE-2019-5736).
    """
    for _ in range(_INTERPRETERS):
        with suppress(OSError):
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            with open(file, "rb") as opened:
                if os.path.samestat(os.fstat(file), program):
                    return True
                head = opened.read(_HEAD)
            if words := head[2:].split(b"\n")[0].split() if head[:2] == b"#!" else []:
                path = os.fsdecode(words[0])
                continue
        return False
    return False


def _candidates(name: str, path: str) -> list[str]:
    return [f"{directory or '.'}/{name}" for directory in path.split(":")]


def _failed(text: str, code: int) -> StartError:
    failure = StartError(text)
    failure.exit_code = code
    return failure
