"""Enter a root filesystem, and become the process of a container.

A `Container` comes in; the program replaces this process, or a failure is written to a pipe.  This
process is PID 1 of a PID namespace, and has one thread.  It imports nothing after it has left the
host's root filesystem.

The image's author chooses every name in the root filesystem.  Each mount point is opened one
component after another without following a symlink, and each mount is attached to that descriptor,
so no exchanged name redirects it (CVE-2019-19921, CVE-2021-30465).  Masks are attached to
descriptors inside of the new /proc and /sys (CVE-2025-52881).  The working directory is entered
after all descriptors of the host are closed (CVE-2024-21626).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from stacker.errors import IntegrityError, MountError, StackerError, StartError
from stacker.linux import mountapi, namespaces, process, safe_path
from stacker.linux.mountapi import FileDescriptor
from stacker.runtime.mounts import MASKED, READ_ONLY, STANDARD, Mount
from stacker.runtime.root import MOUNT_POINTS, Root

if TYPE_CHECKING:
    from stacker.runtime.chroot import Container
    from stacker.runtime.process import Process
    from stacker.runtime.spec import Settings
    from stacker.runtime.streams import Streams

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_ATTRIBUTES = {"ro": 0x01, "nosuid": 0x02, "nodev": 0x04, "noexec": 0x08, "noatime": 0x10}
"""``MOUNT_ATTR_*`` flags by their names in mount options."""
_IGNORED = {"rw", "suid", "dev", "exec", "atime", "relatime", "strictatime"}
_NO_EXECUTABLE, _NOT_FOUND = 126, 127
_UMASK = 0o022
_HEAD, _INTERPRETERS = 256, 6  # BINPRM_BUF_SIZE; more than the depth in exec_binprm, fs/exec.c
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


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
        _enter_root(container, streams)
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
    import select

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


def _enter_root(container: Container, streams: Streams) -> None:
    settings, cwd = container.settings, container.process.cwd
    os.umask(0)
    with FileDescriptor.open_directory(container.root) as point:
        root = mountapi.open_tree(point.path)
        mountapi.move_mount(root, point.number, path=container.root)
    for mount in STANDARD:
        if mount.kind != "cgroup":
            _mount(root, mount)
    _fill_dev(root, terminal=streams.terminal)
    for mount in settings.mounts:
        _mount(root, mount)
    for path in MASKED:
        _mask(root, path)
    for path in READ_ONLY:
        _protect(root, path)
    os.close(_directory(root, cwd))
    if settings.read_only:
        mountapi.mount_setattr(root, set_flags=mountapi.MOUNT_ATTR_RDONLY)
    namespaces.pivot_root(root)


def _mount(root: int, mount: Mount) -> None:
    """Make one mount in the root filesystem."""
    try:
        with FileDescriptor(_detached(mount)) as made:
            is_directory = stat.S_ISDIR(os.fstat(made.number).st_mode)
            with FileDescriptor(_target(root, mount.destination, directory=is_directory)) as point:
                mountapi.move_mount(made.number, point.number)
    except OSError as error:
        raise MountError(
            f"cannot mount {mount.source} in the container: {mount.destination}: {error.strerror}"
        ) from error


def _detached(mount: Mount) -> int:
    flags = sum({_ATTRIBUTES[word] for word in mount.options if word in _ATTRIBUTES})
    if mount.kind == "bind":
        made = mountapi.open_tree(mount.source, recursive="rbind" in mount.options)
        if flags:
            mountapi.mount_setattr(made, set_flags=flags, recursive=True)
        return made
    return _filesystem(mount, flags)


def _filesystem(mount: Mount, flags: int) -> int:
    with FileDescriptor(mountapi.fsopen(mount.kind)) as context:
        mountapi.fsconfig_string(context.number, "source", mount.source)
        for word in mount.options:
            key, equals, value = word.partition("=")
            if equals:
                mountapi.fsconfig_string(context.number, key, value)
            elif word not in _ATTRIBUTES and word not in _IGNORED:
                mountapi.fsconfig_flag(context.number, word)
        mountapi.fsconfig_create(context.number)
        return mountapi.fsmount(context.number, attributes=flags)


def _target(root: int, path: str, *, directory: bool) -> int:
    """Open a mount point in the root filesystem with ``O_PATH``; create it if it is missing."""
    resolved = Root(root).resolve(path)
    if resolved != path and path.startswith(MOUNT_POINTS):
        raise IntegrityError(
            f"unsafe mount point in the image: {path}: got a symlink to {resolved},"
            " want a directory"
        )
    if directory:
        return _directory(root, resolved)
    above, _, name = resolved.rpartition("/")
    with FileDescriptor(_directory(root, above)) as parent:
        with suppress(FileExistsError):
            os.close(os.open(name, _NEW, 0o644, dir_fd=parent.number))
        return os.open(name, _PIN, dir_fd=parent.number)


def _directory(root: int, path: str) -> int:
    """Open a directory in the root filesystem, and create what is missing of it.

    :param path: absolute in the root, and without symlinks.
    """
    here = os.open(b".", _PIN | os.O_DIRECTORY, dir_fd=root)
    for name in path.split("/"):
        if name not in {"", "."}:
            above = here
            try:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=above)
                here = os.open(name, _PIN | os.O_DIRECTORY, dir_fd=above)
            finally:
                os.close(above)
    return here


def _fill_dev(root: int, *, terminal: bool) -> None:
    """Create the devices and links that programs expect (runtime-spec, "Default Devices")."""
    nodes = {name: f"/dev/{name}" for name in _DEVICES}
    if terminal:
        nodes["console"] = os.ttyname(0)
    with FileDescriptor(_directory(root, "/dev")) as dev:
        for name, source in nodes.items():
            os.close(os.open(name, _NEW, 0o666, dir_fd=dev.number))
            with (
                FileDescriptor(mountapi.open_tree(source)) as node,
                FileDescriptor(os.open(name, _PIN, dir_fd=dev.number)) as point,
            ):
                mountapi.move_mount(node.number, point.number)
        for name, link in _LINKS.items():
            os.symlink(link, name, dir_fd=dev.number)


def _mask(root: int, path: str) -> None:
    """Make a file or directory of /proc or /sys appear empty."""
    point = _existing(root, path)
    if point is None:
        return
    with FileDescriptor(point):
        if stat.S_ISDIR(os.fstat(point).st_mode):
            empty = _filesystem(Mount(path, "tmpfs", "tmpfs", ("size=0k",)), _ATTRIBUTES["ro"])
        else:
            empty = mountapi.open_tree("/dev/null")
        with FileDescriptor(empty):
            mountapi.move_mount(empty, point)


def _protect(root: int, path: str) -> None:
    """Make a file or directory of /proc read-only."""
    point = _existing(root, path)
    if point is None:
        return
    with (
        FileDescriptor(point) as found,
        FileDescriptor(mountapi.open_tree(found.path, recursive=True)) as copy,
    ):
        mountapi.mount_setattr(copy.number, set_flags=mountapi.MOUNT_ATTR_RDONLY, recursive=True)
        mountapi.move_mount(copy.number, point)


def _existing(root: int, path: str) -> int | None:
    try:
        return safe_path.open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        raise


def _become(wanted: Process, report: int) -> None:
    """Take the IDs, capabilities, limits and working directory of a process."""
    for limit in wanted.rlimits:
        number = getattr(resource, f"RLIMIT_{limit.name}")
        resource.setrlimit(number, (limit.soft, limit.hard))
    namespaces.limit_bounding_set(wanted.capabilities)
    os.setgroups(wanted.user.additional_gids)
    os.setresgid(*[wanted.user.gid] * 3)
    os.setresuid(*[wanted.user.uid] * 3)
    namespaces.set_capabilities(wanted.effective)
    if wanted.no_new_privileges:
        namespaces.set_no_new_privileges()
    _end_with_parent(report)  # a change of IDs cancels the signal
    _enter_working_directory(wanted.cwd)
    os.umask(_UMASK)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)


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
